"""What all visitors share: the open store, the live models, and finished answers. Nothing here is ever written to.

Keys are the store's path and the moment it was written, so a store built again under a running app is opened again.
"""

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from traklens.engine.attribution.scores import (
    Ranking,
    Target,
    rank,
    rival_caption,
    score_histogram,
    score_sample,
    stored_target,
)
from traklens.engine.evaluation.evaluate import kept_evaluation
from traklens.engine.explore import filters
from traklens.engine.explore.health import Health, health_of
from traklens.engine.explore.search import Found, find_by_meaning, striking_pair
from traklens.engine.features.embedding_map import Painted, map_of, paint
from traklens.engine.label_errors.hunt import KnownTruth, known_truth
from traklens.engine.label_errors.suggestion import suggestions
from traklens.engine.label_errors.suspects import Suspects, find_suspects
from traklens.engine.removal.calibration import Calibration, Point, calibration_from, points
from traklens.engine.removal.effect import Removal, remove
from traklens.engine.removal.simulation import choose, curves
from traklens.engine.retraining.jobs import history
from traklens.stores.errors import StoreError
from traklens.stores.layout import HUNT, MANIFEST
from traklens.stores.store import Store, open_store

if TYPE_CHECKING:
    from traklens.engine.attribution.new_target import LiveModels

STORE_VARIABLE = "TRAKLENS_STORE"


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


def first_row(store: Store) -> int:
    """The pair to open on."""
    return _first_row(_key(store), store)


@st.cache_resource(max_entries=2, show_spinner="Looking for a pair to begin with …")
def _first_row(key: str, _store: Store) -> int:
    return striking_pair(_store)


def target_of(store: Store, row: int) -> Target:
    """A stored pair as target."""
    return _stored_target(_key(store), store, row)


@st.cache_resource(max_entries=256, show_spinner=False)
def _stored_target(key: str, _store: Store, row: int) -> Target:
    return stored_target(_store, row)


@st.cache_resource(max_entries=1, show_spinner="Loading the models …")
def _live_models(key: str, _store: Store) -> "tuple[LiveModels, Lock]":
    from traklens.engine.attribution.new_target import LiveModels

    return LiveModels(_store), Lock()


def found_by_meaning(
    store: Store, text: str, split: str, where: np.ndarray | None, page: int, per_page: int
) -> Found:
    """Pairs whose images match a text best, by the models' own text tower. Raises DataError for unusable words."""
    words = _meaning(_key(store), store, text)
    return find_by_meaning(store, words, split=split, where=where, page=page, per_page=per_page)


@st.cache_resource(max_entries=256, show_spinner="Asking the models …")
def _meaning(key: str, _store: Store, text: str) -> np.ndarray:
    models, lock = _live_models(key, _store)
    with lock:
        return models.meaning(text)


def attributes_of(store: Store) -> dict[str, tuple[str, ...]]:
    """Recorded attributes that pairs can be chosen by, with their values."""
    return _attributes(_key(store), store)


@st.cache_resource(max_entries=2, show_spinner=False)
def _attributes(key: str, _store: Store) -> dict[str, tuple[str, ...]]:
    return filters.attributes_of(_store)


def having(store: Store, name: str, value: str) -> np.ndarray:
    """Pairs of which the data set records this value: bool [n]."""
    return _having(_key(store), store, name, value)


@st.cache_resource(max_entries=32, show_spinner=False)
def _having(key: str, _store: Store, name: str, value: str) -> np.ndarray:
    return filters.having(_store, name, value)


def order_values(store: Store, order: str, target: Target | None) -> np.ndarray | None:
    """What to sort pairs by, lowest first; None for the stored order."""
    if order == "stored":
        return None
    of = target if order in ("proponents", "opponents") else None
    return _order(_key(store), store, order, of.key if of else "", of)


@st.cache_resource(max_entries=16, show_spinner=False)
def _order(key: str, _store: Store, order: str, target_key: str, _target: Target | None) -> np.ndarray | None:
    return filters.order_values(_store, order, None if _target is None else _target.influence_query)


def ask(store: Store, id: str, image: bytes | None, caption: str | None, contrast: str | None) -> Target:
    """A question that is not stored: about a visitor's own image, or else about the image of the stored pair `id`.

    Raises DataError for something that is no image or an unusable caption.
    """
    return _ask(_key(store), store, id, image, caption, contrast)


@st.cache_resource(max_entries=64, show_spinner="Asking the models …")
def _ask(key: str, _store: Store, id: str, image: bytes | None, caption: str | None, contrast: str | None) -> Target:
    from traklens.engine.attribution.new_target import question_about

    models, lock = _live_models(key, _store)
    with lock:
        if image is not None:
            return models.target(image, caption, contrast=contrast)
        return question_about(models, id, caption, contrast)


def ranking_of(store: Store, target: Target, method: str, top: int) -> Ranking:
    """The `top` proponents and opponents of a target."""
    return _ranking(_key(store), target.key, store, target, method, top)


@st.cache_resource(max_entries=256, show_spinner=False)
def _ranking(key: str, target_key: str, _store: Store, _target: Target, method: str, top: int) -> Ranking:
    return rank(_store, _target, top=top, method=method)


def rival_of(store: Store, target: Target) -> str | None:
    """The caption that the models match best with the target's image, other than its own."""
    return _rival(_key(store), target.key, store, target)


@st.cache_resource(max_entries=256, show_spinner=False)
def _rival(key: str, target_key: str, _store: Store, _target: Target) -> str | None:
    return rival_caption(_store, _target)


def histogram_of(store: Store, target: Target, method: str):
    """Edges and counts of the target's scores over the training pairs."""
    return _histogram(_key(store), target.key, store, target, method)


@st.cache_resource(max_entries=256, show_spinner=False)
def _histogram(key: str, target_key: str, _store: Store, _target: Target, method: str):
    return score_histogram(score_sample(_store, _target, method=method))


def chosen_rows(store: Store, target: Target, choice: str, k: int) -> np.ndarray:
    """The training rows a choice would remove: int64 [≤ k]."""
    return _chosen_rows(_key(store), target.key, store, target, choice, k)


@st.cache_resource(max_entries=128, show_spinner=False)
def _chosen_rows(key: str, target_key: str, _store: Store, _target: Target, choice: str, k: int) -> np.ndarray:
    return choose(_store, _target, choice, k)


def removal_of(store: Store, rows: tuple[int, ...]) -> Removal:
    """The removal of some training rows, ready to predict its effect on any target."""
    return _removal(_key(store), rows, store)


@st.cache_resource(max_entries=64, show_spinner="Simulating …")
def _removal(key: str, rows: tuple[int, ...], _store: Store) -> Removal:
    return remove(_store, rows)


def curves_of(store: Store, target: Target, most: int) -> dict[str, np.ndarray]:
    """Predicted effect over the number of removed pairs, per choice."""
    return _curves(_key(store), target.key, store, target, most)


@st.cache_resource(max_entries=64, show_spinner="Simulating …")
def _curves(key: str, target_key: str, _store: Store, _target: Target, most: int) -> dict[str, np.ndarray]:
    return curves(_store, _target, most)


def calibration_of(store: Store) -> tuple[Calibration | None, list[Point]]:
    """What finished retrainings say about predictions; looked at again whenever one has finished."""
    done = sum(status.state == "done" for _, _, status in history(store))
    return _calibration(_key(store), done, store)


@st.cache_resource(max_entries=4, show_spinner="Calibrating …")
def _calibration(key: str, done: int, _store: Store) -> tuple[Calibration | None, list[Point]]:
    found = points(_store)
    return calibration_from(found), found


def health_of_store(store: Store) -> list[Health]:
    """How healthy each checkpoint is."""
    return _health(_key(store), store)


@st.cache_resource(max_entries=2, show_spinner="Reading the spectra …")
def _health(key: str, _store: Store) -> list[Health]:
    return health_of(_store)


def evaluation_of(store: Store) -> dict | None:
    """What `traklens evaluate` has found; None before it has run."""
    return kept_evaluation(store)


def suspects_of(store: Store) -> Suspects:
    """The training pairs most likely to have a wrong caption, as kept in the store."""
    return _suspects(_key(store), stamp(store.path, HUNT), store)


@st.cache_resource(max_entries=2, show_spinner="Looking for wrong captions …")
def _suspects(key: str, kept: int, _store: Store) -> Suspects:
    return find_suspects(_store)


def painted_map(store: Store, target: Target, side: str, colour: str) -> Painted:
    """The training pairs on a plane, coloured for a target."""
    if colour == "wrong":
        values = suspects_of(store).probability
    else:
        query = target.influence_query if colour == "trak" else target.similarity_query
        values = (store.influence if colour == "trak" else store.similarity).scores(query)
    return paint(store, _map(_key(store), store), side, values, target.row)


@st.cache_resource(max_entries=2, show_spinner="Drawing the map …")
def _map(key: str, _store: Store) -> np.ndarray:
    return map_of(_store)


def suggestions_of(store: Store, row: int) -> list[str]:
    """Likelier captions for a training pair, the likeliest first."""
    return _suggestions(_key(store), store, row)


@st.cache_resource(max_entries=512, show_spinner=False)
def _suggestions(key: str, _store: Store, row: int) -> list[str]:
    return suggestions(_store, row)


def truth_of(store: Store) -> KnownTruth | None:
    """What the data set itself says about wrong captions; None where it does not."""
    return _truth(_key(store), store)


@st.cache_resource(max_entries=2, show_spinner="Comparing with the truth …")
def _truth(key: str, _store: Store) -> KnownTruth | None:
    return known_truth(_store, suspects_of(_store))


def _key(store: Store) -> str:
    return f"{store.path}@{stamp(store.path)}"
