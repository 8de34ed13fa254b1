"""The highest rank correlation with retrained models that could be reached at all: they differ by their seeds alone.

With r the rank correlation between single models of different seeds, the mean of R of them has the reliability
R·r / (1 + (R − 1)·r), and what predicts the outcome without noise perfectly is correlated with that mean by its root
(Spearman 1910, Brown 1910; for rank correlations an approximation). Targets differ in r, and the mean of roots is below the
root of the mean: r is taken to be Beta distributed over the targets, with the variance that is left when what few cases
explain is taken off. No torch.
"""

from itertools import combinations

import numpy as np
from scipy.stats import beta

from traklens.engine.statistics import rank_correlations

STEPS = 400  # at which the mean over the distribution of r is taken


def ceiling(repeats: np.ndarray, averaged: float | None = None) -> float | None:
    """From outcomes [R, N] or [R, N, T] of N cases with R seeds each, for T targets: the attainable rank correlation.

    Correlations are over the N cases, averaged over targets. averaged: of how many seeds the mean to be predicted is,
    R if not given. None for a single seed or fewer than 4 cases, and where the seeds agree no more than by chance.
    """
    seeds, cases = repeats.shape[:2]
    if seeds < 2 or cases < 4:
        return None
    columns = repeats.reshape(seeds, cases, -1)
    of_target = _agreement(columns)
    mean, count = float(of_target.mean()), averaged or seeds
    if mean <= 0:
        return None
    if mean >= 1 or of_target.size < 2:
        return float(_reached(np.array(min(mean, 1.0)), count))
    variance = max(0.0, float(of_target.var(ddof=1)) - _by_chance(columns))
    concentration = mean * (1 - mean) / variance - 1 if variance > 0 else np.inf
    if not 0 < concentration < 1e6:
        return float(_reached(np.array(mean), count)) if concentration > 0 else mean
    places = (np.arange(STEPS) + 0.5) / STEPS
    return float(_reached(beta.ppf(places, mean * concentration, (1 - mean) * concentration), count).mean())


def _reached(r: np.ndarray, count: float) -> np.ndarray:
    """What predicts the mean of `count` seeds perfectly is correlated with it by this much."""
    return np.sqrt(count * r / (1 + (count - 1) * r))


def _agreement(columns: np.ndarray) -> np.ndarray:
    """Rank correlation over cases between seeds, mean over pairs of seeds: [R, N, T] → [T]."""
    return np.mean([rank_correlations(a, b) for a, b in combinations(columns, 2)], axis=0)


def _by_chance(columns: np.ndarray) -> float:
    """Variance of a target's agreement that comes from looking at these N cases alone: jackknife, mean over targets."""
    cases = columns.shape[1]
    left_out = np.stack([_agreement(np.delete(columns, case, axis=1)) for case in range(cases)])
    return float(((cases - 1) * left_out.var(axis=0)).mean())
