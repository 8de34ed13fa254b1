"""What features cost on this machine: seconds per pair and checkpoint, measured on some stored pairs."""

import time
from dataclasses import dataclass

from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.retraining.retrainer import open_source
from traklens.engine.tasks.contract import Task
from traklens.engine.tasks.loading import Loader
from traklens.stores.store import Store

PAIRS = 64


@dataclass(frozen=True)
class Cost:
    """Seconds per pair and checkpoint: `embedding` for u and v, `gradient` for the projected gradient too."""

    embedding: float
    gradient: float


def seconds_per_pair(store: Store, task: Task | None = None) -> Cost:
    """Measure both on the first pairs of the store; the best of three, after one call that compiles."""
    models = LiveModels(store, task=task)
    featurizer, context = models.featurizers[0], models.contexts[0]
    count = min(PAIRS, store.n)
    batch = Loader(models.task, open_source(store, task=models.task).rows).load(0, count)
    ids = [str(id) for id in store.examples.id[:count]]

    def best(call) -> float:
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:]) / count

    embedding = best(lambda: featurizer.embed(batch))
    gradient = best(lambda: featurizer.project(batch, context, ids))
    return Cost(embedding, embedding + gradient)
