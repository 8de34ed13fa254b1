"""A likelier caption for a training pair: from the caption bank and from the pairs with the nearest images. No torch."""

import numpy as np

from traklens.engine.attribution.described import PROBABILITIES, classes_of, is_answering, is_matching
from traklens.engine.attribution.scores import stored_target
from traklens.engine.label_errors.signals import trained_on
from traklens.stores.store import Store

NEAR = 30
WALKED = 1_000  # training pairs whose captions are looked at, those that match best
SHOWN = 4


def suggestions(store: Store, row: int, *, count: int = SHOWN) -> list[str]:
    """Other captions of the training set for the image of a stored pair, likeliest first; never its own caption.

    A caption scores its mean cosine to the image over the checkpoints, plus the share of the 30 pairs with the nearest
    images (other pictures than its own) that carry it. Of a classifier the likeliest classes other than the label, by the
    models that did not train on the example. Of an input with an answer those of the 30 nearest other inputs, the commonest
    first. Empty when there is no other, or nothing to tell by.
    """
    if classes_of(store):
        return _likeliest_classes(store, row, count)
    if is_answering(store):
        return _answers_of_neighbours(store, row, count)
    if not is_matching(store):
        return []
    query = stored_target(store, row).similarity_query.reshape(store.n_checkpoints, 2, -1)
    by_caption, by_image = np.zeros_like(query), np.zeros_like(query)
    by_caption[:, 1] = by_image[:, 0] = query[:, 0]
    captions, images = store.examples.words[: store.n_train], store.examples.group[: store.n_train]
    to_captions = 2 * store.similarity.scores(by_caption.ravel())
    to_images = np.where(images == store.examples.group[row], -np.inf, store.similarity.scores(by_image.ravel()))
    near = np.argsort(-to_images, kind="stable")[:NEAR]
    near = near[np.isfinite(to_images[near])]
    share = dict.fromkeys([str(captions[i]) for i in near], 0.0)
    cosine: dict[str, float] = {}
    for i in near:
        share[str(captions[i])] += 1 / len(near)
    for i in [*near, *np.argsort(-to_captions, kind="stable")[:WALKED]]:
        cosine[str(captions[i])] = max(cosine.get(str(captions[i]), -1.0), float(to_captions[i]))
    cosine.pop(str(store.examples.words[row]), None)
    return sorted(cosine, key=lambda caption: -cosine[caption] - share.get(caption, 0.0))[:count]


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
