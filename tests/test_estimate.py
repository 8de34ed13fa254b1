"""How many captions are estimated to be wrong: honestly, and not at all where no model can say it."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from traklens.engine.label_errors.estimate import probabilities, probability_wrong
from traklens.engine.label_errors.measured import lead, measure
from traklens.engine.label_errors.neighbours import Neighbours, nearest
from traklens.engine.label_errors.predictors import Captions, expected_by_models, left_out_ridge, mean_rows, strangers
from traklens.engine.label_errors.signals import Evidence, margin, model_levels

N, E, WRONG = 2_000, 16, 160


def _world(*, drawn: float = 0.8) -> tuple[Evidence, Captions, np.ndarray]:
    """Pairs of 40 captions, 160 with another's; a model that saw a pair has drawn its image towards its own caption."""
    rng = np.random.default_rng(3)
    words = _unit(rng.standard_normal((40, E)))
    true = rng.integers(40, size=N)
    wrong = np.zeros(N, dtype=bool)
    wrong[rng.choice(N, WRONG, replace=False)] = True
    given = np.where(wrong, (true + rng.integers(1, 40, size=N)) % 40, true)
    half = rng.permutation(N) < N // 2
    unseen = np.stack([half, ~half])
    images = [
        _unit(words[true] + drawn * words[given] * ~hidden[:, None] + 0.25 * rng.standard_normal((N, E)))
        for hidden in unseen
    ]
    space = (np.concatenate(images, axis=1) / np.sqrt(2)).astype(np.float32)
    captions = np.tile(words[given], 2).astype(np.float32) / np.float32(np.sqrt(2))
    near = Neighbours(np.zeros((N, 1), dtype=np.int64), np.zeros((N, 1), dtype=np.float32))
    nothing = np.empty((0, N), dtype=np.float32)
    evidence = Evidence(
        f=np.zeros((2, N)), unseen=unseen, witness_f=nothing, witness_unseen=nothing.astype(bool), groups=np.arange(N),
        image=near, image_space=space, words_space=captions, text=near,
    )  # fmt: skip
    return evidence, Captions(given, np.arange(N), np.unique(given, return_index=True)[1], captions), wrong


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_estimate_is_honest_though_models_that_saw_a_pair_know_its_caption():
    evidence, captions, _ = _world()
    score = -captions.scored(expected_by_models(evidence, evidence.unseen), captions.own).mean(axis=1)
    assert probabilities(evidence, captions, score).sum() == pytest.approx(WRONG, rel=0.15)
    leaking = replace(evidence, unseen=~evidence.unseen)  # as if those that saw it were those that did not
    assert probabilities(leaking, captions, score).sum() < 0.7 * WRONG


def test_nothing_is_estimated_where_every_model_saw_everything():
    evidence, captions, _ = _world()
    blind = replace(evidence, unseen=np.zeros_like(evidence.unseen))
    assert not probabilities(blind, captions, np.arange(N, dtype=float)).any()


def test_examples_that_every_model_saw_get_the_probability_of_those_with_like_scores():
    evidence, captions, wrong = _world()
    half_known = replace(evidence, unseen=np.stack([evidence.unseen[0], np.zeros(N, dtype=bool)]))
    rng = np.random.default_rng(0)
    score = wrong + 0.2 * rng.standard_normal(N)
    found = probabilities(half_known, captions, score)
    assert found.sum() == pytest.approx(WRONG, rel=0.25)
    assert (np.diff(found[np.argsort(score)]) >= -1e-9).all()


def test_predictors_of_answers_never_use_a_model_that_saw_the_example():
    evidence, _, _ = _world()
    rows = np.arange(300)
    space, unseen = evidence.image_space[rows], evidence.unseen[:, rows]
    words = evidence.words_space[rows, :E]
    answers = replace(
        evidence, text=None, image_space=space, words_space=words, unseen=unseen, groups=rows, f=np.zeros((2, 300))
    )
    ridge, near = strangers(answers)
    for m in range(2):  # complementary halves: one model each
        own = np.flatnonzero(unseen[m])
        block = space[own, m * E : (m + 1) * E]
        np.testing.assert_allclose(ridge[own], left_out_ridge(block, words[own]), atol=1e-9)
        expected = mean_rows(words[own], nearest(block, 30, own).rows)
        np.testing.assert_allclose(near[own], expected, atol=1e-6)


@pytest.mark.parametrize("apart", [3.0, 4.0])
def test_the_least_of_many_noisy_tails_is_not_too_low(apart):
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        real = np.r_[rng.standard_normal(1_710), apart + rng.standard_normal(90)]
        found.append(probability_wrong(real, apart + rng.standard_normal(1_800)).sum())
    assert np.mean(found) == pytest.approx(90, rel=0.12)


def test_a_models_own_level_does_not_make_its_examples_suspect():
    rng = np.random.default_rng(1)
    example, level = rng.standard_normal(60), np.array([0.0, 2.0, -5.0, 3.0])
    unseen = np.stack([rng.permutation(60) < 30 for _ in level])
    f = (level[:, None] + example).astype(np.float32)
    found = model_levels(f, unseen)
    np.testing.assert_allclose(found - found[0], level - level[0], atol=0.02)
    known = unseen.any(axis=0)
    evidence = replace(
        _world()[0], f=f, unseen=unseen, witness_f=np.empty((0, 60)), witness_unseen=np.empty((0, 60), dtype=bool)
    )
    suspicion = margin(cast("Any", None), evidence)[known]
    np.testing.assert_allclose(suspicion + example[known], (suspicion + example[known]).mean(), atol=0.05)


def test_the_interval_of_an_area_and_of_a_lead_holds_what_fresh_pairs_give():
    """Of 200 draws of pairs, about 95 % of the intervals hold the area, and the lead, of very many pairs."""

    def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        wrong = rng.random(n) < 0.1
        shared = 1.5 * wrong + rng.standard_normal(n)
        return shared + 0.3 * rng.standard_normal(n), shared + rng.standard_normal(n), wrong

    one, other, wrong = draw(400_000, 0)
    area, ahead = measure(one, wrong).auroc, lead(one, other, wrong)["mean"]
    assert area > measure(other, wrong).auroc
    of_area = of_lead = 0
    for seed in range(1, 201):
        one, other, wrong = draw(600, seed)
        found, gained = measure(one, wrong), lead(one, other, wrong)
        of_area += found.lo <= area <= found.hi
        of_lead += gained["lo"] <= ahead <= gained["hi"]
    assert 180 <= of_area <= 199
    assert 180 <= of_lead <= 199


def test_an_area_counts_ties_half():
    assert measure(np.zeros(10), np.arange(10) < 3).auroc == 0.5
