"""Attribution scores of many targets at once, by TRAK and by everything it is compared with. No torch.

trak        τ of the store (TRAK, arXiv 2303.14186, section 3)
weighted, unweighted: the other of the two ways, by Q and without it, for a store that takes the one
graddot     mean_m Q_i·φ_m(z)ᵀφ_m(z_i): gradient dot product over checkpoints (TracIn, arXiv 2002.08484, projected)
gradcos     mean_m cosine of φ_m(z) and φ_m(z_i)
influence   mean_m φ_m(z)ᵀ(Φᵀdiag(p(1−p))Φ + ridge)⁻¹φ_m(z_i)·Q_i: influence function with the Gauss-Newton Hessian of
            the loss in the projected space (Koh and Liang, arXiv 1703.04730; Park et al., section 3.2)
clip        mean_m of the cosines of the task's embeddings (CLIP's of image and text); clip_image and clip_text one of them
bm25        BM25 of the target's words over those of the training examples: captions, texts, inputs with answers (bm25s)
random      a seeded draw
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from traklens.engine.attribution.described import is_matching
from traklens.engine.streams import generator
from traklens.stores.errors import UsageError
from traklens.stores.store import Store

BLOCK = 2_048


@dataclass(frozen=True)
class Scored:
    """Scores float32 [T, n_train] of a method, and the seconds the scoring itself took."""

    scores: np.ndarray
    seconds: float


def scores_of(store: Store, method: str, rows: np.ndarray, *, checkpoints: int | None = None) -> Scored:
    """Score every training pair for each target row. `checkpoints` uses only the first ones (all if None).

    Raises UsageError for an unknown method.
    """
    if method not in METHODS or not METHODS[method].fits(store):
        names = [name for name, found in METHODS.items() if found.fits(store)]
        raise UsageError("methods", repr(method), ", ".join(names), "Choose among them.")
    start = time.perf_counter()
    scores = METHODS[method].scores(store, np.asarray(rows), checkpoints or store.n_checkpoints)
    return Scored(scores.astype(np.float32), time.perf_counter() - start)


def blocks(n: int) -> Iterator[slice]:
    """Slices of at most BLOCK rows over 0 … n − 1."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


def _trak(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    return (_weighted if store.manifest.score.weight_by_q else _unweighted)(store, rows, m)


def _weighted(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    return _unweighted(store, rows, m) * mean_q(store, m)


def _unweighted(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    return _mean(store, m, [(_phi(store, i, rows), "preconditioned") for i in range(m)])


def _graddot(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    found = []
    for i in range(m):
        q = np.asarray(store.array(i, "q")[: store.n_train])
        found.append(_mean(store, 1, [(_phi(store, i, rows), "phi")], first=i) * q)
    return np.mean(found, axis=0)


def _gradcos(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    return _mean(store, m, [(unit(_phi(store, i, rows)), "phi") for i in range(m)], normalised=True)


def _influence(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    """The Hessian of the loss at f is p(1 − p) per pair; damping as for TRAK, relative to the mean diagonal."""
    found = []
    for i in range(m):
        q = np.asarray(store.array(i, "q")[: store.n_train], dtype=np.float64)
        dim = store.manifest.projection.dim
        hessian = np.zeros((dim, dim))
        for part in blocks(store.n_train):
            phi = np.asarray(store.array(i, "phi")[part])
            hessian += phi.T @ (phi * (q[part] * (1 - q[part]))[:, None].astype(np.float32))
        hessian[np.diag_indices_from(hessian)] += store.manifest.score.damping * np.trace(hessian) / dim + 1e-12
        solved = cho_solve(cho_factor(hessian, lower=True), _phi(store, i, rows).T.astype(np.float64)).T
        found.append(_mean(store, 1, [(solved.astype(np.float32), "phi")], first=i) * q)
    return np.mean(found, axis=0)


def _similarity(*wanted: str) -> Callable[[Store, np.ndarray, int], np.ndarray]:
    """Mean cosine of these embeddings, of all that the task has if none is named."""

    def scores(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
        names = wanted or store.task.embeddings
        queries = [(np.asarray(store.array(i, name).oindex[rows]), name) for i in range(m) for name in names]
        return _mean(store, m, queries, each=len(names))

    return scores


def _bm25(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    from traklens.engine.attribution.lexical import Lexicon, texts_of

    return Lexicon(store).bm25([texts_of(store, int(row)) for row in rows])


def _random(store: Store, rows: np.ndarray, m: int) -> np.ndarray:
    streams = store.manifest.dataset.streams
    draws = (generator("random scores", int(row), version=streams) for row in rows)
    return np.stack([draw.standard_normal(store.n_train) for draw in draws])


@dataclass(frozen=True)
class Method:
    """A way to score training examples. scores(store, target rows [T], checkpoints) → [T, n_train].

    `needs` is what a checkpoint must have computed of every example: "gradients", "embeddings", or nothing. It decides
    what the method costs, and whether more checkpoints change it.
    """

    title: str
    needs: str | None
    scores: Callable[[Store, np.ndarray, int], np.ndarray]
    fits: Callable[[Store], bool] = lambda store: True


METHODS: dict[str, Method] = {
    "trak": Method("TRAK", "gradients", _trak),
    "weighted": Method(
        "TRAK, weighed by Q", "gradients", _weighted, lambda store: not store.manifest.score.weight_by_q
    ),
    "unweighted": Method("TRAK without Q", "gradients", _unweighted, lambda store: store.manifest.score.weight_by_q),
    "clip": Method("embedding similarity", "embeddings", _similarity(), lambda store: bool(store.task.embeddings)),
    "clip_image": Method("image similarity", "embeddings", _similarity("image_embedding"), is_matching),
    "clip_text": Method("caption similarity", "embeddings", _similarity("text_embedding"), is_matching),
    "random": Method("random", None, _random),
    "graddot": Method("gradient dot product", "gradients", _graddot),
    "gradcos": Method("gradient cosine", "gradients", _gradcos),
    "influence": Method("influence function", "gradients", _influence),
    "bm25": Method("BM25 of words", None, _bm25, lambda store: store.task.first("text") is not None),
}
NAMES = {name: method.title for name, method in METHODS.items()} | {"greedy": "most damaging set"}  # chosen by TRAK


def mean_q(store: Store, checkpoints: int) -> np.ndarray:
    """Q̄: mean of Q over the first checkpoints, float64 [n_train]."""
    found = np.stack([np.asarray(store.array(m, "q")[: store.n_train]) for m in range(checkpoints)])
    return found.mean(axis=0, dtype=np.float64)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their length; a zero row stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)


def _phi(store: Store, m: int, rows: np.ndarray) -> np.ndarray:
    return np.asarray(store.array(m, "phi").oindex[rows])


def _mean(store: Store, m: int, queries, *, first: int = 0, each: int = 1, normalised: bool = False) -> np.ndarray:
    """Mean over `queries` (float32 [T, d], array name), `each` per checkpoint, of their products with all training rows."""
    total = np.zeros((len(queries[0][0]), store.n_train))
    for place, (query, name) in enumerate(queries):
        array = store.array(first + place // each, name)
        for part in blocks(store.n_train):
            rows = np.asarray(array[part])
            total[:, part] += query @ (unit(rows) if normalised else rows).T
    return total / len(queries)
