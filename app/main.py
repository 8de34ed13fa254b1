"""The router: one page per view, and one place where errors become a message."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from app.caches import current_store
from app.markup import notice
from app.views import about, evaluate, explore, hunt, remove
from stores.errors import TrakLensError
from stores.store import Store


def _guarded(show: Callable[[Store], None]) -> None:
    try:
        show(current_store())
    except TrakLensError as error:
        notice(str(error), kind="error")


def explore_page() -> None:
    _guarded(explore.show)


def remove_page() -> None:
    _guarded(remove.show)


def hunt_page() -> None:
    _guarded(hunt.show)


def evaluate_page() -> None:
    _guarded(evaluate.show)


def store_page() -> None:
    _guarded(about.show)


HERE = Path(__file__).parent
st.set_page_config(page_title="TrakLens", page_icon=str(HERE / "icon.svg"), layout="wide")
st.html(HERE / "style.css")
st.navigation(
    [
        st.Page(explore_page, title="Explore", url_path="explore", default=True),
        st.Page(remove_page, title="Remove", url_path="remove"),
        st.Page(hunt_page, title="Hunt", url_path="hunt"),
        st.Page(evaluate_page, title="Evaluate", url_path="evaluate"),
        st.Page(store_page, title="Store", url_path="store"),
    ],
    position="top",
).run()
