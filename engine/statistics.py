"""Statistics that more than one room needs: rank correlation, a mean with its bootstrap interval."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

DRAWS = 2_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

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
