"""Hunting wrong captions: each signal is what it says, the ranking finds planted ones, probabilities and files hold."""

import json
import subprocess
import sys

import numpy as np
import pytest

from traklens.engine.label_errors.baselines import baselines, lemon
from traklens.engine.label_errors.estimate import probability_wrong
from traklens.engine.label_errors.ground_truth import truth_columns, wrong_pairs
from traklens.engine.label_errors.hunt import judged, known_truth, rankings
from traklens.engine.label_errors.measured import Suggested, measure, measure_suggestions
from traklens.engine.label_errors.neighbours import embedding_space, nearest
from traklens.engine.label_errors.posteriors import classes_of, mean_posterior
from traklens.engine.label_errors.predictors import left_out_ridge
from traklens.engine.label_errors.signals import (
    OF_PAIRS,
    SIGNALS,
    gather,
    harm,
    image_neighbours,
    margin,
    self_influence,
)
from traklens.engine.label_errors.suggestion import suggestions
from traklens.engine.label_errors.suspects import find_suspects, suspects_from
from traklens.engine.label_errors.suspicion import rank_suspects
from traklens.stores.errors import UsageError
from traklens.stores.layout import HUNT
from traklens.stores.store import open_store


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def evidence(store):
    return gather(store)


@pytest.fixture
def own(own_store):
    return open_store(own_store)


def test_neighbours_equal_brute_force_and_are_never_of_the_same_image():
    rng = np.random.default_rng(0)
    space = rng.standard_normal((60, 5)).astype(np.float32)
    groups = rng.integers(0, 40, 60)
    found = nearest(space, 4, groups)
    for i in range(60):
        cosines = space @ space[i]
        allowed = [j for j in np.argsort(-cosines) if groups[j] != groups[i]][:4]
        assert found.rows[i].tolist() == allowed
        np.testing.assert_allclose(found.cosines[i], cosines[allowed], rtol=1e-5)


def test_margin_is_of_models_that_never_saw_the_pair(store, evidence):
    f = np.stack([store.array(m, "f")[: store.n_train] for m in range(store.n_checkpoints)])
    subset = np.stack([store.array(m, "subset")[:] for m in range(store.n_checkpoints)])
    for row in range(store.n_train):
        unseen = [f[m, row] for m in range(len(f)) if not subset[m, row]]
        expected = -np.mean(unseen if unseen else f[:, row])
        assert margin(store, evidence)[row] == pytest.approx(expected, abs=1e-5 * float(np.abs(f).max()))


def test_self_influence_and_harm_are_attributions(store, evidence):
    queries = np.concatenate([np.asarray(store.array(m, "phi")[:]) for m in range(store.n_checkpoints)], axis=1)
    every = (
        store.influence.rows(np.arange(store.n_train)) @ queries.T
    )  # τ of training pair (row) to any pair (column)
    np.testing.assert_allclose(
        self_influence(store, evidence), np.diag(every[:, : store.n_train]), atol=1e-3 * np.abs(every).max()
    )
    expected = -every[:, store.n_train :].mean(axis=1)
    np.testing.assert_allclose(harm(store, evidence), expected, atol=1e-3 * np.abs(every).max())  # float16 rows


def test_neighbour_signal_equals_a_loop(store, evidence):
    text = embedding_space(store, "text_embedding")
    found = image_neighbours(store, evidence)
    for row in (0, 7, store.n_train - 1):
        expected = np.mean([1 - text[row] @ text[j] for j in evidence.image.rows[row]])
        assert found[row] == pytest.approx(expected, abs=1e-5)


def test_left_out_ridge_equals_fitting_without_the_row():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, 3))
    found = left_out_ridge(x, y)
    design = np.c_[x, np.ones(40)]
    ridge = 0.01 * np.trace(design.T @ design) / 7
    for i in (0, 13, 39):
        rest = np.delete(np.arange(40), i)
        weights = np.linalg.solve(design[rest].T @ design[rest] + ridge * np.eye(7), design[rest].T @ y[rest])
        np.testing.assert_allclose(found[i], design[i] @ weights, rtol=1e-8)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_probabilities_tell_how_many_are_wrong_when_wrong_ones_look_like_planted_ones(share):
    rng = np.random.default_rng(2)
    wrong = rng.random(20_000) < share
    real = np.where(wrong, rng.normal(3, 1, 20_000), rng.normal(0, 1, 20_000))
    found = probability_wrong(real, rng.normal(3, 1, 20_000))
    assert found.sum() == pytest.approx(wrong.sum(), rel=0.15)
    bins = np.array_split(np.argsort(real), 10)
    assert max(abs(found[b].mean() - wrong[b].mean()) for b in bins) < 0.08
    order = np.argsort(real)
    assert (np.diff(found[order]) >= -1e-12).all()


def test_probability_rises_with_the_score(store, evidence):
    ranked = rank_suspects(store, evidence)
    order = np.argsort(ranked.score)
    assert (np.diff(ranked.probability[order]) >= -1e-9).all()
    assert ((ranked.probability >= 0) & (ranked.probability <= 1)).all()


def test_suspects_carry_every_signal_and_a_percentile_counts_those_below(store, evidence):
    found = suspects_from(store, evidence)
    assert set(found.signals) == set(SIGNALS) == set(OF_PAIRS)
    assert sorted(found.order.tolist()) == list(range(store.n_train))
    np.testing.assert_array_equal(
        found.order[found.place], np.arange(store.n_train)[np.argsort(found.place)][found.place]
    )
    worst = int(np.argmax(found.signals["margin"]))
    assert found.percentile("margin", worst) == pytest.approx(100 * (store.n_train - 1) / store.n_train)
    assert found.percentile("margin", int(np.argmin(found.signals["margin"]))) == 0


def test_planted_wrong_captions_are_found_in_a_store_whose_embeddings_know_better(own, monkeypatch):
    """Embeddings of a perfect model: images lie at their true caption; the ranking then finds every planted pair."""
    rng = np.random.default_rng(3)
    n, classes = own.n_train, 4
    directions = np.eye(8, dtype=np.float32)[:classes]
    truth = rng.integers(0, classes, n)
    given = truth.copy()
    wrong = rng.permutation(n)[:6]
    given[wrong] = (truth[wrong] + 1) % classes
    image = directions[truth] + 0.1 * rng.standard_normal((n, 8)).astype(np.float32)
    spaces = {
        "image_embedding": image / np.linalg.norm(image, axis=1, keepdims=True),
        "text_embedding": directions[given],
    }
    monkeypatch.setattr(
        "traklens.engine.label_errors.signals.embedding_space", lambda store, name, further: spaces[name]
    )
    own.examples._columns["caption"] = np.array([f"class {c}" for c in given] + ["?"] * own.n_heldout, dtype=object)
    evidence = gather(own)
    evidence.unseen[:] = evidence.unseen[:1]  # one block of embeddings
    one = type(evidence)(**{**vars(evidence), "unseen": evidence.unseen[:1], "f": evidence.f[:1]})
    ranked = rank_suspects(own, one)
    assert set(np.argsort(-ranked.score)[:6]) == set(wrong)


def test_measured_figures_equal_counting(store):
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    wrong = np.array([True, False, True, False, False, False])
    found = measure(np.tile(scores, 20) + np.repeat(np.arange(20), 6) * 1e-6, np.tile(wrong, 20))
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[wrong] for b in scores[~wrong]]
    assert found.auroc == pytest.approx(np.mean(pairs), abs=0.01)
    assert found.precision["50"] == pytest.approx(30 / 50)  # of the first 60 in order, 20 wrong, 20 right, 10 wrong
    assert found.curve[0] == (0, 0)
    assert found.curve[-1] == (120, 40)


def test_json_contract_of_hunt_with_truth(store):
    found, names = rankings(store)
    answer = json.loads(json.dumps(judged(found, names, wrong_pairs(store, "true_text"))))
    assert {"traklens", "margin", "self_influence", "cosine", "lemon", "p_seen", "p_unseen", "random"} <= set(
        answer["methods"]
    )
    assert set(answer["baselines"]) <= set(answer["methods"])
    assert "traklens" not in answer["baselines"]
    for row in answer["methods"].values():
        assert 0 <= row["auroc"] <= 1
        assert set(row) == {"auroc", "lo", "hi", "auprc", "precision", "curve"}
        assert row["lo"] <= row["auroc"] <= row["hi"]


def test_truth_is_a_true_caption_a_value_of_the_template_or_yes_and_no(store):
    wrong = wrong_pairs(store, "true_text")
    captions = store.examples.words[: store.n_train]
    truths = [store.examples.attributes(row)["true_text"] for row in range(store.n_train)]
    np.testing.assert_array_equal(wrong, captions != np.array(truths, dtype=object))
    assert truth_columns(store) == ["true_text"]
    with pytest.raises(UsageError, match="'nothing'"):
        wrong_pairs(store, "nothing")
    with pytest.raises(UsageError, match="every pair is wrong"):
        wrong_pairs(store, "character")
    truth = known_truth(store, find_suspects(store))
    assert truth is not None
    assert truth.wrong == wrong.sum()
    assert set(truth.curves) == {"this ranking", "CLIP cosine", "at random"}


def test_classes_need_repeating_captions_and_cleanlab_their_probabilities(store, evidence, own):
    assert classes_of(store, evidence) is None
    assert "cleanlab" not in baselines(store, evidence)
    own.examples._columns["caption"] = np.array([f"class {i % 3}" for i in range(own.n)], dtype=object)
    classes = classes_of(own, evidence)
    assert classes is not None
    assert classes.names == ("class 0", "class 1", "class 2")
    np.testing.assert_allclose(mean_posterior(classes, classes.unseen).sum(axis=1), 1)
    assert np.isfinite(baselines(own, evidence)["cleanlab"]).all()


def test_lemon_rises_when_neighbours_disagree(store, evidence):
    """Two kinds of picture, each with its caption; one pair of the first kind has the caption of the second."""
    rng = np.random.default_rng(0)
    kind = np.arange(store.n_train) % 2
    image = np.eye(4, dtype=np.float32)[kind] + rng.uniform(0, 0.1, (store.n_train, 4)).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    given = kind.copy()
    given[4] = 1
    text = np.eye(4, dtype=np.float32)[given]
    groups = np.arange(store.n_train)
    world = {"image_space": image, "words_space": text}
    world |= {"image": nearest(image, 5, groups), "text": nearest(text, 5, groups)}
    found = lemon(store, type(evidence)(**vars(evidence) | world))
    assert found is not None
    assert found.shape == (store.n_train,)
    assert int(np.argmax(found)) == 4


def test_suggestions_are_other_captions_of_the_training_set(store):
    for row in (0, 5):
        found = suggestions(store, row, find_suspects(store))
        assert 1 <= len(found) <= 4
        assert len(set(found)) == len(found)
        assert store.examples.words[row] not in found
        assert set(found) <= set(store.examples.words[: store.n_train])


def test_a_suggestion_is_right_when_it_is_the_true_caption(own, monkeypatch):
    suspects = find_suspects(own)
    words, rows = own.examples.words[: own.n_train], np.arange(6)
    first = [suggestions(own, int(row), suspects)[0] for row in rows]
    told = [*map(str, first), *map(str, words[6:])]
    monkeypatch.setattr(type(own.examples), "attributes", lambda _, row: {"told": told[row]})
    measured = measure_suggestions(own, suspects, "told", np.arange(own.n_train) < 6)
    assert measured == Suggested(asked=6, first=1.0, first_four=1.0)
    told[:6] = ["no such caption"] * 6
    assert measure_suggestions(own, suspects, "told", np.arange(own.n_train) < 6) is None


def test_suspects_are_kept_and_a_damaged_or_foreign_file_is_made_again(own):
    first = find_suspects(own)
    file = own.path / HUNT
    made = file.stat().st_mtime_ns
    again = find_suspects(open_store(own.path))
    np.testing.assert_array_equal(again.score, first.score)
    assert file.stat().st_mtime_ns == made
    for content in (b"", b"PK\x03\x04 rubbish", b"\x93NUMPY"):
        file.write_bytes(content)
        np.testing.assert_array_equal(find_suspects(own).score, first.score)
    assert open_store(own.path).verify() == []


def test_hunting_imports_no_torch(tiny_store):
    code = (
        "import sys; from pathlib import Path; from traklens.stores.store import open_store\n"
        "from traklens.engine.label_errors.hunt import hunt\n"
        "hunt(open_store(Path(sys.argv[1])), truth='true_text'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_store)], check=True)
