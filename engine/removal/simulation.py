"""What if these pairs had not been there: choosing a set, predicting its effect, and whom else it touches. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from traklens.engine.attribution.scores import Ranked, Target, rank, ranked
from traklens.engine.removal.calibration import LEAST_POINTS, Calibration, calibrate
from traklens.engine.removal.effect import MOST_ROWS, Removal, curve, most_damaging, remove
from traklens.engine.retraining.jobs import random_rows
from traklens.stores.errors import UsageError
from traklens.stores.store import Store

CHOICES = ("trak", "greedy", "clip", "random")
POOL = 4  # the greedy choice is made among this many times k proponents
RANDOM_SEED = 1_000  # the random set that is shown and measured beside the others
AT_MOST_COLLATERAL = 20_000


@dataclass(frozen=True)
class Prediction:
    """Predicted change of f. `calibrated` and `interval` (90 %) are None until enough removals were retrained."""

    group: float
    additive: float
    calibrated: float | None
    interval: tuple[float, float] | None

    @property
    def why_no_interval(self) -> str | None:
        """The reason in words, where there is no interval."""
        if self.interval is not None:
            return None
        return f"No interval yet: it needs {LEAST_POINTS} removals of this store that were checked by retraining."


def most_removable(store: Store) -> int:
    """The largest set that can be removed."""
    return max(1, min(MOST_ROWS, store.n_train // 2))


def choose(store: Store, target: Target, choice: str, k: int) -> np.ndarray:
    """The k training rows to remove, most decisive first: int64 [≤ k]. A training target itself is never chosen.

    trak: its top proponents. greedy: chosen one by one by the group effect. clip: the most similar pairs. random.
    Raises UsageError for an unknown choice or a k out of range.
    """
    if choice not in CHOICES:
        raise UsageError("what to remove", repr(choice), ", ".join(CHOICES), "Choose one of them.")
    if not 1 <= k <= most_removable(store):
        raise UsageError("top", str(k), f"1 to {most_removable(store):,}", "Choose a number in between.")
    if choice == "random":
        return random_rows(store, k, RANDOM_SEED)
    wanted = min(POOL * k if choice == "greedy" else k, MOST_ROWS)
    method = "clip" if choice == "clip" else "trak"
    found = rank(store, target, top=min(wanted + 1, store.n_train), method=method).proponents
    rows = np.array([pair.row for pair in found if pair.row != target.row][:wanted], dtype=np.int64)
    if choice == "greedy" and rows.size:
        return most_damaging(store, target, min(k, rows.size), rows)
    return rows


def predict(target: Target, removal: Removal, calibration: Calibration | None) -> Prediction:
    """Both forms for a target, and the group form in measured units where there is a calibration."""
    group = removal.effect(target.influence_query)
    additive = removal.effect(target.influence_query, "additive")
    if calibration is None:
        return Prediction(group, additive, None, None)
    middle, low, high = (float(x) for x in calibration.predict(group))
    return Prediction(group, additive, middle, (low, high))


def prediction_of(store: Store, target: Target, rows: Sequence[int] | np.ndarray) -> Prediction:
    """Predict the removal of these rows for a target, calibrated by all finished retrainings."""
    return predict(target, remove(store, rows), calibrate(store))


def curves(store: Store, target: Target, most: int) -> dict[str, np.ndarray]:
    """Predicted group effect of removing the first 1 … `most` pairs by each simple choice: float64 [≤ most] each."""
    found = {}
    for choice in ("trak", *(("clip",) if store.task.embeddings else ()), "random"):
        rows = choose(store, target, choice, most)
        if choice == "random":
            rows = np.random.default_rng(RANDOM_SEED).permutation(rows)
        if rows.size:
            found[choice] = curve(store, target, rows)["group"]
    return found


def mean_effect(store: Store, removal: Removal) -> float | None:
    """Predicted change of f of the mean held-out pair (at most 20,000 of them); None where none are held out."""
    if not store.n_heldout:
        return None
    return float(
        removal.effects(store, slice(store.n_train, min(store.n, store.n_train + AT_MOST_COLLATERAL))).mean()
    )


def collateral(store: Store, removal: Removal, target: Target, top: int) -> tuple[list[Ranked], list[Ranked]]:
    """The held-out pairs (training examples where none are held out) that would fall most, and rise most, in f."""
    start = store.n_train if store.n_heldout else 0
    rows = np.arange(start, min(store.n, start + AT_MOST_COLLATERAL))
    rows = rows[rows != target.row]
    if not store.n_heldout:
        rows = np.setdiff1d(rows, removal.rows)
    effects = removal.effects(store, rows)
    order = np.argsort(effects, kind="stable")
    falls = [ranked(store, int(rows[i]), float(effects[i])) for i in order[:top] if effects[i] < 0]
    rises = [ranked(store, int(rows[i]), float(effects[i])) for i in order[::-1][:top] if effects[i] > 0]
    return falls, rises
