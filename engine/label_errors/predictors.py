"""Where the words of an example should lie, by predictors that do not look at them, and how its own words compare. No torch.

The words are captions of images, labels of what was classified, or answers to inputs. Labels are captions of a few words:
their space has an axis for each class, in which the models' probabilities are the expectation. Answers of language models
are expected by the ridge regression and the neighbours alone; what the models say of them is their f.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from traklens.engine.attribution.methods import blocks
from traklens.engine.label_errors.neighbours import nearest, numbered
from traklens.engine.label_errors.signals import NEIGHBOURS, Evidence
from traklens.stores.store import Store

RIDGE = 0.01  # of the mean diagonal
BANK = 2_000  # captions that the own one is compared with
SEED = 11


def predictions(evidence: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    """Where each predictor expects the caption (label), in the space of captions [n, M·e] (of classes [n, C]) each."""
    if evidence.expects:
        yield "unseen", expected_by_models(evidence, evidence.unseen)
        yield "seen", expected_by_models(evidence, ~evidence.unseen)
    yield "ridge", left_out_ridge(evidence.image_space, evidence.words_space)
    yield "neighbours", mean_rows(evidence.words_space, evidence.image.rows)


def strangers(evidence: Evidence) -> list[np.ndarray]:
    """Predictions by what never saw an example's own words, nor was trained on them: [n, M·e], [n, C] or [n, e] each.

    A model that was trained on a pair has drawn its image towards its caption, so what is said in that model's space is said
    knowing the caption, though the pair itself be left out. Hence the expectation of the models that did not train on it;
    of answers, ridge regression and neighbours in each model's space among the examples that it never saw, averaged.
    """
    if evidence.expects:
        return [expected_by_models(evidence, evidence.unseen)]
    words, checkpoints = evidence.words_space, len(evidence.unseen)
    ridge, near = np.zeros(words.shape), np.zeros(words.shape)
    for space, unseen in zip(np.split(evidence.image_space, checkpoints, axis=1), evidence.unseen, strict=True):
        rows = np.flatnonzero(unseen)
        if rows.size > 1:
            ridge[rows] += left_out_ridge(space[rows], words[rows])
            near[rows] += mean_rows(words[rows], nearest(space[rows], NEIGHBOURS, evidence.groups[rows]).rows)
    count = np.maximum(evidence.unseen.sum(axis=0), 1)[:, None]
    return [ridge / count, near / count]


def expected_by_models(evidence: Evidence, where: np.ndarray) -> np.ndarray:
    """What the models `where` [M, n] holds expect, all of them where none does: [n, M·e] of captions, [n, C] of labels."""
    if evidence.probabilities is not None:
        return _mean_probabilities(evidence.probabilities, where)
    checkpoints, width = len(where), evidence.image_space.shape[1]
    weight = np.where(where.any(axis=0), where / np.maximum(where.sum(axis=0), 1) * checkpoints, 1.0)
    return evidence.image_space * np.repeat(weight.T, width // checkpoints, axis=1)


def _mean_probabilities(probabilities: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean over the models `where` [M, n] holds, over all of them where none does: [M, n, C] → [n, C]."""
    count = where.sum(axis=0)[:, None]
    total = np.where(where[..., None], probabilities, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), probabilities.mean(axis=0))


@dataclass(frozen=True)
class Ridge:
    """A ridge regression with intercept. weights [d + 1, e]; hat: the leverage of each row that it was fitted to, [n]."""

    weights: np.ndarray
    hat: np.ndarray

    @classmethod
    def fit(cls, inputs: np.ndarray, outputs: np.ndarray) -> "Ridge":
        """Of outputs [n, e] on inputs [n, d], in float64."""
        design = _with_intercept(inputs)
        gram = design.T @ design
        gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
        factor = cho_factor(gram)
        hat = np.empty(len(inputs))
        for part in blocks(len(inputs)):
            hat[part] = np.einsum("nd,nd->n", design[part], cho_solve(factor, design[part].T).T)
        return cls(cho_solve(factor, design.T @ outputs), hat)

    def without(self, rows: np.ndarray | slice, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """What it would predict for some of its rows, each without itself: (ŷ − h·y) / (1 − h), exactly, float64 [r, e]."""
        hat = self.hat[rows][:, None]
        return (_with_intercept(inputs) @ self.weights - hat * outputs) / (1 - hat)


def _with_intercept(inputs: np.ndarray) -> np.ndarray:
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1, dtype=np.float64)


def left_out_ridge(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Ridge regression with intercept of outputs [n, e] on inputs [n, d], each row predicted without itself: [n, e]."""
    ridge, found = Ridge.fit(inputs, outputs), np.empty(outputs.shape)
    for part in blocks(len(inputs)):
        found[part] = ridge.without(part, inputs[part], outputs[part])
    return found


def mean_rows(space: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean of the rows of `space` [n, e] that each row of `rows` [n, k] names: [n, e]."""
    found = np.empty(space.shape, dtype=space.dtype)
    for part in blocks(len(space)):
        found[part] = space[rows[part]].mean(axis=1)
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


def standard(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1."""
    return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-12)
