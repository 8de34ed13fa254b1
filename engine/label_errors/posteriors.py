"""The probability of each class for every training image: a classifier's, or of captions where a few repeat. No torch."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from traklens.engine.attribution import described
from traklens.engine.label_errors.neighbours import numbered
from traklens.engine.label_errors.signals import Evidence
from traklens.stores.store import Store

MOST_CLASSES = 200
LEAST_PER_CLASS = 10
SCALES = (1.0, 200.0)


@dataclass(frozen=True)
class Classes:
    """names: of the classes [C]; of: int64 [n_train], each example's; log_p: float64 [M, n_train, C]; unseen [M, n_train]."""

    names: tuple[str, ...]
    of: np.ndarray
    log_p: np.ndarray
    unseen: np.ndarray


def log_p_of_captions(cosines: np.ndarray, of: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """log softmax of scaled cosines, float64 [M, n, C]; each model's scale is the likeliest one on examples it never saw
    (all where that is not known)."""
    rows = np.arange(len(of))
    found = np.empty(cosines.shape)
    for m, own_cosines in enumerate(cosines):
        judged = unseen[m] if unseen[m].any() else np.ones(len(rows), dtype=bool)

        def loss(log_scale: float, cosines=own_cosines, judged=judged) -> float:
            own = log_softmax(np.exp(log_scale) * cosines[judged], axis=1)
            return -float(own[np.arange(judged.sum()), of[judged]].mean())

        best = minimize_scalar(loss, bounds=tuple(np.log(SCALES)), method="bounded")
        found[m] = log_softmax(np.exp(best.x) * own_cosines, axis=1)  # type: ignore[attr-defined]
    return found


def classes_of(store: Store, evidence: Evidence) -> Classes | None:
    """The classes of a classifier, or captions as classes: these only where at most 200 repeat ten times or more on average.

    None where captions are no classes, and for answers of language models.
    """
    if evidence.probabilities is not None:
        of = evidence.words_space.argmax(axis=1)
        log_p = np.log(np.maximum(evidence.probabilities.astype(np.float64), 1e-30))
        return Classes(described.classes_of(store), of, log_p, evidence.unseen)
    if not evidence.expects:
        return None
    captions = store.examples.words[: store.n_train]
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
    of = numbered(captions)
    unseen = evidence.unseen[: store.n_checkpoints]
    return Classes(tuple(str(c) for c in distinct), of, log_p_of_captions(cosines, of, unseen), unseen)


def mean_posterior(classes: Classes, where: np.ndarray) -> np.ndarray:
    """Mean probability over the checkpoints where `where` [M, n] holds (all where none does): float64 [n, C]."""
    p = np.exp(classes.log_p)
    count = where.sum(axis=0)[:, None]
    total = np.where(where[..., None], p, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), p.mean(axis=0))
