"""Scores are those of the formula, in units of f, against brute force in float64."""

import numpy as np
import pytest

from traklens.engine.attribution.scores import soft_threshold
from traklens.engine.features.precondition import DampedGram, gram_matrix, influence_rows, similarity_rows
from traklens.stores.errors import UsageError


def test_influence_rows_give_the_scores_of_the_definition():
    rng = np.random.default_rng(0)
    phi = [rng.standard_normal((30, 8)).astype(np.float32) for _ in range(3)]
    q, target, damping = rng.random(30), [rng.standard_normal(8) for _ in range(3)], 0.2
    expected = np.zeros(30)
    for m in range(3):
        gram = phi[m].astype(np.float64).T @ phi[m]
        gram += damping * np.trace(gram) / 8 * np.eye(8)
        expected += phi[m].astype(np.float64) @ np.linalg.solve(gram, target[m]) / 3
    expected *= q
    rows = influence_rows(
        [DampedGram(gram_matrix([p[:10], p[10:]], 8), damping).solve(p) for p in phi], q, weight_by_q=True
    )
    np.testing.assert_allclose(rows @ np.concatenate(target), expected, rtol=1e-4, atol=1e-6)


def test_similarity_rows_give_the_mean_cosine():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((4, 5, 4))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    u, v = list(vectors[:2]), list(vectors[2:])
    rows = similarity_rows([u, v])
    query = np.concatenate([u[0][2], v[0][2], u[1][2], v[1][2]])
    expected = np.mean([x @ x[2] for x in (*u, *v)], axis=0)
    np.testing.assert_allclose(rows @ query, expected, atol=1e-6)
    assert (rows @ query)[2] == pytest.approx(1, abs=1e-6)


def test_undamped_singular_gram_is_refused_with_advice():
    gram = gram_matrix([np.ones((3, 8), np.float32)], 8)
    with pytest.raises(UsageError, match="Raise --damping"):
        DampedGram(gram, 0.0)
    with pytest.raises(UsageError, match="0 or more"):
        DampedGram(gram, -1.0)


def test_soft_threshold_keeps_a_share_and_the_order():
    scores = np.random.default_rng(2).standard_normal((4, 500))
    found = soft_threshold(scores, 0.02)
    assert ((found != 0).sum(axis=1) == 10).all()
    kept = found[0] != 0
    assert np.array_equal(np.argsort(scores[0][kept]), np.argsort(found[0][kept]))
    assert np.array_equal(np.sign(found[0][kept]), np.sign(scores[0][kept]))
    np.testing.assert_array_equal(soft_threshold(scores, 1.0), scores)
    with pytest.raises(UsageError):
        soft_threshold(scores, 0.0)


@pytest.mark.parametrize(
    ("gram", "found"), [(np.zeros((4, 4)), "nothing but zeros"), (np.full((4, 4), np.inf), "inf")]
)
def test_what_no_damping_can_mend_is_not_blamed_on_the_damping(gram, found):
    with pytest.raises(UsageError, match=found):
        DampedGram(gram, 1.0)
