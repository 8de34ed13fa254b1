"""What comes out of a hunt: the curve of what was found, the cleaned training list, the way on to a removal."""

import numpy as np
import streamlit as st

from traklens.app import caches
from traklens.app.parts.charts import found_over_inspected
from traklens.app.words import words_of
from traklens.engine.label_errors.decisions import DROPPED, confirms, corrects
from traklens.engine.label_errors.export import SUFFIXES, export, formats_of
from traklens.engine.label_errors.suspects import Suspects
from traklens.stores.reviews import Review
from traklens.stores.store import Store

FORMAT_NAMES = {
    "open_clip": "Training list (open_clip)",
    "webdataset-keys": "Keys to keep (webdataset)",
    "cleanlab": "Label quality (cleanlab)",
    "fiftyone": "FiftyOne CSV",
    "parquet": "Everything (Parquet)",
    "records": "Training list (JSON lines)",
}


def show(store: Store, suspects: Suspects, decisions: dict[str, Review]) -> None:
    """The export in the sidebar: made when the button is pressed, with every decision up to then."""
    st.html('<div class="tl-head">Export</div>')
    wanted = st.selectbox(
        "Form",
        formats_of(store),
        format_func=FORMAT_NAMES.__getitem__,
        key="export-format",
        label_visibility="collapsed",
    )
    gone, mended = (sum(map(counts, decisions.values())) for counts in (confirms, corrects))
    st.html(f'<div class="tl-quiet">{gone:,} {store.noun} left out, {mended:,} {store.task.title}s corrected</div>')
    st.download_button(
        "Download",
        data=lambda: export(store, suspects, decisions, wanted),
        file_name=f"traklens-{wanted}{SUFFIXES[wanted]}",
        icon=":material/download:",
        on_click="ignore",
        key="export",
    )


def found_so_far(store: Store, suspects: Suspects, ids: list[str], decisions: dict[str, Review]) -> None:
    """Found against inspected: by the reviewers' decisions, and by the known truth where the data set has one."""
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    done = [(i, decisions[id].decision in DROPPED) for i, id in enumerate(ids) if id in decisions]
    if done:
        found = np.cumsum([bad for _, bad in done])
        lines["confirmed by you"] = (np.arange(1, len(done) + 1), found)
    truth = caches.truth_of(store)
    if truth is not None:
        what = words_of(store).what
        suggested = truth.suggested.in_words(what) if truth.suggested else ""
        st.html(
            f'<div class="tl-quiet">The data set says in “{truth.column}” which {what}s are wrong: '
            f"{truth.wrong:,} of {store.n_train:,}. {suggested}</div>"
        )
        lines |= truth.curves
    if not lines:
        st.html('<div class="tl-quiet">Nothing is reviewed yet. Decide on some to see how many were wrong.</div>')
        return
    st.plotly_chart(
        found_over_inspected(lines, max(len(ids), 2 * truth.wrong if truth is not None else 0)),
        config={"displayModeBar": False},
        key="found",
        alt="Wrong ones found over those inspected, by this ranking, by a plain one and at random",
    )
    confirmed = sum(map(confirms, decisions.values()))
    if confirmed:
        st.link_button(
            f"Simulate removing all {confirmed:,} confirmed",
            "remove?choice=confirmed",
            icon=":material/delete_sweep:",
        )
