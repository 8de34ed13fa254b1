"""A store answers as the mathematics says, whatever the batch size, and refuses what does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from traklens.engine.attribution.described import retrieval_ranks
from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.attribution.scores import rank, score_sample, stored_target
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.explore.query import answer
from traklens.engine.gradients import reference_gradients
from traklens.engine.models.checkpoints import load_checkpoint
from traklens.engine.models.parameters import attributed_parameters
from traklens.engine.projection import make_projector
from traklens.engine.tasks.contract import ModelOutput
from traklens.engine.tasks.loading import Loader
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
from traklens.stores.store import open_store

OUTPUT, PROJECTION, SCORE = ModelOutputSpec(n_reference=32), ProjectionSpec(dim=64), ScoreSpec()


def _brute_force(store, row: int) -> np.ndarray:
    """τ(z, z_i) for all training pairs, in float64, from the stored φ and Q by the formula alone."""
    total, q = np.zeros(store.n_train), np.zeros(store.n_train)
    for m in range(store.n_checkpoints):
        phi = np.asarray(store.array(m, "phi")[:], dtype=np.float64)
        train = phi[: store.n_train]
        gram = train.T @ train
        gram += store.manifest.score.damping * np.trace(gram) / len(gram) * np.eye(len(gram))
        total += train @ np.linalg.solve(gram, phi[row]) / store.n_checkpoints
        q += np.asarray(store.array(m, "q")[: store.n_train]) / store.n_checkpoints
    return total * q


@pytest.mark.parametrize("row", [0, 11, 70])
def test_query_ranks_as_brute_force_up_to_fp16(tiny_store, row):
    store = open_store(tiny_store)
    exact, target = _brute_force(store, row), stored_target(store, row)
    found = rank(store, target, top=10)
    scale = np.abs(exact).max()
    best, worst = np.sort(exact)[::-1][:10], np.sort(exact)[:10]
    for pairs, ends in ((found.proponents, best), (found.opponents, -worst)):
        n = len(pairs)  # fewer than ten where fewer raise, or lower, f
        np.testing.assert_allclose(np.abs([pair.score for pair in pairs]), ends[:n], atol=2e-3 * scale)
        assert (ends[n:] <= 2e-3 * scale).all()
    for pair in (*found.proponents, *found.opponents):
        assert pair.score == pytest.approx(exact[pair.row], abs=2e-3 * scale)
    np.testing.assert_allclose(score_sample(store, target), exact, atol=2e-3 * scale)


@pytest.mark.parametrize("modules", ["", "visual.ln_post, text_projection"])
def test_stored_features_equal_projected_autograd_gradients(tiny_demo, tmp_path, modules):
    source = Source.open(tiny_demo / "data", run=tiny_demo / "run")
    projection, path = replace(PROJECTION, modules=modules), tiny_demo / "store"
    if modules:
        path = tmp_path / "store"
        build_store(source, path, OUTPUT, projection, SCORE, batch_size=16)
    store = open_store(path)
    rows, m = np.array([0, 5, 66]), 1
    task = source.task.bind(source.model, OUTPUT)
    clip = load_checkpoint(source.model, source.checkpoints[m])
    batch = Loader(task, source.rows).load_rows(rows)
    context = {name: torch.from_numpy(values) for name, values in store.context(m).items()}
    module = ModelOutput(task, clip, tuple(batch), tuple(context)).eval()
    parameters = attributed_parameters(clip, modules, task.frozen())
    names = [f"model.{name}" for name in parameters]
    gradients = reference_gradients(module, tuple(batch.values()), names, tuple(context.values()))
    layout = tuple((name, gradients[f"model.{name}"].shape[1]) for name in parameters)
    projector, phi = make_projector(projection, layout, m), np.zeros((3, 64), np.float32)
    for name in parameters:
        projector.accumulate(name, gradients[f"model.{name}"], phi)
    stored = np.stack([store.row(m, "phi", row) for row in rows])
    np.testing.assert_allclose(stored, phi, rtol=1e-3, atol=1e-4 * np.abs(phi).max())


def test_batch_size_changes_no_score(tiny_demo, tmp_path):
    source = Source.open(tiny_demo / "data", run=tiny_demo / "run")
    build_store(source, tmp_path / "store", OUTPUT, PROJECTION, SCORE, batch_size=7)
    one, other = open_store(tiny_demo / "store"), open_store(tmp_path / "store")
    for m in range(2):
        a, b = (np.asarray(s.array(m, "phi")[:]) for s in (one, other))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def test_live_query_of_a_stored_pair_equals_the_stored_one(tiny_demo):
    store = open_store(tiny_demo / "store")
    models = LiveModels(store)
    for row in (3, 75):
        stored, live = stored_target(store, row), models.target(store.image_path(row), store.examples.words[row])
        assert live.f == pytest.approx(stored.f, abs=1e-3)
        np.testing.assert_allclose(live.similarity_query, stored.similarity_query, atol=1e-5)
        ranks = retrieval_ranks(store, live.similarity_query, live.words, store.examples.group[row])
        assert live.match is not None
        assert (live.match.rank_image_to_text, live.match.rank_text_to_image) == ranks
        scale = np.abs(stored.influence_query).max()
        np.testing.assert_allclose(live.influence_query, stored.influence_query, atol=1e-3 * scale)


def test_contrast_is_the_difference_of_two_targets(tiny_demo):
    store = open_store(tiny_demo / "store")
    models, image = LiveModels(store), store.image_path(2)
    a, b = "a red circle sign with the letter k", "a blue square sign with the number 7"
    one, two, both = models.target(image, a), models.target(image, b), models.target(image, a, contrast=b)
    assert both.f == pytest.approx(one.f - two.f, abs=1e-3)
    scale = np.abs(one.influence_query).max()
    np.testing.assert_allclose(both.influence_query, one.influence_query - two.influence_query, atol=1e-5 * scale)


def test_query_keeps_its_contract(tiny_store):
    store = open_store(tiny_store)
    found = json.loads(json.dumps(answer(tiny_store, id=str(store.examples.id[0]), top=3)))
    assert {"target", "f", "similarity", "proponents", "opponents", "seconds"} <= set(found)
    assert all(1 <= len(found[side]) <= 3 for side in ("proponents", "opponents"))
    assert set(found["proponents"][0]) == {"id", "score", "caption", "image"}
    for side, sign in (("proponents", -1), ("opponents", 1)):
        scores = [sign * pair["score"] for pair in found[side]]
        assert scores == sorted(scores)


def test_a_finished_store_of_another_specification_is_not_touched(tiny_demo):
    source = Source.open(tiny_demo / "data", run=tiny_demo / "run")
    before = (tiny_demo / "store" / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=r"score\.damping: 1\.0, 0\.5"):
        build_store(source, tiny_demo / "store", OUTPUT, PROJECTION, ScoreSpec(damping=0.5))
    build_store(source, tiny_demo / "store", OUTPUT, PROJECTION, SCORE)  # the same: nothing to do
    assert (tiny_demo / "store" / "manifest.json").read_bytes() == before


def test_unknown_ids_and_contradicting_options_are_refused(tiny_demo):
    store = open_store(tiny_demo / "store")
    with pytest.raises(StoreError, match="no such id"):
        stored_target(store, "0123456789abcdef")
    with pytest.raises(UsageError, match="exactly one"):
        Source.open(tiny_demo / "data")
    with pytest.raises(UsageError, match="both or neither"):
        Source.open(tiny_demo / "data", model="ViT-B-32")


def test_proponents_raise_and_opponents_lower(tiny_store):
    store = open_store(tiny_store)
    for row in range(store.n):
        target = stored_target(store, row)
        found, scores = rank(store, target, top=store.n_train), score_sample(store, target)
        assert len(found.proponents) == (scores > 0).sum()
        assert len(found.opponents) == (scores < 0).sum()
        assert all(pair.score > 0 for pair in found.proponents)
        assert all(pair.score < 0 for pair in found.opponents)
