"""The sidebar: what the store is, and its pairs to search and pick from."""

from pathlib import Path

import streamlit as st

from traklens.app import caches
from traklens.app.caches import pictures
from traklens.app.markup import browse_card, notice, text
from traklens.app.parts import filters, tray
from traklens.app.state import View, go_to
from traklens.app.words import Words, words_of
from traklens.engine.explore.search import SPLITS, find_pairs
from traklens.stores.errors import TrakLensError
from traklens.stores.store import Store

PER_PAGE = 18
WAYS = {"words": "By words", "meaning": "By meaning"}
SPLIT_NAMES = {"all": "All", "train": "Training", "heldout": "Held-out"}


def show(store: Store, view: View) -> None:
    """Draw the sidebar; picking a pair changes the URL."""
    header(store, view)
    words_here, by = words_of(store), "words"
    if words_here.kind == "pairs":  # only pairs have a space in which words and images meet
        by = st.segmented_control(
            "Search by",
            list(WAYS),
            default="words",
            required=True,
            format_func=WAYS.__getitem__,
            key="search-by",
            label_visibility="collapsed",
            on_change=filters.first_page,
        )
    wanted = st.text_input(
        "Search",
        key="search",
        placeholder=_placeholder(words_here) if by == "words" else "What should the image show?",
        icon=":material/search:",
        label_visibility="collapsed",
        live=by == "words",
        max_chars=500,
    )
    split = "all"
    if store.n_heldout:
        split = st.segmented_control(
            "Show",
            SPLITS,
            default="all",
            required=True,
            format_func=SPLIT_NAMES.__getitem__,
            key="split",
            label_visibility="collapsed",
            on_change=filters.first_page,
        )
    by_meaning = by == "meaning" and bool((wanted or "").strip())
    where, order = filters.show(store, view, sortable=not by_meaning)
    page = st.session_state.get("page", 1)
    if by_meaning:
        try:
            found = caches.found_by_meaning(store, str(wanted), split or "all", where, page, PER_PAGE)
        except TrakLensError as error:
            notice(str(error), kind="error")
            return
    else:
        words = "" if by == "meaning" else wanted or ""
        found = find_pairs(store, words, split=split or "all", where=where, by=order, page=page, per_page=PER_PAGE)
    if not found.total:
        st.html(
            f'<div class="tl-quiet">No {words_here.one} has all this. Try fewer words, another split or no filter.</div>'
        )
        return
    st.html(f'<div class="tl-quiet">{words_here.count(found.total)}</div>')
    version = pictures(store)
    with st.grid(1 if words_here.shown == "text" else 3, min_column_width=70, gap="xxsmall"):
        for row in found.rows:
            id = str(store.examples.id[row])
            with st.container(key=f"card-browse-{row}"):
                about = store.examples.content(row)
                st.html(browse_card(row, store.examples.words[row], version, id == view.id, about))
                st.button(f"Choose {words_here.one} {row}", key=f"browse-{row}", on_click=go_to, args=(id,))
    pages = -(-found.total // PER_PAGE)
    if pages > 1:
        st.pagination(pages, key="page", max_visible_pages=5)


def header(store: Store, view: View) -> None:
    """What the store is, in two lines, and the tray."""
    manifest = store.manifest
    st.html(
        '<div class="tl-brand">TrakLens</div><div class="tl-quiet">'
        f"{text(_name(store))} · {store.n_train:,} training and {store.n_heldout:,} held-out {store.noun} · "
        f"{store.n_checkpoints} × {text(Path(manifest.model.name).stem)}</div>"
    )
    tray.show(store, view)


def _placeholder(words: Words) -> str:
    """What a search for words looks through."""
    return (
        f"Search texts and {words.whats}"
        if words.shown == "text" and words.what != "text"
        else f"Search {words.whats}"
    )


def _name(store: Store) -> str:
    """What people will know the store by: its folder, or the one above where it is just called "store"."""
    return store.path.parent.name if store.path.name == "store" else store.path.name
