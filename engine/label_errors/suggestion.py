"""A likelier caption, label or answer for a training example, out of those that the training set has. No torch."""

import numpy as np

from traklens.engine.attribution.described import PROBABILITIES, classes_of, is_answering, is_matching
from traklens.engine.attribution.scores import stored_target
from traklens.engine.label_errors.predictors import standard
from traklens.engine.label_errors.signals import trained_on
from traklens.engine.label_errors.suspects import Suspects
from traklens.stores.store import Store

NEAR = 30
SHOWN = 4


def suggestions(store: Store, row: int, suspects: Suspects, *, count: int = SHOWN) -> list[str]:
    """Other captions of the training set for the image of a stored pair, likeliest first; never its own caption.

    A caption scores its cosine to the image under the models that did not train on the pair, plus its product with where a
    ridge regression from images to captions expects it, the pair left out; each standardised over the distinct captions. Of
    a classifier the likeliest classes other than the label, by the models that did not train on the example. Of an input with
    an answer those of the 30 nearest other inputs, the commonest first. Empty when there is no other, or nothing to tell by.
    """
    if classes_of(store):
        return _likeliest_classes(store, row, count)
    if is_answering(store):
        return _answers_of_neighbours(store, row, count)
    if not is_matching(store):
        return []
    if suspects.captions_of is None:
        return []
    pair = np.stack([list(store.embeddings(m, row).values()) for m in range(store.n_checkpoints)]).astype(np.float32)
    image, caption = (pair[:, side].ravel()[None] / np.sqrt(len(pair)) for side in (0, 1))
    unseen = ~trained_on(store)[:, row]
    by_models, by_ridge = np.zeros_like(pair), np.zeros_like(pair)
    by_models[:, 1] = pair[:, 0] * (unseen if unseen.any() else ~unseen)[:, None]
    by_ridge[:, 1] = suspects.captions_of.without(np.array([row]), image, caption).reshape(len(pair), -1)
    captions, bank = np.unique(store.examples.words[: store.n_train], return_index=True)
    score = sum(standard(store.similarity.scores(query.ravel())[bank]) for query in (by_models, by_ridge))
    best = np.argsort(-score, kind="stable")[: count + 1]
    return [str(captions[i]) for i in best if captions[i] != store.examples.words[row]][:count]


def _answers_of_neighbours(store: Store, row: int, count: int) -> list[str]:
    """Answers other than its own of the nearest other inputs: by the sum of their cosines, the clearest first."""
    cosines = store.similarity.scores(stored_target(store, row).similarity_query).astype(np.float64)
    cosines[store.examples.group[: store.n_train] == store.examples.group[row]] = -np.inf
    near = np.argsort(-cosines, kind="stable")[:NEAR]
    answers, own = store.examples.words, str(store.examples.words[row])
    votes: dict[str, float] = {}
    for other in near[np.isfinite(cosines[near])]:
        votes[str(answers[other])] = votes.get(str(answers[other]), 0.0) + float(cosines[other])
    votes.pop(own, None)
    return sorted(votes, key=lambda answer: -votes[answer])[:count]


def _likeliest_classes(store: Store, row: int, count: int) -> list[str]:
    """Classes other than the label, by mean probability under the models that did not see the example (all if all did)."""
    p = np.stack([store.row(m, PROBABILITIES, row) for m in range(store.n_checkpoints)])
    unseen = ~trained_on(store)[:, row] if row < store.n_train else np.ones(len(p), dtype=bool)
    mean = p[unseen].mean(axis=0) if unseen.any() else p.mean(axis=0)
    classes, own = classes_of(store), str(store.examples.words[row])
    return [classes[c] for c in np.argsort(-mean, kind="stable") if classes[c] != own][:count]
