"""Statistics that more than one room needs: rank correlation, a mean with its interval over one axis or over two."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, t

DRAWS = 2_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    lo: float
    hi: float


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each column of a with that of b, [J, T] both → float64 [T]; 0 for constant columns."""
    a, b = (rankdata(x, axis=0) for x in (a, b))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros(a.shape[1]), where=size > 0)


def bootstrap(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Mean of the values [n] with the 95 % percentile interval over resampled values. nan when there are none."""
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(values.size, size=(DRAWS, values.size))
    lo, hi = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(lo), float(hi))


def two_way(values: np.ndarray, left_out: np.ndarray) -> Interval:
    """Mean over targets [T] of what shared models measure, with the 95 % interval for other targets and other models.

    left_out [G, T]: the same values without the g-th model (or group of models), which gives the delete-one jackknife. All
    targets share the models, so that an interval over targets alone is too narrow (Miller 1974; Owen 2007, "The pigeonhole
    bootstrap"): SE² = SE_T² + SE_G², by Student's t with Satterthwaite's degrees of freedom. One target or one group adds
    nothing to the error, for want of evidence. nan when there are no values.
    """
    values, left_out = np.asarray(values, dtype=np.float64), np.asarray(left_out, dtype=np.float64)
    targets, groups = values.size, len(left_out)
    if not targets:
        return Interval(float("nan"), float("nan"), float("nan"))
    of_targets = values.var(ddof=1) / targets if targets > 1 else 0.0
    of_models = (groups - 1) * left_out.mean(axis=1).var() if groups > 1 else 0.0
    total = of_targets + of_models
    weights = of_targets**2 / max(targets - 1, 1) + of_models**2 / max(groups - 1, 1)
    reach = float(t.ppf(0.975, total**2 / weights) * np.sqrt(total)) if weights > 0 else 0.0
    mean = float(values.mean())
    return Interval(mean, mean - reach, mean + reach)
