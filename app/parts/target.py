"""The target a page is about: a stored pair, a question about its image, or a visitor's own image."""

import base64
import itertools
from dataclasses import replace

import streamlit as st

from traklens.app import caches
from traklens.app.markup import notice, picture
from traklens.app.parts import ask, browse
from traklens.app.parts.tray import picked_rows
from traklens.app.state import View, read_view
from traklens.app.words import words_of
from traklens.engine.attribution.scores import Target
from traklens.engine.data.images import thumbnail_of
from traklens.stores.errors import TrakLensError
from traklens.stores.examples import content_fields
from traklens.stores.store import Store

FOUND = {  # what stands in words where a visitor gave none
    "pairs": "nearest training caption",
    "labels": "label: what the models take it for",
    "language": "what the models answer",
}


def opened(store: Store) -> tuple[View, Target, str, tuple[str, ...]]:
    """How a page about one pair begins: the sidebar, what was wrong with the link; the view, its target, image and chips."""
    view, problem = resolved(store, read_view())
    with st.sidebar:
        browse.show(store, view)
    with st.container():  # always there, so that what follows keeps its place and its state
        if problem:
            notice(problem, kind="error")
        target, image, chips = chosen_target(store, view)
    return view, target, image, chips


def resolved(store: Store, view: View) -> tuple[View, str | None]:
    """The view with pairs that exist, and what was wrong with the one asked for."""
    view = replace(view, picked=tuple(str(store.examples.id[row]) for row in picked_rows(store, view)))
    if view.id is None:
        return replace(view, id=str(store.examples.id[caches.first_row(store)])), None
    try:
        store.examples.row_of(view.id)
    except TrakLensError:
        fallback = str(store.examples.id[caches.first_row(store)])
        message = f"This store has no {words_of(store).one} {view.id[:64]!r}. Showing another one; pick yours from the list."
        return replace(view, id=fallback, caption=None, contrast=None, span=None), message
    return view, None


def chosen_target(store: Store, view: View) -> tuple[Target, str, tuple[str, ...]]:
    """The target, the address of its picture, and what to say about it in chips."""
    row = store.examples.row_of(str(view.id))
    stored_image = picture(row, caches.pictures(store), "large")
    upload = ask.current_upload()
    words = words_of(store)
    split = f"{'training' if row < store.n_train else 'held-out'} {words.one}"
    try:
        if upload is not None:
            target = caches.ask(
                store,
                str(view.id),
                upload.image,
                upload.caption,
                upload.contrast,
                _texts(store, row, upload),
                view.span,
            )
            yours = f"your {words.shown}"
            chips = (yours,) if upload.caption else (yours, FOUND.get(words.kind, "the models' own"))
            return target, "" if upload.image is None else _data_url(upload.image), chips
        if view.caption or view.contrast or view.span:
            target = caches.ask(store, str(view.id), None, view.caption, view.contrast, (), view.span)
            about = split if words.shown == "text" else f"{words.shown} of a {split}"
            asked = ((f"your {words.what}", view.caption), (f"part of the {words.what}", view.span))
            return target, stored_image, (about, *(name for name, given in asked if given))
    except TrakLensError as error:
        notice(str(error), kind="error")
    return caches.target_of(store, row), stored_image, (split,)


def _texts(store: Store, row: int, upload: ask.Upload) -> tuple[str, ...]:
    """The visitor's texts; where one was left empty, that of the stored example."""
    stored = [str(store.examples.field(name)[row]) for name in content_fields(store.task)]
    return tuple(text or own for text, own in itertools.zip_longest(upload.texts, stored, fillvalue=""))


def _data_url(image: bytes) -> str:
    """A visitor's picture for the page: decoded and made small, so that nothing of theirs is passed on as it came."""
    return "data:image/webp;base64," + base64.b64encode(thumbnail_of(image)).decode()
