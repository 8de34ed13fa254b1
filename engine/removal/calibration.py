"""From predicted to measured units: what retraining has shown so far, turned into a slope and an interval. No torch.

Every finished retraining gives a pair (predicted Δf, measured Δf). The calibrated prediction is slope·predicted; its
interval is a jackknife (Barber et al. 2021, arXiv 1905.02928) with residuals scaled by a spread that grows with the
prediction: |measured − slope·x| / √(c₀² + c₁²x²). Removals of one target are alike, and a new target is none of those: the
line that a residual is from was fitted without its target, and every target weighs the same. It is an interval for the mean
of as many retrainings as were made.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
LEAST_WITHIN = 3  # removals that can be ranked
LEAST_TARGETS = 5  # of which an interval is drawn
DRAWS = 1_000
COVERAGE = 0.9
VERSION = 1  # of the predictions kept in the store: another makes them again


@dataclass(frozen=True)
class Point:
    """A removal that was predicted and measured, on one target, in units of f.

    `measured` is the mean of `changes`, one per retraining, and `deviation` their standard deviation; `apart` as in
    `Measured`.
    """

    target: int
    size: int
    choice: str
    group: float
    additive: float
    measured: float
    deviation: float
    changes: tuple[float, ...]
    apart: tuple[float, ...] = ()


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


def fit(
    predicted: np.ndarray, measured: np.ndarray, targets: np.ndarray | None = None, coverage: float = COVERAGE
) -> Calibration | None:
    """Calibrate on pairs [n] in units of f of these targets [n]; None for fewer than LEAST_POINTS.

    The quantile comes from residuals of targets that were left out, each target weighing the same, with the finite-sample
    correction (n + 1)·coverage/n. Without `targets`, or with one, removals stand for targets.
    """
    predicted, measured = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    n = predicted.size
    if n < LEAST_POINTS:
        return None
    group = np.arange(n) if targets is None or len(set(targets)) < 2 else np.unique(targets, return_inverse=True)[1]
    slope, c0, c1 = _line(predicted, measured)
    scaled = np.empty(n)
    for out in (group == number for number in range(group.max() + 1)):
        s, a, b = _line(predicted[~out], measured[~out])
        scaled[out] = abs(measured[out] - s * predicted[out]) / np.sqrt(a**2 + (b * predicted[out]) ** 2)
    count = group.max() + 1
    order, weight = np.argsort(scaled), 1 / np.bincount(group)[group] / count
    reached = np.cumsum(weight[order])
    place = int(np.searchsorted(reached, min(1.0, (n + 1) * coverage / n) - 1e-9))
    return Calibration(slope, c0, c1, float(scaled[order][min(place, n - 1)]), n)


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
                apart=measured.apart,
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
    group, measured, target = (
        np.array([getattr(p, name) for p in found]) for name in ("group", "measured", "target")
    )
    return fit(group, measured, target)


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
        calibration = fit(x[~out], y[~out], targets[~out])
        if calibration is None:
            continue
        _, low, high = calibration.predict(x[out])
        inside += int(((y[out] >= low) & (y[out] <= high)).sum())
        count += int(out.sum())
    return inside / count if count else None


def summary(found: Sequence[Point]) -> dict:
    """Figures of prediction against measurement, for people and for `--json`."""
    x, a, y = _of(found, "group", "additive", "measured")
    calibration = calibration_from(found)
    if not found:
        return {"removals": 0, "slope": None}
    return {
        "removals": len(found),
        "slope": None if calibration is None else calibration.slope,
        "interval_coverage": held_out_coverage(found),
        "wanted_coverage": COVERAGE,
        "rank_correlation": _rank(x, y),
        "rank_correlation_interval": by_target(found, lambda some: _rank(*_of(some, "group", "measured"))),
        "rank_correlation_within": _within(found),
        "rank_correlation_within_interval": by_target(found, _within),
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
    """The rank correlation that noise allows: seeds are compared where there are several, and averaged as they were.

    Each seed against controls of its own, since noise of common controls would count as agreement.
    """
    repeated = [p.apart for p in found if len(p.apart) > 1]
    if not repeated:
        return None
    common = min(map(len, repeated))
    compared = np.array([changes[:common] for changes in repeated]).T
    return ceiling(compared, averaged=float(np.mean([len(p.changes) for p in found])))


def _rank(x: np.ndarray, y: np.ndarray) -> float | None:
    if x.size < LEAST_WITHIN or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    value = float(spearmanr(x, y).statistic)  # type: ignore[union-attr]
    return None if np.isnan(value) else value


def _of(found: Sequence[Point], *names: str) -> list[np.ndarray]:
    return [np.array([getattr(p, name) for p in found]) for name in names]


def _within(found: Sequence[Point]) -> float | None:
    """Rank correlation over the removals of one target, mean over the targets that have three or more; None without any.

    Pooled over targets, sizes and methods it is partly a statement about these: a large set is known to matter more.
    """
    by: dict[int, list[Point]] = {}
    for point in found:
        by.setdefault(point.target, []).append(point)
    each = [_rank(*_of(some, "group", "measured")) for some in by.values() if len(some) >= LEAST_WITHIN]
    known = [value for value in each if value is not None]
    return float(np.mean(known)) if known else None


def by_target(
    found: Sequence[Point], figure: Callable[[Sequence[Point]], float | None]
) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of a figure, drawing targets with all their removals; None for fewer than five targets."""
    targets = sorted({point.target for point in found})
    if len(targets) < LEAST_TARGETS:
        return None
    own = {target: [point for point in found if point.target == target] for target in targets}
    rng, values = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = rng.choice(targets, size=len(targets))
        # a target that is drawn twice stands for two: else its removals would be ranked among their own copies
        some = [replace(p, target=place) for place, target in enumerate(drawn) for p in own[int(target)]]
        values.append(figure(some))
    known = [value for value in values if value is not None]
    return (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))) if known else None
