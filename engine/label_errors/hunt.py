"""`traklens hunt`: the ranking of suspects beside its baselines, measured against a known truth where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from traklens.engine.attribution.described import is_matching
from traklens.engine.label_errors.baselines import baselines, cosine_of_pairs
from traklens.engine.label_errors.ground_truth import truth_columns, wrong_pairs
from traklens.engine.label_errors.second_pass import look_again
from traklens.engine.label_errors.signals import gather, mean_where, trained_on
from traklens.engine.label_errors.suspects import Suspects, find_suspects
from traklens.engine.progress import Report, silent
from traklens.stores.store import Store

OURS = "traklens"
PRECISION_AT = (50, 100, 500)
CURVE_POINTS = 200


@dataclass(frozen=True)
class Found:
    """How well a ranking finds the wrong pairs.

    auroc: chance that a wrong pair is ranked above a right one; auprc: average precision; precision: share of wrong
    pairs among the first 50, 100, 500; curve: (inspected, found) counts.
    """

    auroc: float
    auprc: float
    precision: dict[str, float]
    curve: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "auroc": self.auroc,
            "auprc": self.auprc,
            "precision": self.precision,
            "curve": [list(point) for point in self.curve],
        }


def measure(scores: np.ndarray, wrong: np.ndarray, points: int = CURVE_POINTS) -> Found:
    """Judge a ranking (larger = more suspect, [n]) by the truth (bool [n], some of each kind)."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    order = np.argsort(-scores, kind="stable")
    found = np.concatenate([[0], np.cumsum(wrong[order])])
    steps = np.unique(np.linspace(0, wrong.size, min(points, wrong.size) + 1).astype(int))
    return Found(
        auroc=float(roc_auc_score(wrong, scores)),
        auprc=float(average_precision_score(wrong, scores)),
        precision={str(k): float(found[k] / k) for k in PRECISION_AT if k <= wrong.size},
        curve=tuple((int(k), int(found[k])) for k in steps),
    )


def rankings(store: Store, report: Report = silent) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every ranking of this store by name, ours first, and which of them are baselines."""
    evidence = gather(store, report, witnesses=False)  # baselines know the checkpoints alone
    compared = baselines(store, evidence)
    suspects = find_suspects(store, report, renew=True)
    return {OURS: suspects.score, **suspects.signals, **compared}, list(compared)


def judged(found: Mapping[str, np.ndarray], names: list[str], wrong: np.ndarray) -> dict[str, Any]:
    """The fixed JSON contract of `traklens hunt --truth`: {"methods", "baselines", "wrong", "pairs"}."""
    return {
        "methods": {name: measure(scores, wrong).to_json() for name, scores in found.items()},
        "baselines": names,
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
    if wrong is None:
        return find_suspects(store, report, renew=True), None
    found, names = rankings(store, report)
    return find_suspects(store, report), judged(found, names, wrong)


@dataclass(frozen=True)
class KnownTruth:
    """A truth the data set holds: its column, how many pairs are wrong by it, and (inspected, found) per ranking."""

    column: str
    wrong: int
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


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
    return KnownTruth(columns[0], int(wrong.sum()), curves)
