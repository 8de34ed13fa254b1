"""One ranking out of the signals, and the probability that a caption, or a label, is wrong. No torch.

Several predictors say where in the caption space the caption of an image should lie, none of them from the pair's own
caption: the image embedding under checkpoints that never saw the pair, under those that did, a ridge regression from image
to caption embeddings with the pair left out, and the mean caption of the pairs with the nearest images. Each gives the own
caption a score and a margin over the best other caption. The suspicion is minus the mean of all of these, standardised, with
the margin under retrained models where there are any. The labels of a classifier are captions of a few words: their space
has an axis for each class, in which the models' probabilities are the expectation. Answers of language models are expected
by the ridge regression and the neighbours alone; what the models say of them is their f.

How wrong captions score is known without any truth: give images the captions of other pairs. That gives the probability
(positive-unlabelled learning; Elkan and Noto 2008, Blanchard, Lee and Scott 2010).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from traklens.engine.attribution.methods import blocks
from traklens.engine.label_errors.neighbours import numbered
from traklens.engine.label_errors.signals import Evidence, margin
from traklens.stores.store import Store

RIDGE = 0.01  # of the mean diagonal
BANK = 2_000  # captions that the own one is compared with
LEAST_TAIL = 0.6  # share of planted wrong captions that the estimate of how many are wrong rests on
FULLY_TOLD = 0.2  # this far above one half, the area under the curve lets probabilities stand as they are
WITNESS_WEIGHT = 4  # of the margin under retrained models, against 8 parts of the checkpoints' own
SEED = 11


@dataclass(frozen=True)
class Ranked:
    """score: float64 [n], the larger the more suspect; probability of a wrong caption, rising with it: float64 [n]."""

    score: np.ndarray
    probability: np.ndarray


def rank_suspects(store: Store, evidence: Evidence) -> Ranked:
    """The ranking and its probabilities."""
    captions = Captions.of(store, evidence)
    predicted = dict(predictions(evidence))
    own = {name: captions.scored(values, captions.own) for name, values in predicted.items()}
    parts = [own[name] for name in predicted]
    if len(evidence.witness_f) or not evidence.expects:
        parts += [-margin(store, evidence)[:, None]] * WITNESS_WEIGHT
    score = -_standard(np.concatenate(parts, axis=1)).mean(axis=1)
    swapped = np.random.default_rng(SEED).permutation(captions.own)
    differs = captions.texts[swapped] != captions.texts[captions.own]
    blind = [name for name in predicted if name != "seen"]  # a checkpoint that saw the pair knows its own caption
    real = np.concatenate([own[name] for name in blind], axis=1)
    planted = np.concatenate([captions.scored(predicted[name], swapped) for name in blind], axis=1)
    centre, spread = real.mean(axis=0), real.std(axis=0) + 1e-12
    of_real, of_planted = (-((values - centre) / spread).mean(axis=1) for values in (real, planted))
    sure = told_apart(of_real, of_planted[differs])
    return Ranked(score, sure * monotone(score, probability_wrong(of_real, of_planted[differs])))


def predictions(evidence: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    """Where each predictor expects the caption (label), in the space of captions [n, M·e] (of classes [n, C]) each."""
    checkpoints = len(evidence.unseen)
    for name, where in (("unseen", evidence.unseen), ("seen", ~evidence.unseen)):
        if evidence.probabilities is not None:
            yield name, _mean_probabilities(evidence.probabilities, where)
            continue
        if not evidence.expects:
            continue
        weight = where / np.maximum(where.sum(axis=0), 1) * checkpoints  # all alike where there is no such checkpoint
        weight = np.where(where.any(axis=0), weight, 1.0)
        yield name, evidence.image_space * np.repeat(weight.T, evidence.image_space.shape[1] // checkpoints, axis=1)
    yield "ridge", left_out_ridge(evidence.image_space, evidence.words_space)
    yield "neighbours", _mean_rows(evidence.words_space, evidence.image.rows)


def _mean_probabilities(probabilities: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean over the models `where` [M, n] holds, over all of them where none does: [M, n, C] → [n, C]."""
    count = where.sum(axis=0)[:, None]
    total = np.where(where[..., None], probabilities, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), probabilities.mean(axis=0))


def left_out_ridge(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Ridge regression with intercept of outputs [n, e] on inputs [n, d], each row predicted without itself: [n, e].

    With hat values h, the prediction without row i is (ŷ_i − h_i·y_i) / (1 − h_i), exactly.
    """
    design = np.concatenate([inputs, np.ones((len(inputs), 1), dtype=inputs.dtype)], axis=1).astype(np.float64)
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    factor = cho_factor(gram)
    weights = cho_solve(factor, design.T @ outputs)
    found = np.empty(outputs.shape)
    for part in blocks(len(inputs)):
        rows = design[part]
        hat = np.einsum("nd,nd->n", rows, cho_solve(factor, rows.T).T)[:, None]
        found[part] = (rows @ weights - hat * outputs[part]) / (1 - hat)
    return found


@dataclass(frozen=True)
class Captions:
    """The captions to choose among. texts: distinct numbers [n]; own: row of each pair's caption, itself [n].

    bank: rows of distinct captions [C], all of them or a seeded sample; space: caption embeddings [n, d].
    """

    texts: np.ndarray
    own: np.ndarray
    bank: np.ndarray
    space: np.ndarray

    @classmethod
    def of(cls, store: Store, evidence: Evidence) -> "Captions":
        texts = numbered(store.examples.words[: store.n_train])
        bank = np.unique(texts, return_index=True)[1]
        if bank.size > BANK:
            bank = np.sort(np.random.default_rng(SEED).choice(bank, size=BANK, replace=False))
        return cls(texts, np.arange(len(texts)), bank, evidence.words_space)

    def scored(self, predicted: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Score of the caption of row given[i] for each image, and its margin over the best other one: [n, 2]."""
        found = np.empty((len(given), 2))
        for part in blocks(len(given)):
            own = np.einsum("nd,nd->n", predicted[part], self.space[given[part]])
            others = predicted[part] @ self.space[self.bank].T
            others[self.texts[self.bank][None, :] == self.texts[given[part]][:, None]] = -np.inf
            found[part, 0], found[part, 1] = own, own - others.max(axis=1)
        return found


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

    The share π of wrong pairs is at most P(real > s) / P(planted > s) for every s; the least of these is taken, over
    tails that hold most of the planted ones: wrong pairs that were trained on lie nearer to the right ones than planted
    ones do. The probability is π times the ratio of the two densities, at most 1.
    """
    thresholds = np.quantile(planted, np.linspace(0, 1 - LEAST_TAIL, 50))
    tails = [(real >= s).mean() / (planted >= s).mean() for s in thresholds]
    return np.clip(min(1.0, *tails) * _density_ratio(real, planted), 0, 1)


def _density_ratio(real: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """p_planted / p_real at the real scores, by isotonic regression: it never falls where the score rises."""
    from sklearn.isotonic import IsotonicRegression

    values = np.concatenate([real, planted])
    is_planted = np.repeat([0.0, 1.0], [real.size, planted.size])
    weights = np.repeat([1 / real.size, 1 / planted.size], [real.size, planted.size])
    share = IsotonicRegression(out_of_bounds="clip").fit(values, is_planted, sample_weight=weights).predict(real)
    return share / np.maximum(1 - share, 1e-9)


def monotone(score: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The probabilities, smoothed so that they never fall where the score rises: [n]."""
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression().fit_transform(score, probability)


def _mean_rows(space: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found = np.empty(space.shape, dtype=space.dtype)
    for part in blocks(len(space)):
        found[part] = space[rows[part]].mean(axis=1)
    return found


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1."""
    return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-12)
