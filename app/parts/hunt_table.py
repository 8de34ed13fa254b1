"""The queue as a table: sort, select many, decide at once."""

import numpy as np
import pandas as pd
import streamlit as st

from traklens.app import caches
from traklens.app.markup import picture
from traklens.app.parts.review import recorded
from traklens.engine.label_errors.suspects import Suspects
from traklens.stores.examples import content_fields
from traklens.stores.reviews import DECISIONS, Review, Reviews, seen_of
from traklens.stores.store import Store


def show(store: Store, suspects: Suspects, queue: np.ndarray, decisions: dict[str, Review], reviewer: str) -> None:
    """Draw the table and its decisions on the selected rows."""
    frame = _frame(store, suspects, queue, decisions)
    event = st.dataframe(
        frame.drop(columns="id"),
        key="hunt-table",
        hide_index=True,
        height=560,
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            "image": st.column_config.ImageColumn("image", width="small"),
            "probability": st.column_config.ProgressColumn("probability", format="percent", min_value=0, max_value=1),
        },
    )
    chosen = [str(frame["id"].iloc[i]) for i in event.selection.rows if i < len(frame)]  # type: ignore[attr-defined]

    seen = {id: seen_of(decisions, id) for id in chosen}

    def decide(decision: str) -> None:
        if recorded(lambda: Reviews(store.path).decide(chosen, decision, reviewer=reviewer, seen=seen)):
            st.session_state.pop("hunt-table", None)

    def undo() -> None:
        recorded(lambda: Reviews(store.path).undo(reviewer))

    with st.container(horizontal=True):
        st.html(f'<div class="tl-quiet">{len(chosen):,} selected</div>')
        for decision in DECISIONS:
            st.button(
                decision.capitalize(), key=f"bulk-{decision}", disabled=not chosen, on_click=decide, args=(decision,)
            )
        st.button("Undo", key="bulk-undo", on_click=undo)


def _frame(store: Store, suspects: Suspects, queue: np.ndarray, decisions: dict[str, Review]) -> pd.DataFrame:
    version = caches.pictures(store)
    ids = [str(id) for id in store.examples.id[queue]]
    return pd.DataFrame(
        {
            "id": ids,
            "place": np.arange(1, queue.size + 1),
            "image": [picture(int(row), version) for row in queue],
            **(
                {"text": [store.examples.content(int(row))[:400] for row in queue]}
                if content_fields(store.task)
                else {}
            ),
            store.task.title: [str(words)[:400] for words in store.examples.words[queue]],
            "probability": suspects.probability[queue],
            "decision": [decisions[id].decision if id in decisions else "" for id in ids],
            "corrected": [(decisions[id].caption or "") if id in decisions else "" for id in ids],
        }
    )
