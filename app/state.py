"""What the pages show, as the URL has it:
`?id=…&caption=…&contrast=…&span=…:…&method=…&unshared=1&shade=1&top=…&choice=…&k=…&queue=…&pick=…,…`.
"""

from dataclasses import dataclass, replace

import streamlit as st

METHODS = ("trak", "clip", "bm25", "both")
TOPS = (5, 10, 20, 50)
CHOICES = ("trak", "greedy", "clip", "random", "picked", "confirmed")
MOST_PICKED = 200
NAMES = ("id", "caption", "contrast", "span", "method", "unshared", "shade", "top", "choice", "k", "queue", "pick")

WIDGETS = ("method", "top", "unshared", "shade")


@dataclass(frozen=True)
class View:
    """A target and how to look at it. `caption` and `contrast` are questions about the stored pair's image, `span` the
    characters of an answer that are asked about.

    `unshared`: only what shares no content word with the target; `shade`: words are shaded by what they contribute.
    `choice`, `k` and `picked` (ids of training examples) say what to remove; `queue` what to review.
    """

    id: str | None = None
    caption: str | None = None
    contrast: str | None = None
    span: tuple[int, int] | None = None
    method: str = "trak"
    unshared: bool = False
    shade: bool = False
    top: int = 10
    choice: str = "trak"
    k: int | None = None
    queue: str = "suspects"
    picked: tuple[str, ...] = ()


def read_view() -> View:
    """The view the URL asks for; values that make no sense fall back to the defaults.

    A page opened from another one has an empty URL: it takes over the view of that one.
    """
    found = st.query_params
    if not any(name in found for name in NAMES) and "view" in st.session_state:
        return st.session_state["view"]
    method, top, choice, k = (found.get(name, "") for name in ("method", "top", "choice", "k"))
    return View(
        id=found.get("id") or None,
        caption=found.get("caption") or None,
        contrast=found.get("contrast") or None,
        span=_span(found.get("span", "")),
        method=method if method in METHODS else "trak",
        unshared=found.get("unshared") == "1",
        shade=found.get("shade") == "1",
        top=int(top) if top.isdecimal() and int(top) in TOPS else 10,
        choice=choice if choice in CHOICES else "trak",
        k=int(k) if k.isdecimal() and 0 < len(k) < 7 and int(k) > 0 else None,
        queue="picked" if found.get("queue") == "picked" else "suspects",
        picked=tuple(dict.fromkeys(id for id in found.get("pick", "").split(",") if id))[:MOST_PICKED],
    )


def _span(given: str) -> tuple[int, int] | None:
    start, _, end = given.partition(":")
    if not (start.isdecimal() and end.isdecimal() and len(given) < 16 and int(start) < int(end)):
        return None
    return int(start), int(end)


def write_view(view: View) -> None:
    """Put a view into the URL; defaults are left out."""
    params = params_of(view)
    if st.query_params.to_dict() != params:
        st.query_params.from_dict(params)  # whole and at once: every write is an entry of the browser's history
    st.session_state["view"] = view
    st.session_state["shown"] = _shown(view)


def params_of(view: View) -> dict[str, str]:
    """A view as it stands in a URL; defaults are left out."""
    values = {
        "id": view.id,
        "caption": view.caption,
        "contrast": view.contrast,
        "span": None if view.span is None else f"{view.span[0]}:{view.span[1]}",
        "method": None if view.method == "trak" else view.method,
        "unshared": "1" if view.unshared else None,
        "shade": "1" if view.shade else None,
        "top": None if view.top == 10 else str(view.top),
        "choice": None if view.choice == "trak" else view.choice,
        "k": None if view.k is None else str(view.k),
        "queue": None if view.queue == "suspects" else view.queue,
        "pick": ",".join(view.picked) or None,
    }
    return {name: value for name, value in values.items() if value}


def follow_url(view: View) -> None:
    """Set the widgets to the URL where someone else has changed it: the browser's back button, a link typed in place."""
    shown = _shown(view)
    if st.session_state.get("shown", shown) != shown:
        for name, value in zip(WIDGETS, shown, strict=True):
            st.session_state[name] = value


def _shown(view: View) -> tuple:
    """What the widgets of Explore show, in the order of their keys."""
    return view.method, view.top, view.unshared, view.shade


def go_to(id: str) -> None:
    """Make a stored pair the target; drops every question about the one before."""
    st.session_state.pop("upload", None)
    write_view(replace(read_view(), id=id, caption=None, contrast=None, span=None))


def toggle_picked(id: str) -> None:
    """Add a training pair to the picked ones, or take it out."""
    view = read_view()
    picked = tuple(x for x in view.picked if x != id) if id in view.picked else (*view.picked, id)
    write_view(replace(view, picked=picked[:MOST_PICKED]))


def add_picked(ids: tuple[str, ...]) -> None:
    """Add training examples to the picked ones, as many as there is room for."""
    view = read_view()
    write_view(replace(view, picked=tuple(dict.fromkeys((*view.picked, *ids)))[:MOST_PICKED]))


def drop_picked() -> None:
    """Pick none."""
    view = read_view()
    choice = "trak" if view.choice == "picked" else view.choice
    write_view(replace(view, picked=(), choice=choice, queue="suspects"))
