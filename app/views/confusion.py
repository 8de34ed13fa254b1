"""Confusion: what the classifier takes for what; a cell shows its examples, each of which opens why it was taken for that."""

from dataclasses import replace

import streamlit as st

from traklens.app import caches
from traklens.app.markup import browse_card, text
from traklens.app.parts import browse, tray
from traklens.app.parts.charts import confusion_table
from traklens.app.state import params_of, read_view
from traklens.engine.explore.confusion import Confusion
from traklens.stores.store import Store

SPLITS = {"heldout": "Held-out", "train": "Training"}
LISTED, SHOWN = 8, 24
CELL = "confusion-cell"
EXPLANATION = """
Each square counts the examples of one **label** (row) that the models, averaged over the checkpoints, **take for** a class
(column); the diagonal is what they get right. Held-out examples are the honest ones: a training example was learned by some
of the checkpoints that judge it.

Choose a square, or one of the confusions listed, to see its examples, the surest first. Opening one asks which training
examples made the models take it for that class rather than for its label.
"""


def show(store: Store) -> None:
    """Draw the page."""
    with st.sidebar:
        browse.header(store, read_view())
        st.html('<div class="tl-quiet">This page is about the whole store, not about one example.</div>')
    splits = [name for name in SPLITS if name == "train" or store.n_heldout]
    split = st.segmented_control(
        "Of which examples",
        splits,
        default=splits[0],
        required=True,
        format_func=SPLITS.__getitem__,
        key="confusion-of",
    )
    found = caches.confusion_of_store(store, str(split))
    st.html(
        f'<div class="tl-quiet">{found.rows.size:,} examples, {found.accuracy:.1%} taken for what their label says.</div>'
    )
    left, right = st.columns([3, 2], gap="medium")
    with left:
        event = st.plotly_chart(
            confusion_table(found.classes, found.table()),
            key=f"confusion-{split}",
            on_select="rerun",
            selection_mode="points",
            config={
                "displaylogo": False,
                "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "toImage"],
            },
            alt="Confusion table: labels as rows, what the models take them for as columns",
        )
    with right:
        _frequent(found)
    for point in event["selection"]["points"][:1]:
        chosen = int(point["y"]), int(point["x"])
        if st.session_state.get("confusion-clicked") != (split, chosen):  # a selection stays; the list may be newer
            st.session_state["confusion-clicked"] = (split, chosen)
            st.session_state[CELL] = chosen
    _cell(store, found, st.session_state.get(CELL))
    with st.expander("What does this table say?", icon=":material/help:"):
        st.markdown(EXPLANATION)


def _frequent(found: Confusion) -> None:
    st.html('<div class="tl-head">Most frequent confusions</div>')
    cells = found.most_frequent(LISTED)
    if not cells:
        st.html('<div class="tl-quiet">None: every example is taken for what its label says.</div>')
    for label, taken, count in cells:
        name = f"{found.classes[label]} taken for {found.classes[taken]}: {count:,}"
        st.button(name, key=f"confused-{label}-{taken}", type="tertiary", on_click=_choose, args=(label, taken))


def _choose(label: int, taken: int) -> None:
    st.session_state[CELL] = (label, taken)


def _cell(store: Store, found: Confusion, cell: tuple[int, int] | None) -> None:
    """The examples of a cell as a grid; each opens its question."""
    if cell is None or max(cell) >= len(found.classes):
        return
    label, taken = (found.classes[number] for number in cell)
    rows = found.cell(*cell)
    said = f"{text(label)} taken for {text(taken)}" if label != taken else f"{text(label)}, taken for that"
    st.html(f'<div class="tl-head">{said}: {rows.size:,}</div>')
    if not rows.size:
        st.html('<div class="tl-quiet">No example of this split.</div>')
        return
    version = caches.pictures(store)
    with st.grid(8, min_column_width=90, gap="xxsmall"):
        for row in rows[:SHOWN].tolist():
            with st.container(key=f"card-confused-{row}"):
                about = store.examples.content(row)
                st.html(browse_card(row, str(store.examples.words[row]), version, False, about))
                if st.button(f"Why was example {row} taken for {taken}?", key=f"why-{row}"):
                    _ask_why(str(store.examples.id[row]), label, taken)


def _ask_why(id: str, label: str, taken: str) -> None:
    """Explore, on this example: why the class it is taken for, rather than its label."""
    wrong = label != taken
    view = replace(read_view(), id=id, caption=taken if wrong else None, contrast=label if wrong else None)
    st.session_state.pop("upload", None)
    st.session_state["view"] = view
    st.switch_page(st.session_state[tray.PAGES]["explore"], query_params=params_of(view))
