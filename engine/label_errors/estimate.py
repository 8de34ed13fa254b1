"""How many captions, labels or answers are wrong, and the probability of it for each. No torch.

How wrong ones score is known without any truth: give examples the words of others. That gives the probability
(positive-unlabelled learning; Elkan and Noto 2008, Blanchard, Lee and Scott 2010). Planted words were never trained on, so
the scores of an example's own words must come from predictors that never saw them either, or wrong words look better than
planted ones and too few are found: see docs/decisions/2026-12-01-estimate.md.
"""

import numpy as np

from traklens.engine.label_errors.predictors import SEED, Captions, strangers
from traklens.engine.label_errors.signals import Evidence

LEAST_TAIL = 0.2  # share of planted wrong captions that the estimate of how many are wrong rests on
TAILS = 50
FULLY_TOLD = 0.2  # this far above one half, the area under the curve lets probabilities stand as they are


def probabilities(evidence: Evidence, captions: Captions, score: np.ndarray) -> np.ndarray:
    """The probability that each example's words are wrong, never falling where the score rises: float64 [n].

    Estimated from the examples that some model never saw; 0 for all where there is none, or where the models cannot tell.
    """
    known = np.flatnonzero(evidence.unseen.any(axis=0))
    if not known.size:
        return np.zeros(score.shape)
    swapped = np.random.default_rng(SEED).permutation(captions.own)
    predicted = strangers(evidence)
    real, planted = (
        np.concatenate([captions.scored(values, given) for values in predicted], axis=1)[known]
        for given in (captions.own, swapped)
    )
    centre, spread = real.mean(axis=0), real.std(axis=0) + 1e-12
    of_real, of_planted = (-((values - centre) / spread).mean(axis=1) for values in (real, planted))
    of_planted = of_planted[(captions.texts[swapped] != captions.texts[captions.own])[known]]
    sure = told_apart(of_real, of_planted)
    if not sure:
        return np.zeros(score.shape)
    return sure * rising(score[known], probability_wrong(of_real, of_planted), score)


def told_apart(real: np.ndarray, planted: np.ndarray) -> float:
    """How far planted wrong captions can be told from the pairs as they are: 0 (not beyond chance) to 1.

    From the area under the curve (AUROC) of planted against real scores, less two standard errors of a chance one. Models
    that have learned nothing take every caption for a planted one: without this, they would be sure that all are wrong.
    """
    if not planted.size:
        return 0.0
    area = np.searchsorted(np.sort(real), planted, side="left").mean() / real.size
    chance = np.sqrt((1 / real.size + 1 / planted.size) / 12)
    return float(np.clip((area - 0.5 - 2 * chance) / FULLY_TOLD, 0, 1))


def probability_wrong(real: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """Probability that a pair is wrong, from the scores of all pairs [n] and of pairs with planted wrong captions [w].

    The share π of wrong pairs is at most P(real > s) / P(planted > s) for every s, so the least of these is taken, over
    tails with a fifth of the planted ones or more, each with half a standard error of its count added: the least of many
    noisy ones would be too low. In simulation (n = 1,800 to 8,000, 5 to 17 % wrong) the estimate is 0.95 to 1.01 of the
    truth where planted ones lie three deviations from right ones, 1.07 to 1.3 where two. The probability is π times the
    ratio of the two densities, at most 1.
    """
    thresholds = np.quantile(planted, np.linspace(0, 1 - LEAST_TAIL, TAILS))
    found = np.array([(real >= s).sum() for s in thresholds])
    tails = (found + np.sqrt(found) / 2) / [(planted >= s).mean() for s in thresholds] / real.size
    return np.clip(min(1.0, tails.min()) * _density_ratio(real, planted), 0, 1)


def _density_ratio(real: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """p_planted / p_real at the real scores, by isotonic regression: it never falls where the score rises."""
    from sklearn.isotonic import IsotonicRegression

    values = np.concatenate([real, planted])
    is_planted = np.repeat([0.0, 1.0], [real.size, planted.size])
    weights = np.repeat([1 / real.size, 1 / planted.size], [real.size, planted.size])
    share = IsotonicRegression(out_of_bounds="clip").fit(values, is_planted, sample_weight=weights).predict(real)
    return share / np.maximum(1 - share, 1e-9)


def rising(score: np.ndarray, probability: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The probabilities at the scores wanted, smoothed so that they never fall where the score rises: [wanted]."""
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(out_of_bounds="clip").fit(score, probability).predict(wanted)
