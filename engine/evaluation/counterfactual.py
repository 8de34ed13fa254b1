"""Taken out, are the facts forgotten? What the sentences are worth that a method holds responsible for an answer.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 4.2: the model is trained again without the sentences that each
method ranks first, and without those that state the fact. There every fact has models of its own; here the sentences of all
chosen facts are taken out together, as many for each by every method, so that a method takes one model a seed. What that does
to any fact, whichever sentences go, is seen at those drawn at random.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from traklens.engine.evaluation.fact_tracing import TRACED, Queries, by_sentence
from traklens.engine.progress import Report, silent
from traklens.engine.retraining.jobs import MOST_SEEDS, ModelToTrain, kept_without, retraining_method
from traklens.engine.statistics import bootstrap
from traklens.engine.streams import generator
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.retrained import Retrained, RetrainedModel, model_key
from traklens.stores.store import Store

if TYPE_CHECKING:
    from traklens.engine.tasks.contract import Task

RELEVANT = "relevant"  # all sentences that state the fact
REMOVED_BY = ("trak", "clip", "bm25", RELEVANT, "random")
ANSWERED = ("log_p", "exact")  # arrays of a retrained model that tell what it answers
FIRST_SEED = 100_000  # apart from other retrainings, which do not keep these arrays


def forgotten(
    store: Store,
    queries: Queries,
    k: int,
    *,
    methods: Sequence[str] | None = None,
    facts: int = 64,
    seeds: int = 3,
    task: "Task | None" = None,
    report: Report = silent,
) -> dict[str, Any]:
    """{"known", "facts", "k", "seeds", "methods": {method: {"drop", "lo", "hi", "lost", "facts", "sentences", …}}}.

    Of `facts` facts that models trained on everything know (each token of the answer the likeliest, under every seed), the k
    sentences that each method ranks first are taken out together. A drop is that of log p of the answer, with the 95 %
    interval over facts; `behind_trak` is TRAK's drop less the method's, on the same facts; `lost` how many of the facts are
    not known afterwards, the mean over seeds. What was trained is kept: interrupted, it goes on.

    Raises UsageError for values out of range, an unknown method or models that know none of the facts.
    """
    sentences = queries.relevant.shape[1]
    for name, value, most in (
        ("counterfactual", k, sentences // 2),
        ("facts", facts, 100_000),
        ("seeds", seeds, MOST_SEEDS),
    ):
        if not 1 <= value <= most:
            raise UsageError(name, str(value), f"1 to {most:,}", "Choose a value in between.")
    unknown = [name for name in methods or () if name not in (*TRACED, RELEVANT)]
    if unknown:
        raise UsageError("methods", unknown[0], ", ".join((*TRACED, RELEVANT)), "Choose among them.")
    everything = np.ones(store.n_train, dtype=bool)
    _train(store, [everything], seeds, task, report)
    control = _answers(store, everything, queries.rows, seeds)
    known = np.flatnonzero(control["exact"].all(axis=0))
    if not known.size:
        raise UsageError(
            "counterfactual",
            f"models that know none of {len(queries.rows):,} facts",
            "some facts to be forgotten",
            "Train longer, or on more sentences.",
        )
    chosen = np.sort(generator("counterfactual facts", store.n_train).permutation(known)[:facts])
    taken = {
        method: np.unique(np.concatenate(taken_out(store, queries, method, k, chosen)))
        for method in methods or REMOVED_BY
    }
    kept = {
        method: kept_without(store.n_train, np.flatnonzero(np.isin(queries.sentence, some)))
        for method, some in taken.items()
    }
    _train(store, list(kept.values()), seeds, task, report)
    before = control["log_p"][:, chosen].mean(axis=0)
    drops, found = {}, {}
    for method, some in taken.items():
        after = _answers(store, kept[method], queries.rows, seeds)
        drops[method] = before - after["log_p"][:, chosen].mean(axis=0)
        interval = bootstrap(drops[method])
        found[method] = {
            "drop": interval.mean,
            "lo": interval.lo,
            "hi": interval.hi,
            "lost": float((1 - after["exact"][:, chosen]).sum(axis=1).mean()),
            "facts": int(chosen.size),
            "sentences": int(some.size),
        }
    for method, row in found.items():
        if "trak" in drops:
            row["behind_trak"] = asdict(bootstrap(drops["trak"] - drops[method]))
    return {"known": int(known.size), "facts": int(chosen.size), "k": k, "seeds": seeds, "methods": found}


def taken_out(store: Store, queries: Queries, method: str, k: int, chosen: np.ndarray) -> list[np.ndarray]:
    """Of each chosen query the k sentences that a method ranks first; all that state its fact for "relevant"."""
    if method == RELEVANT:
        return [np.flatnonzero(queries.relevant[query]) for query in chosen]
    some = Queries(queries.rows[chosen], queries.relevant[chosen], queries.sentence)
    return list(np.argsort(-by_sentence(store, some, method), axis=1, kind="stable")[:, :k])


def _models(kept: np.ndarray, seeds: int) -> list[ModelToTrain]:
    return [ModelToTrain(kept, FIRST_SEED + seed, arrays=True) for seed in range(seeds)]


def _train(store: Store, parts: Sequence[np.ndarray], seeds: int, task: "Task | None", report: Report) -> None:
    """Train what is missing of the models of these parts, the first seed of all of them first."""
    from traklens.engine.retraining.worker import train_models

    wanted = [model for by_seed in zip(*(_models(kept, seeds) for kept in parts), strict=True) for model in by_seed]
    train_models(store, wanted, task=task, report=report)


def _answers(store: Store, kept: np.ndarray, rows: np.ndarray, seeds: int) -> dict[str, np.ndarray]:
    """log p of the answers and whether they are exact, under models trained on the kept rows: float64 [seeds, T] each."""
    retrained, way = Retrained(store.path), retraining_method(store).digest
    models = [retrained.read(model_key(way, kept, model.seed)) for model in _models(kept, seeds)]
    return {name: np.stack([_array(store, model, name)[rows] for model in models]) for name in ANSWERED}


def _array(store: Store, model: RetrainedModel, name: str) -> np.ndarray:
    if name not in model.arrays:
        raise StoreError(
            f"a retrained model of {store.path}", f"no {name}", "a language model's task", "Build the store again."
        )
    return model.arrays[name].astype(np.float64)
