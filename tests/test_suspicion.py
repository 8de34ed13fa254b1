"""Probabilities of wrong captions where the models cannot tell, and answers that are unlike those of like inputs."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from traklens.engine.label_errors.answers import answer_space
from traklens.engine.label_errors.estimate import told_apart
from traklens.engine.label_errors.neighbours import nearest
from traklens.engine.label_errors.signals import Evidence
from traklens.engine.label_errors.suspicion import rank_suspects


def test_models_that_learned_nothing_are_not_sure():
    rng = np.random.default_rng(0)
    same = rng.standard_normal(500), rng.standard_normal(500)
    assert told_apart(*same) == 0
    assert told_apart(same[0], same[1] + 3) == 1
    assert 0 < told_apart(same[0], same[1] + 0.5) < 1
    assert told_apart(same[0], same[1][:0]) == 0


def _answers(words):
    return SimpleNamespace(examples=SimpleNamespace(words=np.array(words)), n_train=len(words))


def test_equal_answers_are_nearest_and_words_in_common_bring_answers_together():
    space = answer_space(cast("Any", _answers(["Aber Hill", "aber  hill", "Aber Valley", "Drome"])))
    cosine = space @ space.T
    np.testing.assert_allclose(np.diag(cosine), 1, atol=1e-5)
    np.testing.assert_allclose(cosine[0, 1], 1, atol=1e-5)
    assert cosine[0, 1] > cosine[0, 2] > cosine[0, 3]


def test_the_same_answers_give_the_same_vectors():
    one, two = (answer_space(cast("Any", _answers(["a b", "c"]))) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_an_answer_unlike_those_of_like_inputs_and_unlikely_to_models_is_the_most_suspect():
    """Inputs in ten groups with an answer each; five rows have another group's."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(10), 12)
    inputs = rng.standard_normal((10, 24))[group] + 0.3 * rng.standard_normal((120, 24))
    inputs = (inputs / np.linalg.norm(inputs, axis=1, keepdims=True)).astype(np.float32)
    wrong = np.array([3, 30, 57, 80, 111])
    given = group.copy()
    given[wrong] = (given[wrong] + 4) % 10
    store = cast("Any", _answers([f"town {number}" for number in given]))
    f = np.where(np.isin(np.arange(120), wrong), -1.0, 1.0) + rng.standard_normal((2, 120))
    unseen = np.stack([np.arange(120) % 2 == 0, np.arange(120) % 2 == 1])
    evidence = Evidence(
        f=f, unseen=unseen, groups=np.arange(120), witness_f=np.empty((0, 120)),
        witness_unseen=np.empty((0, 120), dtype=bool),
        image=nearest(inputs, 8, np.arange(120)), image_space=inputs, words_space=answer_space(store),
    )  # fmt: skip
    found = rank_suspects(store, evidence)
    assert set(np.argsort(-found.score)[:5]) == set(wrong.tolist())
    assert found.probability[wrong].min() > np.median(found.probability)
