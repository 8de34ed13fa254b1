"""Leave-k-out: remove what a method holds most responsible for a target, retrain, see how far the target falls.

Source: TRAK (arXiv 2303.14186), section 5.2 (CLIP): the drop of the target's cosine after removing its top proponents.
No torch: plans and results; the training is `traklens.engine.retraining.worker`'s.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from traklens.engine.attribution.methods import METHODS as SCORED
from traklens.engine.attribution.methods import scores_of
from traklens.engine.attribution.scores import stored_target
from traklens.engine.removal.simulation import CHOICES, choose
from traklens.engine.retraining.jobs import MOST_SEEDS, ModelToTrain
from traklens.engine.retraining.measurements import Measured, Measurements
from traklens.engine.statistics import Interval, bootstrap, two_way
from traklens.stores.retrained import Request, Retrained, Status
from traklens.stores.store import Store

METHODS = tuple(dict.fromkeys((*CHOICES, *SCORED)))


def chosen_rows(store: Store, target: int, method: str, k: int) -> np.ndarray:
    """The k training rows a method would remove to harm a target most: int64 [≤ k]."""
    if method in CHOICES:
        return choose(store, stored_target(store, target), method, k)
    scores = scores_of(store, method, np.array([target])).scores[0]
    if target < store.n_train:
        scores[target] = -np.inf  # the pair itself is what is asked about
    return np.argsort(-scores, kind="stable")[:k]


def requests(
    store: Store, targets: Iterable[int], methods: Sequence[str], sizes: Sequence[int], seeds: int
) -> list[Request]:
    """One removal per target, method and size; a random one of a size has the same rows for every target."""
    return [
        Request(
            rows=tuple(int(row) for row in chosen_rows(store, target, method, size)),
            seeds=seeds,
            target=int(target),
            choice=f"{method} {size}",
            random_control=False,
            origin="evaluate",
        )
        for size in sizes
        for method in methods
        for target in targets
    ]


def controls_for(store: Store, wanted: Sequence[Request]) -> list[ModelToTrain]:
    """The models of all training examples that these removals are to be measured against.

    A removal's change has the variance σ²·(1/R + 1/C) over R seeds and C controls, and all A removals share the controls: for
    a given number of models it is least at C = R·√A.
    """
    seeds, removals = max((request.seeds for request in wanted), default=0), len({request.rows for request in wanted})
    count = min(MOST_SEEDS, round(seeds * np.sqrt(removals)))
    return [ModelToTrain(np.ones(store.n_train, dtype=bool), seed) for seed in range(count)]


def keep_requests(store: Store, wanted: Sequence[Request]) -> None:
    """Write finished removals down as jobs, so that calibration and the app find them."""
    retrained = Retrained(store.path)
    for request in wanted:
        name = hashlib.sha256(repr((request.target, request.choice, request.rows)).encode()).hexdigest()[:12]
        job = retrained.add_job(request, f"evaluate-{name}")
        retrained.write_status(job, Status("done", request.seeds, request.seeds))


def drops(store: Store, done: Sequence[Request]) -> dict[str, dict[str, dict[str, float]]]:
    """{k: {method: {"drop", "lo", "hi", "similarity_drop", …, "targets"}}} over the finished removals.

    A drop is minus the mean measured change of f, with the 95 % interval over targets and over retrainings, of which the
    targets share the controls, and random removals all; and of the cosine, with the interval over targets alone.
    """
    measurements = Measurements(store)
    found: dict[str, dict[str, list]] = {}
    for request in done:
        measured = measurements.of(request)
        if measured is not None:
            method, size = request.choice.split()
            found.setdefault(size, {}).setdefault(method, []).append(measured)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for size in sorted(found, key=int):
        result[size] = {}
        for method, all_measured in found[size].items():
            f = drop_of(all_measured)
            cosine = bootstrap(np.array([-m.similarity_change for m in all_measured]))
            result[size][method] = {
                "drop": f.mean,
                "lo": f.lo,
                "hi": f.hi,
                "similarity_drop": cosine.mean,
                "similarity_lo": cosine.lo,
                "similarity_hi": cosine.hi,
                "targets": len(all_measured),
            }
    return result


def drop_of(measured: Sequence[Measured]) -> Interval:
    """Mean drop of f over targets, with the interval over these and over retrainings with their part of the controls."""
    values = np.array([-one.change for one in measured])
    seeds = min(len(one.apart) for one in measured)
    apart = -np.array([one.apart[:seeds] for one in measured]).reshape(len(measured), seeds)
    if seeds < 2:
        return two_way(values, np.empty((0, values.size)))
    total = apart.sum(axis=1)
    return two_way(values, np.stack([(total - apart[:, seed]) / (seeds - 1) for seed in range(seeds)]))
