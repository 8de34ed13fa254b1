"""Filter and sort the pairs of the sidebar: by recorded attributes, by review, by match, by influence on the pair shown."""

import numpy as np
import streamlit as st

from traklens.app import caches
from traklens.app.state import View
from traklens.app.words import words_of
from traklens.engine.explore.filters import ORDERS, REVIEWED, decided
from traklens.stores.reviews import Reviews
from traklens.stores.store import Store

ANY = "any"
ORDER_NAMES = {
    "stored": "as in the data",
    "worst": "lowest f first",
    "best": "highest f first",
    "proponents": "proponents of this {one} first",
    "opponents": "opponents of this {one} first",
}
REVIEW_NAMES = {"any": "reviewed or not", "reviewed": "reviewed", "not reviewed": "not reviewed"}


def first_page() -> None:
    st.session_state["page"] = 1


def show(store: Store, view: View, *, sortable: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Draw the choices. Which pairs to list (bool [n]) and what to sort by (float [n]); None for all and for stored order."""
    masks: list[np.ndarray] = []
    order = "stored"
    with st.expander("Filter and sort", icon=":material/filter_list:", key="filters", on_change="rerun") as box:
        if not (box.open or st.session_state.get("filter-name") or st.session_state.get("filter-order")):
            return None, None
        if sortable:
            order = st.selectbox(
                "Sort",
                ORDERS,
                format_func=lambda name: ORDER_NAMES[name].format(one=words_of(store).one),
                key="filter-order",
                on_change=first_page,
            )
        names = caches.attributes_of(store)
        if names:
            name = st.selectbox(
                "Recorded", [ANY, *names], format_func=lambda n: "any value" if n == ANY else n.replace("_", " "),
                key="filter-name", on_change=first_page,
            )  # fmt: skip
            if name in names:
                value = st.selectbox("Value", names[name], key=f"filter-value-{name}", on_change=first_page)
                masks.append(caches.having(store, name, str(value)))
        reviewed = st.selectbox(
            "Reviewed", REVIEWED, format_func=REVIEW_NAMES.__getitem__, key="filter-reviewed", on_change=first_page
        )
    among = decided(store, Reviews(store.path).current(), reviewed)
    if among is not None:
        masks.append(among)
    row = store.examples.find(str(view.id))
    by = caches.order_values(store, order, None if row is None else caches.target_of(store, row))
    return (np.logical_and.reduce(masks) if masks else None), by
