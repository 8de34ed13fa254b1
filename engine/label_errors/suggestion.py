"""A likelier caption for a training pair: from the caption bank and from the pairs with the nearest images. No torch."""

import numpy as np

from traklens.engine.attribution.scores import stored_target
from traklens.stores.store import Store

NEAR = 30
WALKED = 1_000  # training pairs whose captions are looked at, those that match best
SHOWN = 4


def suggestions(store: Store, row: int, *, count: int = SHOWN) -> list[str]:
    """Other captions of the training set for the image of a stored pair, likeliest first; never its own caption.

    A caption scores its mean cosine to the image over the checkpoints, plus the share of the 30 pairs with the nearest
    images (other pictures than its own) that carry it. Empty when there is no other caption.
    """
    query = stored_target(store, row).similarity_query.reshape(store.n_checkpoints, 2, -1)
    by_caption, by_image = np.zeros_like(query), np.zeros_like(query)
    by_caption[:, 1] = by_image[:, 0] = query[:, 0]
    captions, images = store.examples.caption[: store.n_train], store.examples.image_id[: store.n_train]
    to_captions = 2 * store.similarity.scores(by_caption.ravel())
    to_images = np.where(images == store.examples.image_id[row], -np.inf, store.similarity.scores(by_image.ravel()))
    near = np.argsort(-to_images, kind="stable")[:NEAR]
    near = near[np.isfinite(to_images[near])]
    share = dict.fromkeys([str(captions[i]) for i in near], 0.0)
    cosine: dict[str, float] = {}
    for i in near:
        share[str(captions[i])] += 1 / len(near)
    for i in [*near, *np.argsort(-to_captions, kind="stable")[:WALKED]]:
        cosine[str(captions[i])] = max(cosine.get(str(captions[i]), -1.0), float(to_captions[i]))
    cosine.pop(str(store.examples.caption[row]), None)
    return sorted(cosine, key=lambda caption: -cosine[caption] - share.get(caption, 0.0))[:count]
