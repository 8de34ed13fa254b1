"""The linear datamodeling score: do summed attributions rank retrained models as retraining does?

Source: TRAK (arXiv 2303.14186), definition 2.3: for a target, the Spearman rank correlation over random subsets S_j of
the predicted Σ_{i∈S_j} τ(z, z_i) and the measured f(z; θ(S_j)). The mean over targets is reported, with a bootstrap
interval over targets.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from engine.attribution import soft_threshold

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # shares of the training set that a soft threshold may keep
DRAWS = 2_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    lo: float
    hi: float


def lds(scores: np.ndarray, kept: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Rank correlation per target: scores [T, n], kept bool [J, n], measured f [J, T] → float64 [T].

    0 where all predictions (or all measurements) of a target are equal.
    """
    return rank_correlations(kept.astype(np.float32) @ scores.T.astype(np.float32), measured)


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each column of a with that of b, [J, T] both → float64 [T]; 0 for constant columns."""
    a, b = (rankdata(x, axis=0) for x in (a, b))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros(a.shape[1]), where=size > 0)


def thresholded_lds(scores: np.ndarray, kept: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, float]:
    """LDS per target [T] with the soft threshold that suits the method, and the share most targets were given.

    Fair to every method and blind to what it is judged by: the share for one half of the targets is the one that was
    best on the other half.
    """
    found = np.stack([lds(soft_threshold(scores, share), kept, measured) for share in SHARES])
    half = np.arange(scores.shape[0]) % 2
    result, shares = np.empty(scores.shape[0]), []
    for side in (0, 1):
        other = half != side if (half != side).any() else half == side
        best = int(found[:, other].mean(axis=1).argmax())
        result[half == side] = found[best, half == side]
        shares.append(SHARES[best])
    return result, max(shares)


def bootstrap(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Mean of the values [n] with the 95 % percentile interval over resampled values. nan when there are none."""
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(values.size, size=(DRAWS, values.size))
    lo, hi = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(lo), float(hi))
