"""The linear datamodeling score: do summed attributions rank retrained models as retraining does?

Source: TRAK (arXiv 2303.14186), definition 2.3: for a target, the Spearman rank correlation over random subsets S_j of
the predicted Σ_{i∈S_j} τ(z, z_i) and the measured f(z; θ(S_j)). The mean over targets is reported. The targets share the
retrained models, so that its interval is over both (engine/statistics.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from traklens.engine.attribution.scores import soft_threshold
from traklens.engine.statistics import Interval, rank_correlations, two_way

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # shares of the training set that a soft threshold may keep


@dataclass(frozen=True)
class Judged:
    """LDS per target [T] from all subsets, and without the subsets of each group [G, T]; `share` of a soft threshold."""

    values: np.ndarray
    left_out: np.ndarray
    share: float = 1.0

    @property
    def interval(self) -> Interval:
        """The mean, with the 95 % interval over targets and models, within what a correlation can be."""
        found = two_way(self.values, self.left_out)
        return Interval(found.mean, max(found.lo, -1.0), min(found.hi, 1.0))

    def lead(self, other: "Judged") -> Interval:
        """By how much the mean is above another method's, paired: on the same targets and models."""
        return two_way(self.values - other.values, self.left_out - other.left_out)


def lds(scores: np.ndarray, kept: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Rank correlation per target: scores [T, n], kept bool [J, n], measured f [J, T] → float64 [T].

    0 where all predictions (or all measurements) of a target are equal.
    """
    return rank_correlations(_sums(scores, kept), measured)


def judged(
    scores: np.ndarray, kept: np.ndarray, measured: np.ndarray, groups: Sequence[int] | np.ndarray | None = None
) -> Judged:
    """`lds` with what its interval takes. groups [J]: which subsets belong together, such as a half and its complement."""
    return _jackknifed(_sums(scores, kept), measured, groups)


def judged_with_threshold(
    scores: np.ndarray, kept: np.ndarray, measured: np.ndarray, groups: Sequence[int] | np.ndarray | None = None
) -> Judged:
    """LDS with the soft threshold that suits the method: fair to every method, and blind to the targets it is judged by.

    The share for half of the targets is the one that was best on the other half. The models choose and judge: crossing them
    as well, each half of 24 choosing for the other, takes 0.003 to 0.008 from TRAK, and more from methods whose best share is
    uncertain (docs/decisions/2026-12-01-intervals.md); it is not taken off. `share` is the largest that was chosen.
    """
    sums = np.stack([_sums(soft_threshold(scores, share), kept) for share in SHARES])
    odd = np.arange(scores.shape[0]) % 2 == 1
    chosen = _chosen(np.stack([rank_correlations(of_share, measured) for of_share in sums]), odd)
    of_target = np.where(odd, chosen[1], chosen[0])
    best = np.take_along_axis(sums, of_target[None, None, :], axis=0)[0]  # [J, T]
    found = _jackknifed(best, measured, groups)
    return Judged(found.values, found.left_out, max(SHARES[place] for place in chosen))


def _chosen(found: np.ndarray, odd: np.ndarray) -> tuple[int, int]:
    """Places of the shares that are best, by LDS [shares, T], for the even targets (judged by odd ones) and the odd ones."""
    sides = [part if part.any() else ~part for part in (odd, ~odd)]
    return int(found[:, sides[0]].mean(axis=1).argmax()), int(found[:, sides[1]].mean(axis=1).argmax())


def _jackknifed(sums: np.ndarray, measured: np.ndarray, groups: Sequence[int] | np.ndarray | None) -> Judged:
    number = np.arange(len(sums)) if groups is None else np.asarray(groups)
    parts = [number != group for group in np.unique(number)]
    left_out = np.stack([rank_correlations(sums[part], measured[part]) for part in parts])
    return Judged(rank_correlations(sums, measured), left_out)


def _sums(scores: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Predicted f of each subset, but for a constant: [J, T]."""
    return kept.astype(np.float32) @ scores.T.astype(np.float32)
