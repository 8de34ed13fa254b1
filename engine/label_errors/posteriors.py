"""Captions as classes: where a few captions repeat, the probability of each of them for every training image. No torch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from traklens.engine.label_errors.neighbours import numbered
from traklens.engine.label_errors.signals import Evidence
from traklens.stores.store import Store

MOST_CLASSES = 200
LEAST_PER_CLASS = 10
SCALES = (1.0, 200.0)


@dataclass(frozen=True)
class Classes:
    """captions: the distinct ones [C]; of: int64 [n_train], each pair's; cosines: float32 [M, n_train, C]."""

    captions: tuple[str, ...]
    of: np.ndarray
    cosines: np.ndarray
    unseen: np.ndarray

    @cached_property
    def log_p(self) -> np.ndarray:
        """log softmax of scaled cosines, float64 [M, n_train, C]; each checkpoint's scale is the likeliest one on pairs
        it never saw (all pairs where that is not known)."""
        rows = np.arange(len(self.of))
        found = np.empty(self.cosines.shape)
        for m, cosines in enumerate(self.cosines):
            judged = self.unseen[m] if self.unseen[m].any() else np.ones(len(rows), dtype=bool)

            def loss(log_scale: float, cosines=cosines, judged=judged) -> float:
                own = log_softmax(np.exp(log_scale) * cosines[judged], axis=1)
                return -float(own[np.arange(judged.sum()), self.of[judged]].mean())

            best = minimize_scalar(loss, bounds=tuple(np.log(SCALES)), method="bounded")
            found[m] = log_softmax(np.exp(best.x) * cosines, axis=1)  # type: ignore[attr-defined]
        return found


def classes_of(store: Store, evidence: Evidence) -> Classes | None:
    """The captions as classes; None unless at most 200 captions repeat ten times or more on average."""
    captions = store.examples.caption[: store.n_train]
    distinct, first = np.unique(captions, return_index=True)
    if not 2 <= distinct.size <= min(MOST_CLASSES, store.n_train // LEAST_PER_CLASS):
        return None
    cosines = np.stack(
        [
            np.asarray(store.array(m, "image_embedding")[: store.n_train])
            @ np.asarray(store.array(m, "text_embedding").oindex[first]).T
            for m in range(store.n_checkpoints)
        ]
    )
    return Classes(tuple(str(c) for c in distinct), numbered(captions), cosines, evidence.unseen)


def mean_posterior(classes: Classes, where: np.ndarray) -> np.ndarray:
    """Mean probability over the checkpoints where `where` [M, n] holds (all where none does): float64 [n, C]."""
    p = np.exp(classes.log_p)
    count = where.sum(axis=0)[:, None]
    total = np.where(where[..., None], p, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), p.mean(axis=0))
