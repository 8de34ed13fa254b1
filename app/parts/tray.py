"""The tray: pairs picked on any page, on the way to a removal or a review. Drawn in the sidebar of every page."""

from dataclasses import replace

import numpy as np
import streamlit as st

from traklens.app.caches import pictures
from traklens.app.markup import tray_card
from traklens.app.state import View, drop_picked, params_of, read_view
from traklens.app.words import words_of
from traklens.stores.store import Store

SHOWN = 12
PAGES = "pages"  # where the router keeps its pages, by url path


def show(store: Store, view: View) -> None:
    """Nothing while no pair is picked; else their pictures and what can be done with them."""
    rows = picked_rows(store, view).tolist()
    if not rows:
        return
    with st.container(key="tray"):
        st.html(tray_card(rows[:SHOWN], len(rows), pictures(store), words_of(store)))
        with st.container(horizontal=True, gap="xxsmall"):
            if st.button("Simulate", key="tray-remove", shortcut="s", help="what the models would do without them"):
                _leave_for("remove", replace(read_view(), choice="picked"))
            if st.button("Review", key="tray-hunt", shortcut="v", help="decide on them one by one"):
                _leave_for("hunt", replace(read_view(), queue="picked", id=None))
            st.button("Empty", key="tray-empty", type="tertiary", on_click=drop_picked, help="pick none")


def _leave_for(path: str, view: View) -> None:
    st.session_state["view"] = view
    for key in ("choice", "queue"):  # the other page's widgets follow the view, not what they showed last
        st.session_state.pop(key, None)
    st.switch_page(st.session_state[PAGES][path], query_params=params_of(view))


def picked_rows(store: Store, view: View) -> np.ndarray:
    """Rows of the picked training examples, as picked: int64 [≤ 200]. What is none of this store is left out."""
    rows = (store.examples.find(id) for id in view.picked)
    return np.array([row for row in rows if row is not None and row < store.n_train], dtype=np.int64)
