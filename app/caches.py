"""What all visitors share: the open store, the live models, and finished answers. Nothing here is ever written to.

Keys are the store's path and the moment it was written, so a store built again under a running app is opened again.
"""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np
import streamlit as st

from traklens.engine.attribution.described import is_language
from traklens.engine.attribution.lexical import Lexicon, rank_by_words, text_of
from traklens.engine.attribution.scores import (
    Ranking,
    Target,
    rank,
    rival_of,
    score_histogram,
    score_sample,
    stored_target,
)
from traklens.engine.evaluation.evaluate import kept_evaluation
from traklens.engine.explore import filters
from traklens.engine.explore.confusion import confusion_of
from traklens.engine.explore.health import health_of
from traklens.engine.explore.search import Found, find_by_meaning, striking_pair
from traklens.engine.features.embedding_map import Painted, map_of, paint
from traklens.engine.label_errors.hunt import KnownTruth, known_truth
from traklens.engine.label_errors.suggestion import suggestions
from traklens.engine.label_errors.suspects import Suspects, find_suspects
from traklens.engine.removal.calibration import Calibration, Point, calibration_from, points
from traklens.engine.removal.effect import remove
from traklens.engine.removal.simulation import choose, curves
from traklens.engine.retraining.jobs import history
from traklens.stores.errors import StoreError
from traklens.stores.layout import HUNT, MANIFEST
from traklens.stores.store import Store, open_store

if TYPE_CHECKING:
    from traklens.engine.attribution.new_target import LiveModels
    from traklens.engine.attribution.shades import Shaded
    from traklens.engine.attribution.tokens import Shader

STORE_VARIABLE = "TRAKLENS_STORE"
BY_TARGET = ("proponents", "opponents")  # orders that depend on the target
P = ParamSpec("P")
R = TypeVar("R")


def current_store() -> Store:
    """The store this app was started on. Raises StoreError when it cannot be opened."""
    path = os.environ.get(STORE_VARIABLE)
    if not path:
        raise StoreError("the app", "no store", "a store", "Start it with `traklens app STORE`.")
    return _open(path, stamp(Path(path)))


def stamp(path: Path, name: str = MANIFEST) -> int:
    """When the store, or another file of it, was finished, in nanoseconds; 0 when there is none."""
    try:
        return (path / name).stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_resource(max_entries=2, show_spinner="Opening the store …")
def _open(path: str, stamp: int) -> Store:
    return open_store(path)


def per_store(
    entries: int, spinner: str | bool = False
) -> Callable[[Callable[Concatenate[Store, P], R]], Callable[Concatenate[Store, P], R]]:
    """Keep the last `entries` answers of a function of a store and further arguments, for all visitors.

    A store counts by its path and the moment it was written, a target by its question. Streamlit tells cached functions
    apart by their names.
    """

    def keeping(function: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
        def kept(key: tuple, _store: Store, _arguments: tuple, _named: dict) -> R:
            return function(_store, *_arguments, **_named)

        kept.__qualname__ = function.__qualname__
        cached = st.cache_resource(max_entries=entries, show_spinner=spinner)(kept)

        @wraps(function)
        def asked(store: Store, *arguments: P.args, **named: P.kwargs) -> R:
            parts = [x.key if isinstance(x, Target) else x for x in (*arguments, *named.values())]
            return cached((f"{store.path}@{stamp(store.path)}", *parts), store, arguments, named)

        return asked

    return keeping


first_row = per_store(2, "Looking for a pair to begin with …")(striking_pair)
target_of = per_store(256)(stored_target)
attributes_of = per_store(2)(filters.attributes_of)
having = per_store(32)(filters.having)
rival_asked = per_store(256)(rival_of)
chosen_rows = per_store(128)(choose)
removal_of = per_store(64, "Simulating …")(remove)
curves_of = per_store(64, "Simulating …")(curves)
confusion_of_store = per_store(4)(confusion_of)
health_of_store = per_store(2, "Reading the spectra …")(health_of)
evaluation_of = kept_evaluation  # a small file, read each time


@per_store(1, "Loading the models …")
def _live_models(store: Store) -> "tuple[LiveModels, Lock]":
    from traklens.engine.attribution.new_target import LiveModels

    return LiveModels(store), Lock()


def found_by_meaning(
    store: Store, text: str, split: str, where: np.ndarray | None, page: int, per_page: int
) -> Found:
    """Pairs whose images match a text best, by the models' own text tower. Raises DataError for unusable words."""
    return find_by_meaning(store, _meaning(store, text), split=split, where=where, page=page, per_page=per_page)


@per_store(256, "Asking the models …")
def _meaning(store: Store, text: str) -> np.ndarray:
    models, lock = _live_models(store)
    with lock:
        return models.meaning(text)


def order_values(store: Store, order: str, target: Target | None) -> np.ndarray | None:
    """What to sort pairs by, lowest first; None for the stored order."""
    return None if order == "stored" else _order(store, order, target if order in BY_TARGET else None)


@per_store(16)
def _order(store: Store, order: str, target: Target | None) -> np.ndarray | None:
    return filters.order_values(store, order, None if target is None else target.influence_query)


@per_store(64, "Asking the models …")
def ask(
    store: Store,
    id: str,
    image: bytes | None,
    caption: str | None,
    contrast: str | None,
    texts: tuple[str, ...],
    span: tuple[int, int] | None,
) -> Target:
    """A question that is not stored: about a visitor's own image or texts, or else about what the stored example `id` shows.
    span: the characters of an answer that are asked about.

    Raises DataError for something that is no image or unusable words.
    """
    from traklens.engine.attribution.new_target import question_about

    models, lock = _live_models(store)
    with lock:
        if texts or span:
            from traklens.engine.attribution.new_text import prompt_target, span_target, text_target

            if texts and is_language(store):
                return prompt_target(models, texts[0], caption, contrast=contrast, span=span)
            if texts:
                return text_target(models, texts, caption, contrast=contrast)
            assert span is not None
            return span_target(models, id, span, caption, contrast=contrast)
        if image is not None:
            return models.target(image, caption, contrast=contrast)
        return question_about(models, id, caption, contrast)


@per_store(2, "Reading the words …")
def lexicon_of(store: Store) -> Lexicon:
    """The words of the training texts."""
    return Lexicon(store)


@per_store(256)
def ranking_of(store: Store, target: Target, method: str, top: int, unshared: bool = False) -> Ranking:
    """The `top` proponents and opponents of a target; `unshared`: among those that share no content word with it."""
    if method == "bm25":
        return rank_by_words(store, lexicon_of(store), target, top)
    where = ~lexicon_of(store).sharing(text_of(store, target)) if unshared else None
    return rank(store, target, top=top, method=method, where=where)


@per_store(256, "Looking into the scores …")
def shaded(store: Store, target: Target, rows: tuple[int, ...]) -> "dict[int, tuple[Shaded, ...]]":
    """What the words of training texts contribute to their scores for a target."""
    _, lock = _live_models(store)
    with lock:
        return _shader(store).shaded(target, rows)


@per_store(1)
def _shader(store: Store) -> "Shader":
    from traklens.engine.attribution.tokens import Shader

    return Shader(_live_models(store)[0])


@per_store(256)
def histogram_of(store: Store, target: Target, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Edges and counts of the target's scores over the training examples."""
    if method == "bm25":
        return score_histogram(lexicon_of(store).bm25([text_of(store, target)])[0])
    return score_histogram(score_sample(store, target, method=method))


def calibration_of(store: Store) -> tuple[Calibration | None, list[Point]]:
    """What finished retrainings say about predictions; looked at again whenever one has finished."""
    return _calibration(store, sum(status.state == "done" for _, _, status in history(store)))


@per_store(4, "Calibrating …")
def _calibration(store: Store, done: int) -> tuple[Calibration | None, list[Point]]:
    measured = points(store)
    return calibration_from(measured), measured


@per_store(512)
def suggestions_of(store: Store, row: int) -> list[str]:
    """Likelier captions, labels or answers for a training example."""
    return suggestions(store, row, suspects_of(store))


def suspects_of(store: Store) -> Suspects:
    """The training examples most likely to have a wrong caption, as kept in the store."""
    return _suspects(store, stamp(store.path, HUNT))


@per_store(2, "Looking for wrong captions …")
def _suspects(store: Store, kept: int) -> Suspects:
    return find_suspects(store)


def pictures(store: Store) -> int:
    """The version of a store's pictures, for their addresses; below zero where it has none."""
    return stamp(store.path) if store.has_pictures else -1


def painted_map(store: Store, target: Target, side: int, colour: str) -> Painted:
    """The training examples on a plane, coloured for a target."""
    if colour == "wrong":
        values = suspects_of(store).probability
    else:
        query = target.influence_query if colour == "trak" else target.similarity_query
        values = (store.influence if colour == "trak" else store.similarity).scores(query)
    return paint(store, _map(store), side, values, target.row)


_map = per_store(2, "Drawing the map …")(map_of)


@per_store(2, "Comparing with the truth …")
def truth_of(store: Store) -> KnownTruth | None:
    """What the data set itself says about wrong captions; None where it does not."""
    return known_truth(store, suspects_of(store))
