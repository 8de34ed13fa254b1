"""The highest rank correlation with retrained models that could be reached at all: they differ by their seeds alone.

With r the mean rank correlation between single models of different seeds, the mean of R of them has the reliability
R·r / (1 + (R − 1)·r), and what predicts the outcome without noise perfectly is correlated with that mean by its root
(Spearman 1910, Brown 1910; for rank correlations an approximation). No torch.
"""

from itertools import combinations

import numpy as np

from traklens.engine.statistics import rank_correlations


def ceiling(repeats: np.ndarray, averaged: float | None = None) -> float | None:
    """From outcomes [R, N] or [R, N, T] of N cases with R seeds each, for T targets: the attainable rank correlation.

    Correlations are over the N cases, averaged over targets. averaged: of how many seeds the mean to be predicted is,
    R if not given. None for a single seed or fewer than 4 cases; 0 where the seeds do not agree at all.
    """
    seeds, cases = repeats.shape[:2]
    if seeds < 2 or cases < 4:
        return None
    count, columns = averaged or seeds, repeats.reshape(seeds, cases, -1)
    r = float(np.mean([rank_correlations(a, b).mean() for a, b in combinations(columns, 2)]))
    return float(np.sqrt(count * r / (1 + (count - 1) * r))) if r > 0 else 0.0
