"""What the models make of an example, beside f: how it is matched, or what it is taken for. No torch.

Which of these a store can say follows from the arrays it holds, not from the name of its task.
"""

from dataclasses import dataclass

import numpy as np

from traklens.stores.specs import CLIP
from traklens.stores.store import Store

PROBABILITIES = "probabilities"
LANGUAGE = ("seq2seq", "causal_lm")  # the tasks whose models answer in words


@dataclass(frozen=True)
class Match:
    """Of an image and its caption: mean cosine, and p image → text and text → image, means over the checkpoints.

    The ranks count from 1 among the captions (images) of the training pairs; 0 for the mean of several pairs.
    """

    similarity: float
    p: tuple[float, float]
    rank_image_to_text: int
    rank_text_to_image: int


@dataclass(frozen=True)
class Guess:
    """What the models take an example for: the class of the highest mean probability, its p, and the p of its label."""

    predicted: str
    p: float
    p_label: float


def is_matching(store: Store) -> bool:
    """Whether the store's examples are images with captions in one space of embeddings."""
    return store.task.embeddings == CLIP.embeddings


def is_language(store: Store) -> bool:
    """Whether the models answer in words: an input or a beginning can be typed."""
    return store.task.name in LANGUAGE and not store.task.source


def is_answering(store: Store) -> bool:
    """Whether the examples are inputs with answers that could be wrong."""
    return is_language(store) and store.task.title != store.task.fields[0].name


def classes_of(store: Store) -> tuple[str, ...]:
    """The classes in the order of their probabilities; none where the store has no classes."""
    return tuple(store.manifest.model.config.get("classes", ()))


def mean_probabilities(store: Store, row: int) -> np.ndarray:
    """Probability of each class for a stored example, mean over the checkpoints: float64 [C]."""
    found = np.stack([store.row(m, PROBABILITIES, row) for m in range(store.n_checkpoints)])
    return found.mean(axis=0, dtype=np.float64)


def guess_of(store: Store, probabilities: np.ndarray, label: str) -> Guess:
    """What probabilities [C] say about an example with this label."""
    classes = classes_of(store)
    best = int(np.argmax(probabilities))
    own = float(probabilities[classes.index(label)]) if label in classes else 0.0
    return Guess(classes[best], float(probabilities[best]), own)


def stored_guess(store: Store, row: int) -> Guess | None:
    """What the models take a stored example for; None where the store has no classes."""
    if not classes_of(store) or not store.has(PROBABILITIES):
        return None
    return guess_of(store, mean_probabilities(store, row), str(store.examples.words[row]))


def stored_match(store: Store, row: int, similarity_query: np.ndarray) -> Match | None:
    """How a stored pair is matched; None where the store holds no pairs."""
    if not is_matching(store):
        return None
    p = np.mean([store.row(m, "p", row) for m in range(store.n_checkpoints)], axis=0)
    return match_of(
        store, similarity_query, store.examples.words[row], store.examples.group[row], (float(p[0]), float(p[1]))
    )


def match_of(
    store: Store, similarity_query: np.ndarray, caption: str, image_id: str, p: tuple[float, float]
) -> Match:
    """How a pair is matched, from its embeddings concat_m(u, v) [2·M·e] and its mean probabilities."""
    pair = similarity_query.reshape(store.n_checkpoints, 2, -1)
    own = [float(u @ v) for u, v in pair]
    return Match(float(np.mean(own)), p, *retrieval_ranks(store, similarity_query, caption, image_id))


def retrieval_ranks(
    store: Store, similarity_query: np.ndarray, caption: str, image_id: str | None
) -> tuple[int, int]:
    """Rank of the own caption for the image and of the own image for the caption, by mean cosine (1 = best).

    Counted among the distinct captions (images) of the training pairs; pairs with the same caption or the same image
    are right answers too, and no rivals. similarity_query: concat_m(u, v) [2·M·e].
    """
    pair = similarity_query.reshape(store.n_checkpoints, 2, -1)
    own = float((pair[:, 0] * pair[:, 1]).sum()) / (2 * store.n_checkpoints)
    captions, images = store.examples.words[: store.n_train], store.examples.group[: store.n_train]
    rivals = (captions != caption) & (images != image_id)
    better_captions = captions[(matches(store, pair, image=True) > own) & rivals]
    better_images = images[(matches(store, pair, image=False) > own) & rivals]
    return 1 + len(set(better_captions)), 1 + len(set(better_images))


def matches(store: Store, pair: np.ndarray, *, image: bool) -> np.ndarray:
    """Half the mean cosine of a pair's image with every training caption, or of its caption with every training image.

    pair: its embeddings [M, 2, e].
    """
    query = np.zeros_like(pair)
    query[:, 1 if image else 0] = pair[:, 0 if image else 1]  # u against every V_i, or v against every U_i
    return store.similarity.scores(query.ravel())


def probabilities_of(store: Store) -> np.ndarray:
    """Probability of each class for every example, mean over the checkpoints: float64 [n, C]."""
    total = np.zeros((store.n, len(classes_of(store))))
    for m in range(store.n_checkpoints):
        total += np.asarray(store.array(m, PROBABILITIES)[:])
    return total / store.n_checkpoints
