"""From predicted to measured units: what retraining has shown so far, turned into a slope and an interval. No torch.

Every finished retraining gives a pair (predicted Δf, measured Δf). The calibrated prediction is slope·predicted; its
interval is a split-conformal one (Lei et al. 2018, arXiv 1604.04173) with residuals scaled by a spread that grows with
the prediction: |measured − slope·x| / √(c₀² + c₁²x²), whose quantile is taken over removals the line was not fitted to.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from traklens.engine.removal.effect import remove
from traklens.engine.retraining.jobs import history
from traklens.engine.retraining.measurements import Measurements
from traklens.engine.retraining.noise_ceiling import ceiling
from traklens.stores.atomic import read_json, write_json
from traklens.stores.errors import StoreError
from traklens.stores.layout import PREDICTED
from traklens.stores.retrained import Request
from traklens.stores.store import Store

LEAST_POINTS = 12  # fewer finished removals give no interval
COVERAGE = 0.9
VERSION = 1  # of the predictions kept in the store: another makes them again


@dataclass(frozen=True)
class Point:
    """A removal that was predicted and measured, on one target, in units of f.

    `measured` is the mean of `changes`, one per retraining, and `deviation` their standard deviation.
    """

    target: int
    size: int
    choice: str
    group: float
    additive: float
    measured: float
    deviation: float
    changes: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """measured ≈ slope·predicted, with a spread √(c0² + c1²·predicted²) and the quantile of the scaled residuals."""

    slope: float
    c0: float
    c1: float
    quantile: float
    points: int

    def predict(self, predicted: float | np.ndarray):
        """Calibrated change: (middle, low, high), in units of f."""
        middle = self.slope * np.asarray(predicted)
        reach = self.quantile * self._spread(np.asarray(predicted))
        return middle, middle - reach, middle + reach

    def _spread(self, predicted: np.ndarray) -> np.ndarray:
        return np.sqrt(self.c0**2 + (self.c1 * predicted) ** 2)


def fit(predicted: np.ndarray, measured: np.ndarray, coverage: float = COVERAGE) -> Calibration | None:
    """Calibrate on pairs [n] in units of f; None for fewer than LEAST_POINTS.

    The quantile comes from leave-one-out residuals, with the finite-sample correction ⌈(n+1)·coverage⌉/n.
    """
    predicted, measured = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    n = predicted.size
    if n < LEAST_POINTS:
        return None
    slope, c0, c1 = _line(predicted, measured)
    scaled = np.empty(n)
    for i in range(n):
        others = np.arange(n) != i
        s, a, b = _line(predicted[others], measured[others])
        scaled[i] = abs(measured[i] - s * predicted[i]) / np.sqrt(a**2 + (b * predicted[i]) ** 2)
    rank = min(n, int(np.ceil((n + 1) * coverage)))
    return Calibration(slope, c0, c1, float(np.sort(scaled)[rank - 1]), n)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope through the origin and spread: weighted least squares, then squared residuals on 1 and x², twice."""
    weight = np.ones_like(x)
    slope, c0, c1 = 1.0, 1.0, 0.0
    for _ in range(3):
        total = float((weight * x * x).sum())
        slope = float((weight * x * y).sum()) / total if total > 0 else 1.0
        squares = (y - slope * x) ** 2
        scale = float((x**2).mean()) or 1.0
        design = np.stack([np.ones_like(x), x**2 / scale], axis=1)
        found = np.linalg.lstsq(design, squares, rcond=None)[0]
        floor = 1e-3 * float(squares.mean()) + 1e-12
        if found[1] < 0 or found[0] < 0:  # a spread that falls with size, or none at zero: take a constant share
            found = np.array([squares.mean(), 0.0]) if found[1] < 0 else np.array([floor, squares.mean()])
        c0, c1 = float(np.sqrt(max(found[0], floor))), float(np.sqrt(max(found[1], 0.0) / scale))
        weight = 1 / (c0**2 + (c1 * x) ** 2)
    return slope, c0, c1


def points(store: Store, requests: Sequence[Request] | None = None) -> list[Point]:
    """Every finished removal with a target: predicted from the store as it is now, measured by its retrainings."""
    if requests is None:
        requests = [request for _, request, _ in history(store)]
    measurements, found = Measurements(store), []
    predicted, kept = _kept(store), {}
    for request in requests:
        if request.target is None or not 0 <= request.target < store.n:
            continue
        measured = measurements.of(request)
        if measured is None:
            continue
        rows = tuple(sorted(set(request.rows)))
        name = f"{request.target} {hashlib.sha256(repr(rows).encode()).hexdigest()[:24]}"
        if name not in predicted:
            if rows not in kept:
                kept[rows] = remove(store, rows)
            at = np.array([request.target])
            predicted[name] = [float(kept[rows].effects(store, at, method)[0]) for method in ("group", "additive")]
        group, additive = predicted[name]
        found.append(
            Point(
                target=request.target,
                size=len(rows),
                choice=request.choice,
                group=group,
                additive=additive,
                measured=measured.change,
                deviation=measured.deviation,
                changes=measured.changes,
            )
        )
    if kept:
        _keep(store, predicted)
    return found


def _kept(store: Store) -> dict[str, list[float]]:
    """Predictions of this store that were made before: a removal of a large set takes half a second."""
    try:
        found = read_json(store.path / PREDICTED, "predictions")
        made, predicted = found["made"], {str(k): [float(x) for x in v] for k, v in found["predicted"].items()}
    except (StoreError, TypeError, ValueError, KeyError, AttributeError):
        return {}
    return predicted if made == _made(store) else {}


def _keep(store: Store, predicted: dict[str, list[float]]) -> None:
    with contextlib.suppress(OSError):  # a store on a read-only disk computes them each time
        write_json(store.path / PREDICTED, {"made": _made(store), "predicted": predicted})


def _made(store: Store) -> str:
    return f"{VERSION} {store.manifest.created}"


def calibration_from(found: Sequence[Point]) -> Calibration | None:
    """The calibration of the group prediction; None when there are too few removals."""
    return fit(np.array([p.group for p in found]), np.array([p.measured for p in found]))


def calibrate(store: Store) -> Calibration | None:
    """The calibration from all finished removals of a store."""
    return calibration_from(points(store))


def held_out_coverage(found: Sequence[Point], folds: int = 10, seed: int = 0) -> float | None:
    """Share of removals inside the interval of a calibration that has not seen their target; None for too few.

    Removals are left out by target, so that no target is on both sides.
    """
    targets = np.array([p.target for p in found])
    x, y = np.array([p.group for p in found]), np.array([p.measured for p in found])
    names = np.random.default_rng(seed).permutation(np.unique(targets))
    inside, count = 0, 0
    for part in np.array_split(names, min(folds, names.size)) if names.size > 1 else []:
        out = np.isin(targets, part)
        calibration = fit(x[~out], y[~out])
        if calibration is None:
            continue
        _, low, high = calibration.predict(x[out])
        inside += int(((y[out] >= low) & (y[out] <= high)).sum())
        count += int(out.sum())
    return inside / count if count else None


def summary(found: Sequence[Point]) -> dict:
    """Figures of prediction against measurement, for people and for `--json`."""
    x, a, y = (np.array([getattr(p, name) for p in found]) for name in ("group", "additive", "measured"))
    calibration = calibration_from(found)
    if not found:
        return {"removals": 0, "slope": None}
    return {
        "removals": len(found),
        "slope": None if calibration is None else calibration.slope,
        "interval_coverage": held_out_coverage(found),
        "wanted_coverage": COVERAGE,
        "rank_correlation": _rank(x, y),
        "rank_correlation_additive": _rank(a, y),
        "attainable": _attainable(found),
        "mean_absolute_error": {
            "group": float(np.abs(x - y).mean()),
            "additive": float(np.abs(a - y).mean()),
            "calibrated": None if calibration is None else float(np.abs(calibration.slope * x - y).mean()),
        },
        "points": [p.__dict__ for p in found],
    }


def _attainable(found: Sequence[Point]) -> float | None:
    """The rank correlation that noise allows: seeds are compared where there are several, and averaged as they were."""
    repeated = [list(p.changes) for p in found if len(p.changes) > 1]
    if not repeated:
        return None
    common = min(map(len, repeated))
    compared = np.array([changes[:common] for changes in repeated]).T
    return ceiling(compared, averaged=float(np.mean([len(p.changes) for p in found])))


def _rank(x: np.ndarray, y: np.ndarray) -> float | None:
    if x.size < 3:
        return None
    value = float(spearmanr(x, y).statistic)  # type: ignore[union-attr]
    return None if np.isnan(value) else value
