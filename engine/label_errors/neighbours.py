"""Nearest neighbours of every training pair among the training examples, by image or by caption. Exact, no torch.

An embedding space is the concatenation of the checkpoints' unit embeddings: its inner product is the mean cosine.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from traklens.stores.store import Store

BLOCK_NUMBERS = 1 << 26  # entries of a block of cosines kept in memory at once


class Neighbours(NamedTuple):
    """Rows int64 [n, k] and mean cosines float32 [n, k] of the nearest other rows, nearest first."""

    rows: np.ndarray
    cosines: np.ndarray


def embedding_space(store: Store, name: str, further: Sequence[np.ndarray] = ()) -> np.ndarray:
    """concat_m(name_m)/√M of the training rows: float32 [n, M·e]; name: image_embedding or text_embedding.

    further: embeddings [n, e] under more models, which count like checkpoints.
    """
    found = [np.asarray(store.array(m, name)[: store.n_train]) for m in range(store.n_checkpoints)]
    found += [values[: store.n_train] for values in further]
    return np.concatenate(found, axis=1, dtype=np.float32) / np.float32(np.sqrt(len(found)))


def nearest(space: np.ndarray, k: int, groups: np.ndarray) -> Neighbours:
    """The k nearest rows of `space` [n, d] to each of its rows, leaving out those of its own group (itself among them).

    groups: int [n], such as the number of the image, so that other captions of one image are no neighbours. Rows that
    have fewer than k others repeat the last one found; its cosine is then −1.
    """
    n = len(space)
    k = max(1, min(k, n - 1))
    rows, cosines = np.empty((n, k), dtype=np.int64), np.empty((n, k), dtype=np.float32)
    block = max(1, BLOCK_NUMBERS // n)
    for start in range(0, n, block):
        part = slice(start, min(start + block, n))
        found = space[part] @ space.T
        found[groups[part, None] == groups[None, :]] = -1
        best = np.argpartition(found, n - k, axis=1)[:, n - k :]
        values = np.take_along_axis(found, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[part] = np.take_along_axis(best, order, axis=1)
        cosines[part] = np.take_along_axis(values, order, axis=1)
    return Neighbours(rows, cosines)


def numbered(values: np.ndarray) -> np.ndarray:
    """Equal values → equal numbers: int64 [n]."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
