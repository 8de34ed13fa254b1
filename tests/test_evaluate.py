"""LDS, baselines and the evaluation as a whole, each against a slow and obvious version."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from traklens.engine.attribution.methods import METHODS, scores_of
from traklens.engine.attribution.scores import soft_threshold
from traklens.engine.cli.main import app
from traklens.engine.evaluation import leave_k_out
from traklens.engine.evaluation.evaluate import (
    evaluate,
    in_words,
    kept_evaluation,
    target_rows,
    within_membership,
    without_themselves,
)
from traklens.engine.evaluation.lds import judged, judged_with_threshold, lds
from traklens.engine.retraining.jobs import MOST_SEEDS, retraining_method
from traklens.engine.retraining.subsets import random_subset, repeated_subsets
from traklens.engine.statistics import bootstrap, two_way
from traklens.stores.errors import UsageError
from traklens.stores.retrained import Request
from traklens.stores.store import Store, open_store


@pytest.fixture(scope="module")
def store(tiny_store) -> Store:
    return open_store(tiny_store)


def test_lds_equals_the_rank_correlation_target_by_target():
    rng = np.random.default_rng(0)
    scores, kept = rng.standard_normal((5, 40)), rng.random((20, 40)) < 0.5
    f = rng.standard_normal((20, 5))
    expected = np.array([spearmanr(kept @ scores[t], f[:, t])[0] for t in range(5)], dtype=np.float64)
    np.testing.assert_allclose(lds(scores, kept, f), expected, atol=1e-6)


def test_lds_of_a_linear_world_is_one_and_of_constant_scores_zero():
    rng = np.random.default_rng(1)
    scores, kept = rng.standard_normal((7, 50)), rng.random((30, 50)) < 0.5
    np.testing.assert_allclose(lds(scores, kept, kept @ scores.T), 1.0)
    np.testing.assert_array_equal(lds(np.zeros((7, 50)), kept, kept @ scores.T), 0.0)


def test_a_soft_threshold_is_chosen_on_other_targets():
    """Few scores matter and the rest is noise: the threshold that is offered helps, and is found."""
    rng = np.random.default_rng(2)
    truth = np.zeros((60, 400))
    for row in truth:
        row[rng.choice(400, size=4, replace=False)] = rng.standard_normal(4) * 3
    kept = rng.random((40, 400)) < 0.5
    noisy = truth + rng.standard_normal(truth.shape) * 0.5
    found = judged_with_threshold(noisy, kept, kept @ truth.T)
    assert found.values.mean() > lds(noisy, kept, kept @ truth.T).mean() + 0.1
    assert found.share <= 0.05


def test_the_values_without_a_group_of_models_are_those_of_the_others():
    rng = np.random.default_rng(4)
    scores, kept, f = rng.standard_normal((5, 40)), rng.random((12, 40)) < 0.5, rng.standard_normal((12, 5))
    one, pairs = judged(scores, kept, f), judged(scores, kept, f, np.arange(12) // 2)
    np.testing.assert_allclose(one.values, lds(scores, kept, f))
    np.testing.assert_allclose(one.left_out[3], lds(scores, np.delete(kept, 3, 0), np.delete(f, 3, 0)))
    np.testing.assert_allclose(pairs.left_out[1], lds(scores, np.delete(kept, [2, 3], 0), np.delete(f, [2, 3], 0)))
    assert one.lead(one).mean == one.lead(one).hi == 0


def test_an_interval_over_targets_and_models_holds_the_truth_where_one_over_targets_does_not():
    """The targets share the models: the luck of a model moves all of them."""
    rng, both, alone = np.random.default_rng(5), [], []
    for _ in range(300):
        y = (
            rng.standard_normal((16, 1)) + rng.standard_normal((1, 50)) + rng.standard_normal((16, 50))
        )  # its mean is 0
        left_out = (y.sum(axis=0) - y) / 15
        wide, narrow = two_way(y.mean(axis=0), left_out), bootstrap(y.mean(axis=0))
        both.append(wide.lo <= 0 <= wide.hi)
        alone.append(narrow.lo <= 0 <= narrow.hi)
    assert 0.91 < np.mean(both) <= 0.99
    assert np.mean(alone) < 0.85


def test_a_target_among_the_training_examples_is_not_judged_by_whether_a_half_holds_it(store):
    """Scores that know nothing but which example is the target would have LDS one; they have none."""
    rng, rows = np.random.default_rng(6), np.array([0, 5, 9])
    kept = rng.random((40, store.n_train)) < 0.5
    scores = np.zeros((3, store.n_train))
    scores[np.arange(3), rows] = 1.0
    f = 5.0 * kept[:, rows] + rng.standard_normal((40, 3))
    assert lds(scores, kept, f).mean() > 0.7
    inside = within_membership(f, kept, rows)
    np.testing.assert_allclose([inside[kept[:, row], t].mean() for t, row in enumerate(rows)], 0, atol=1e-9)
    np.testing.assert_array_equal(lds(without_themselves(store, rows, scores), kept, inside), 0)
    np.testing.assert_array_equal(within_membership(f, kept, rows + store.n_train), f)  # held out


def test_the_bootstrap_interval_brackets_the_mean():
    values = np.random.default_rng(3).standard_normal(200) + 1
    found = bootstrap(values)
    assert found.lo < found.mean < found.hi
    assert found.hi - found.lo == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.25)
    assert np.isnan(bootstrap(np.array([])).mean)


def _slow(store: Store, method: str, target: int, i: int) -> float:
    """One score, pair by pair, as the definitions read."""
    found = []
    train = slice(0, store.n_train)
    mean_q = np.mean([store.row(m, "q", i) for m in range(store.n_checkpoints)])
    for m in range(store.n_checkpoints):
        phi = np.asarray(store.array(m, "phi")[:], dtype=np.float64)
        q = np.asarray(store.array(m, "q")[:], dtype=np.float64)
        u, v = (np.asarray(store.array(m, name)[:]) for name in ("image_embedding", "text_embedding"))
        a, b = phi[target], phi[i]
        gram = phi[train].T @ phi[train]
        if method == "influence":
            gram = (phi[train] * (q * (1 - q))[train, None]).T @ phi[train]
        gram += store.manifest.score.damping * np.trace(gram) / len(gram) * np.eye(len(gram))
        found.append(
            {
                "trak": a @ np.linalg.solve(gram, b) * mean_q,
                "influence": a @ np.linalg.solve(gram, b) * q[i],
                "graddot": a @ b * q[i],
                "gradcos": a @ b / np.linalg.norm(a) / np.linalg.norm(b),
                "clip": (u[target] @ u[i] + v[target] @ v[i]) / 2,
                "clip_image": u[target] @ u[i],
                "clip_text": v[target] @ v[i],
            }[method]
        )
    return float(np.mean(found))


@pytest.mark.parametrize("method", ["trak", "influence", "graddot", "gradcos", "clip", "clip_image", "clip_text"])
def test_each_baseline_equals_its_definition_pair_by_pair(store, method):
    rows = np.array([store.n - 1, 2])
    found = scores_of(store, method, rows).scores
    assert found.shape == (2, store.n_train)
    for i in (0, 11, store.n_train - 1):
        for t in (0, 1):
            expected = _slow(store, method, int(rows[t]), i)
            assert found[t, i] == pytest.approx(expected, abs=2e-3 * float(np.abs(found[t]).max()))


def test_trak_scores_are_those_the_index_ranks_by(store):
    query = np.concatenate([store.row(m, "phi", store.n - 1) for m in range(store.n_checkpoints)])
    np.testing.assert_allclose(
        scores_of(store, "trak", np.array([store.n - 1])).scores[0],
        store.influence.scores(query),
        atol=2e-3 * np.abs(store.influence.scores(query)).max(),  # the index keeps float16
    )


def test_bm25_prefers_the_captions_own_words(store):
    row = store.n - 1
    scores = scores_of(store, "bm25", np.array([row])).scores[0]
    words = set(str(store.examples.words[row]).split())
    shared = [len(words & set(str(c).split())) for c in store.examples.words[: store.n_train]]
    assert shared[int(scores.argmax())] == max(shared)


def test_random_scores_are_the_same_every_time_and_unknown_methods_named(store):
    rows = np.array([1, 2])
    np.testing.assert_array_equal(scores_of(store, "random", rows).scores, scores_of(store, "random", rows).scores)
    with pytest.raises(UsageError, match="tracinn"):
        scores_of(store, "tracinn", rows)


def test_subsets_are_halves_drawn_by_image_and_differ(store):
    parts = [random_subset(store, j) for j in range(4)]
    images = np.asarray(store.examples.group[: store.n_train])
    for part in parts:
        assert abs(part.mean() - 0.5) < 0.02
        assert not set(images[part]) & set(images[~part])
    assert len({part.tobytes() for part in parts}) == 4


def test_soft_thresholding_keeps_the_order(store):
    scores = scores_of(store, "trak", np.array([store.n - 1])).scores
    kept = soft_threshold(scores, 0.2)[0]
    best = np.argsort(-scores[0])[:5]
    assert (np.argsort(-kept, kind="stable")[:5] == best).all()
    assert (kept != 0).mean() == pytest.approx(0.2, abs=1.5 / store.n_train)


def test_an_evaluation_fulfils_its_contract_and_trains_nothing_twice(own_store):
    path = own_store
    arguments = [
        "evaluate", str(path), "--subsets", "4", "--targets", "6", "--methods", "trak,clip,random", "--leave-k-out", "5",
        "--removal-targets", "2", "--removal-methods", "trak,greedy,clip,random", "--seeds", "1", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["lds"]) == {"trak", "clip", "random"}
    for row in found["lds"].values():
        assert -1 <= row["lo"] <= row["mean"] <= row["hi"] <= 1
        assert row["seconds"] >= 0
    assert {p["checkpoints"] for p in found["lds_by_checkpoints"] if p["method"] == "trak"} == {1, 2}
    assert set(found["leave_k_out"]["5"]) == {"trak", "greedy", "clip", "random"}
    assert found["leave_k_out"]["5"]["trak"]["targets"] == 2
    assert found["calibration"]["removals"] == 8
    assert (
        found["lds_attainable"] is found["calibration"]["attainable"] is None
    )  # one model each: nothing to tell noise by
    store = open_store(path)
    assert kept_evaluation(store) == found
    assert "rank correlation" in " ".join(in_words(found))
    models = {p: p.stat().st_mtime_ns for p in (path / "retrained" / "models").glob("*.npz")}
    again = evaluate(
        store, subsets=4, targets=6, methods=("trak", "clip", "random"), leave_out=(5,), removal_targets=2,
        removal_methods=("trak", "greedy", "clip", "random"), seeds=1,
    )  # fmt: skip
    assert {p: p.stat().st_mtime_ns for p in (path / "retrained" / "models").glob("*.npz")} == models
    assert again["leave_k_out"] == found["leave_k_out"]
    assert store.verify() == []


def test_repeated_models_say_what_noise_allows(own_store):
    store = open_store(own_store)
    found = evaluate(
        store, subsets=4, repeats=2, targets=6, methods=("trak",), leave_out=(4,), removal_targets=2,
        removal_methods=("trak", "random"), seeds=2,
    )  # fmt: skip
    assert repeated_subsets(store, retraining_method(store), 4, 2).shape == (2, 4, store.n)
    known = [
        x for x in (found["lds_attainable"], found["calibration"]["attainable"]) if x is not None
    ]  # None: by chance
    assert all(0 <= attainable <= 1 for attainable in known)
    assert " ".join(in_words(found)).count("could be had") == len(known)
    assert "too narrow" not in " ".join(in_words(found))
    del found["intervals"]  # as an evaluation of an older version
    assert "too narrow" in " ".join(in_words(found | {"lds": found["lds"] | {"clip": found["lds"]["trak"]}}))


def test_values_out_of_range_are_named_before_anything_is_trained(store):
    for arguments, message in (
        ({"subsets": 1}, "subsets"),
        ({"targets": 0}, "targets"),
        ({"methods": ("trak", "nothing")}, "nothing"),
        ({"leave_out": (10_000,)}, "leave_out"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(store, **arguments)  # type: ignore[arg-type]
    assert not (store.path / "retrained").exists()


def test_targets_are_held_out_pairs(store):
    rows = target_rows(store, 5)
    assert (rows >= store.n_train).all()
    assert len(set(rows.tolist())) == 5
    assert METHODS.keys() >= {"trak", "clip", "graddot", "influence", "bm25", "random"}


@pytest.mark.parametrize(
    ("removals", "seeds", "controls"), [(64, 3, 24), (4, 3, 6), (1, 3, 3), (400, 8, 32), (0, 3, 0)]
)
def test_what_all_removals_share_is_measured_by_more_models(store, removals, seeds, controls):
    """σ²·(1/R + 1/C) at A·R + C models is least at C = R·√A, by trying every other number."""
    wanted = [Request(rows=(i,), seeds=seeds, target=0, choice="trak 1") for i in range(removals)]
    found = leave_k_out.controls_for(store, [*wanted, *wanted[:1]])  # a random removal is asked for again and again
    assert [model.seed for model in found] == list(range(controls))
    assert all(model.kept.all() for model in found)
    if 0 < controls < MOST_SEEDS:
        models = removals * seeds + controls
        tried = [(1 / ((models - c) / removals) + 1 / c, c) for c in range(1, models - removals + 1)]
        assert abs(min(tried)[1] - controls) <= max(1, 0.1 * controls)
