"""`traklens hunt`: the ranking of suspects beside its baselines, measured against a known truth where there is one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from traklens.engine.attribution.described import is_matching
from traklens.engine.label_errors.baselines import baselines, cosine_of_pairs
from traklens.engine.label_errors.ground_truth import truth_columns, wrong_pairs
from traklens.engine.label_errors.measured import Suggested, lead, measure, measure_suggestions
from traklens.engine.label_errors.second_pass import look_again
from traklens.engine.label_errors.signals import gather, mean_where, trained_on
from traklens.engine.label_errors.suspects import Suspects, find_suspects
from traklens.engine.progress import Report, silent
from traklens.stores.store import Store

OURS = "traklens"


def rankings(store: Store, report: Report = silent) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every ranking of this store by name, ours first, and which of them are baselines."""
    evidence = gather(store, report, witnesses=False)  # baselines know the checkpoints alone
    compared = baselines(store, evidence)
    suspects = find_suspects(store, report, renew=True)
    return {OURS: suspects.score, **suspects.signals, **compared}, list(compared)


def judged(found: Mapping[str, np.ndarray], names: list[str], wrong: np.ndarray) -> dict[str, Any]:
    """The fixed JSON contract of `traklens hunt --truth`: {"methods", "baselines", "lead", "wrong", "pairs"}.

    lead: of ours over the baseline with the largest AUROC, {"over", "mean", "lo", "hi"}.
    """
    methods = {name: measure(scores, wrong) for name, scores in found.items()}
    best = max(names, key=lambda name: methods[name].auroc)
    return {
        "methods": {name: one.to_json() for name, one in methods.items()},
        "baselines": names,
        "lead": {"over": best} | lead(found[OURS], found[best], wrong),
        "wrong": int(wrong.sum()),
        "pairs": int(wrong.size),
    }


def hunt(
    store: Store, *, truth: str | None = None, retrain: int | None = None, report: Report = silent
) -> tuple[Suspects, dict[str, Any] | None]:
    """The suspects of a store and, with a column of true captions, how well they and the baselines find the wrong ones.

    `retrain` trains that many models without the suspects first. Raises UsageError for a column that is no truth.
    """
    wrong = None if truth is None else wrong_pairs(store, truth)
    if retrain is not None:
        look_again(store, retrain, report)
    if truth is None or wrong is None:
        return find_suspects(store, report, renew=True), None
    found, names = rankings(store, report)
    suspects = find_suspects(store, report)
    suggested = measure_suggestions(store, suspects, truth, wrong)
    measured = judged(found, names, wrong)
    return suspects, measured if suggested is None else measured | {"suggestions": asdict(suggested)}


@dataclass(frozen=True)
class KnownTruth:
    """A truth the data set holds: its column, how many pairs are wrong by it, (inspected, found) per ranking, and how good
    suggestions are, where it tells."""

    column: str
    wrong: int
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    suggested: Suggested | None


def _plain_ranking(store: Store) -> dict[str, np.ndarray]:
    """What people would rank by without this project: CLIP's cosine, or 1 − p of the label."""
    if is_matching(store):
        return {"CLIP cosine": -cosine_of_pairs(store)}
    q = np.stack([np.asarray(store.array(m, "q")[: store.n_train]) for m in range(store.n_checkpoints)])
    return {"1 − p of the label": mean_where(q, ~trained_on(store), q.mean(axis=0))}


def known_truth(store: Store, suspects: Suspects) -> KnownTruth | None:
    """How many wrong ones are found after inspecting so many: by our ranking, by CLIP's cosine or a classifier's doubt, and
    at random.

    None when no column of the data set looks like a truth.
    """
    columns = truth_columns(store)
    if not columns:
        return None
    wrong = wrong_pairs(store, columns[0])
    found = {"this ranking": suspects.score, **_plain_ranking(store)}
    curves = {}
    for name, scores in found.items():
        points = np.array(measure(scores, wrong, wrong.size).curve)
        curves[name] = (points[:, 0], points[:, 1])
    inspected = curves["this ranking"][0]
    curves["at random"] = (inspected, inspected * wrong.mean())
    return KnownTruth(columns[0], int(wrong.sum()), curves, measure_suggestions(store, suspects, columns[0], wrong))
