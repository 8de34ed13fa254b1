"""The router: one page per view, and one place where errors become a message."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from traklens.app.caches import current_store, stamp
from traklens.app.markup import notice
from traklens.app.parts import keys, tray
from traklens.app.views import confusion, evaluate, explore, hunt, remove
from traklens.app.views import map as embedding_map
from traklens.app.views import store as about
from traklens.engine.attribution.described import classes_of
from traklens.stores.errors import TrakLensError
from traklens.stores.store import Store


def _guarded(show: Callable[[Store], None]) -> None:
    try:
        store = current_store()
        _say_if_rebuilt(store)
        show(store)
    except TrakLensError as error:
        notice(str(error), kind="error")


def _say_if_rebuilt(store: Store) -> None:
    """Rows and scores may be others than a moment ago: say so, once."""
    now = stamp(store.path)
    if st.session_state.get("stamp", now) != now:
        for key in ("upload", "shown"):
            st.session_state.pop(key, None)
        notice(
            "This store was built again while you were looking. You now see the new one; links to pairs still hold."
        )
    st.session_state["stamp"] = now


def _has_classes() -> bool:
    """Whether the store is a classifier's; a store that cannot be opened is named by the page itself."""
    try:
        return bool(classes_of(current_store()))
    except TrakLensError:
        return False


def explore_page() -> None:
    _guarded(explore.show)


def map_page() -> None:
    _guarded(embedding_map.show)


def confusion_page() -> None:
    _guarded(confusion.show)


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
pages = {
    "explore": st.Page(explore_page, title="Explore", url_path="explore", default=True),
    "map": st.Page(map_page, title="Map", url_path="map"),
    "confusion": st.Page(confusion_page, title="Confusion", url_path="confusion"),
    "remove": st.Page(remove_page, title="Remove", url_path="remove"),
    "hunt": st.Page(hunt_page, title="Hunt", url_path="hunt"),
    "evaluate": st.Page(evaluate_page, title="Evaluate", url_path="evaluate"),
    "store": st.Page(store_page, title="Store", url_path="store"),
}
st.session_state[tray.PAGES] = pages
shown = [page for name, page in pages.items() if name != "confusion" or _has_classes()]
st.navigation(shown, position="top").run()
keys.show()
