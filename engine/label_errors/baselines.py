"""What a hunt for wrong captions is measured against, from the same store. The larger, the more suspect. No torch.

p_seen, p_unseen    1 − p of the pair under checkpoints that trained on it, and under those that did not
cosine              −cosine of image and caption (CLIP score; arXiv 2104.08718), all checkpoints
cleanlab            confident learning (arXiv 1911.00068) by the cleanlab library, out-of-sample probabilities, where
                    captions are classes, and for every classifier
lemon               multimodal neighbours (LEMoN, arXiv 2407.18941) with fixed weights
random              a seeded draw
"""

from collections.abc import Callable

import numpy as np

from traklens.engine.label_errors.neighbours import embedding_space
from traklens.engine.label_errors.posteriors import classes_of, mean_posterior
from traklens.engine.label_errors.signals import Evidence, mean_where
from traklens.stores.store import Store

LEMON_WEIGHT, LEMON_NEAR, LEMON_MATCHED = 5.0, 0.1, 5.0  # β = γ, τ1 and τ2


def one_minus_p(store: Store, evidence: Evidence, where: np.ndarray) -> np.ndarray:
    """1 − p (both directions of a pair; of a label) over the checkpoints `where` [M, n]: [n]."""
    q = np.stack([np.asarray(store.array(m, "q")[: store.n_train]) for m in range(store.n_checkpoints)])
    return mean_where(q, where[: len(q)], q.mean(axis=0))


def cosine(store: Store, evidence: Evidence) -> np.ndarray | None:
    """−mean cosine of image and caption: [n]; None without captions."""
    if evidence.text is None:
        return None
    return -np.einsum("nd,nd->n", evidence.image_space, evidence.words_space)


def cosine_of_pairs(store: Store) -> np.ndarray:
    """Mean cosine of image and caption over the checkpoints: [n]."""
    image, text = (embedding_space(store, name) for name in ("image_embedding", "text_embedding"))
    return np.einsum("nd,nd->n", image, text)


def lemon(store: Store, evidence: Evidence) -> np.ndarray | None:
    """d(image, caption) + β·distance of the captions of near images + γ·distance of the images of near captions.

    A neighbour counts by exp(−τ1·its distance)·exp(−τ2·the distance of its own image and caption): [n]; None without
    captions.
    """
    apart_by_cosine = cosine(store, evidence)
    if apart_by_cosine is None or evidence.text is None:
        return None
    own = 1 + apart_by_cosine
    total = own.copy()
    for near, other in ((evidence.image, evidence.words_space), (evidence.text, evidence.image_space)):
        weight = np.exp(-LEMON_NEAR * (1 - near.cosines) - LEMON_MATCHED * own[near.rows])
        for k in range(near.rows.shape[1]):
            apart = 1 - np.einsum("nd,nd->n", other, other[near.rows[:, k]])
            total += LEMON_WEIGHT * weight[:, k] * apart / near.rows.shape[1]
    return total


def cleanlab(store: Store, evidence: Evidence) -> np.ndarray | None:
    """1 − cleanlab's label quality score; None where captions are no classes: [n]."""
    classes = classes_of(store, evidence)
    if classes is None:
        return None
    from cleanlab.rank import get_label_quality_scores

    probabilities = mean_posterior(classes, classes.unseen)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return 1 - get_label_quality_scores(classes.of, probabilities)


def random(store: Store, evidence: Evidence) -> np.ndarray:
    return np.random.default_rng(7).random(store.n_train)


BASELINES: dict[str, Callable[[Store, Evidence], np.ndarray | None]] = {
    "p_seen": lambda store, evidence: one_minus_p(store, evidence, ~evidence.unseen),
    "p_unseen": lambda store, evidence: one_minus_p(store, evidence, evidence.unseen),
    "cosine": cosine,
    "cleanlab": cleanlab,
    "lemon": lemon,
    "random": random,
}


def baselines(store: Store, evidence: Evidence) -> dict[str, np.ndarray]:
    """Every baseline that this store allows: [n_train] each."""
    found = {name: compute(store, evidence) for name, compute in BASELINES.items()}
    return {name: values for name, values in found.items() if values is not None}
