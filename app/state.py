"""What the page shows, as the URL has it: `?id=…&caption=…&contrast=…&method=…&top=…&q=…`."""

from dataclasses import dataclass, replace

import streamlit as st

METHODS = ("trak", "clip", "both")
TOPS = (5, 10, 20, 50)


@dataclass(frozen=True)
class View:
    """A target and how to look at it. `caption` and `contrast` are questions about the stored pair's image."""

    id: str | None = None
    caption: str | None = None
    contrast: str | None = None
    method: str = "trak"
    top: int = 10


def read_view() -> View:
    """The view the URL asks for; values that make no sense fall back to the defaults."""
    found = st.query_params
    method, top = found.get("method", "trak"), found.get("top", "10")
    return View(
        id=found.get("id") or None,
        caption=found.get("caption") or None,
        contrast=found.get("contrast") or None,
        method=method if method in METHODS else "trak",
        top=int(top) if top.isdecimal() and int(top) in TOPS else 10,
    )


def write_view(view: View) -> None:
    """Put a view into the URL; defaults are left out."""
    values = {
        "id": view.id,
        "caption": view.caption,
        "contrast": view.contrast,
        "method": None if view.method == "trak" else view.method,
        "top": None if view.top == 10 else str(view.top),
    }
    for name, value in values.items():
        if value:
            st.query_params[name] = value
        elif name in st.query_params:
            del st.query_params[name]
    st.session_state["shown"] = (view.method, view.top)


def follow_url(view: View) -> None:
    """Set the widgets to the URL where someone else has changed it: the browser's back button, a link typed in place."""
    shown = (view.method, view.top)
    if st.session_state.get("shown", shown) != shown:
        st.session_state["method"], st.session_state["top"] = shown


def go_to(id: str) -> None:
    """Make a stored pair the target; drops every question about the one before."""
    st.session_state.pop("upload", None)
    write_view(replace(read_view(), id=id, caption=None, contrast=None))
