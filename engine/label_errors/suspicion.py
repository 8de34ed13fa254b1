"""One ranking out of the signals. No torch.

Several predictors say where in the caption space the caption of an image should lie, none of them from the pair's own
caption: the image embedding under checkpoints that never saw the pair, under those that did, a ridge regression from image
to caption embeddings with the pair left out, and the mean caption of the pairs with the nearest images. Each gives the own
caption a score and a margin over the best other caption. The suspicion is minus the mean of all of these, standardised, with
the margin under retrained models where there are any. Labels and answers: see predictors.py; probabilities: estimate.py.
"""

from dataclasses import dataclass

import numpy as np

from traklens.engine.label_errors.estimate import probabilities
from traklens.engine.label_errors.predictors import Captions, predictions, standard
from traklens.engine.label_errors.signals import Evidence, margin
from traklens.stores.store import Store

WITNESS_WEIGHT = 4  # at most, of the margin under retrained models, against 8 parts of the checkpoints' own


@dataclass(frozen=True)
class Ranked:
    """score: float64 [n], the larger the more suspect; probability of a wrong caption, rising with it: float64 [n]."""

    score: np.ndarray
    probability: np.ndarray


def rank_suspects(store: Store, evidence: Evidence) -> Ranked:
    """The ranking and its probabilities."""
    captions = Captions.of(store, evidence)
    parts = [captions.scored(values, captions.own) for _, values in predictions(evidence)]
    parts.append(-margin(store, evidence)[:, None])
    values = standard(np.concatenate(parts, axis=1))
    weights = np.ones(values.shape)
    weights[:, -1] = _weight_of_margin(evidence)
    score = -np.average(values, axis=1, weights=weights)
    return Ranked(score, probabilities(evidence, captions, score))


def _weight_of_margin(evidence: Evidence) -> np.ndarray | int:
    """What f counts: as many parts as retrained models never saw the example, the most of answers, whose own part it is."""
    if not evidence.expects:
        return WITNESS_WEIGHT
    return np.minimum(WITNESS_WEIGHT, evidence.witness_unseen.sum(axis=0))
