"""What features cost on this machine: seconds per pair and checkpoint, measured on some stored pairs."""

import time
from dataclasses import dataclass

import numpy as np

from traklens.engine.attribution.new_target import LiveModels, reference_mask
from traklens.engine.build.source import PairLoader
from traklens.engine.retraining.worker import open_source
from traklens.stores.store import Store

PAIRS = 64


@dataclass(frozen=True)
class Cost:
    """Seconds per pair and checkpoint: `embedding` for u and v, `gradient` for the projected gradient too."""

    embedding: float
    gradient: float


def seconds_per_pair(store: Store) -> Cost:
    """Measure both on the first pairs of the store; the best of three, after one call that compiles."""
    models = LiveModels(store)
    featurizer, (references, rows) = models.featurizers[0], models.references[0]
    count = min(PAIRS, store.n)
    pixels, tokens = PairLoader(open_source(store)).load(0, count)
    captions, images = (np.asarray(x[:count]) for x in (store.examples.caption, store.examples.image_id))
    keep = reference_mask(store.examples, captions, images, rows)
    ids = [str(id) for id in store.examples.id[:count]]

    def best(call) -> float:
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:]) / count

    embedding = best(lambda: featurizer.embed(pixels, tokens))
    gradient = best(lambda: featurizer.project(pixels, tokens, keep, references, ids))
    return Cost(embedding, embedding + gradient)
