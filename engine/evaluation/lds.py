"""The linear datamodeling score: do summed attributions rank retrained models as retraining does?

Source: TRAK (arXiv 2303.14186), definition 2.3: for a target, the Spearman rank correlation over random subsets S_j of
the predicted Σ_{i∈S_j} τ(z, z_i) and the measured f(z; θ(S_j)). The mean over targets is reported, with a bootstrap
interval over targets.
"""

import numpy as np

from traklens.engine.attribution.scores import soft_threshold
from traklens.engine.statistics import rank_correlations

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # shares of the training set that a soft threshold may keep


def lds(scores: np.ndarray, kept: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Rank correlation per target: scores [T, n], kept bool [J, n], measured f [J, T] → float64 [T].

    0 where all predictions (or all measurements) of a target are equal.
    """
    return rank_correlations(kept.astype(np.float32) @ scores.T.astype(np.float32), measured)


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
