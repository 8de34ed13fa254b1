"""Writing to the log of decisions from a page: a failure is said, and nothing moves on."""

from collections.abc import Callable

import streamlit as st

from traklens.app.markup import notice
from traklens.stores.errors import TrakLensError


def recorded(act: Callable[[], tuple]) -> tuple | None:
    """Do something to the log; None when that failed. For callbacks: `problem` then shows what happened."""
    try:
        return act()
    except TrakLensError as error:
        st.session_state["review-problem"] = str(error)
        return None


def problem() -> None:
    """Show the last failure, once. Always there, so that what follows keeps its place."""
    message = st.session_state.pop("review-problem", None)
    with st.container():
        if message:
            notice(message, kind="error")
