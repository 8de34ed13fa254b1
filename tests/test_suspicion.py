"""Probabilities of wrong captions where the models cannot tell."""

import numpy as np

from traklens.engine.label_errors.suspicion import told_apart


def test_models_that_learned_nothing_are_not_sure():
    rng = np.random.default_rng(0)
    same = rng.standard_normal(500), rng.standard_normal(500)
    assert told_apart(*same) == 0
    assert told_apart(same[0], same[1] + 3) == 1
    assert 0 < told_apart(same[0], same[1] + 0.5) < 1
    assert told_apart(same[0], same[1][:0]) == 0
