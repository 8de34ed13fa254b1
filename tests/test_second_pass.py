"""Retrained models as evidence of a hunt: heard, without changing a queue under review; a second pass without suspects."""

import numpy as np
import pytest

from traklens.engine.label_errors.baselines import baselines
from traklens.engine.label_errors.hunt import hunt, rankings
from traklens.engine.label_errors.second_pass import left_out, second_pass_models
from traklens.engine.label_errors.signals import gather, signals
from traklens.engine.label_errors.suspects import find_suspects
from traklens.engine.label_errors.suspicion import rank_suspects
from traklens.engine.retraining.jobs import retraining_method
from traklens.stores.errors import UsageError
from traklens.stores.retrained import Retrained, RetrainedModel, model_key
from traklens.stores.store import open_store


@pytest.fixture
def own(own_store):
    return open_store(own_store)


def _keep_model(store, kept, seed, f, embeddings=None):
    digest = retraining_method(store).digest
    arrays = dict(zip(store.task.embeddings, embeddings or (), strict=False))
    model = RetrainedModel(kept, seed, f.astype(np.float32), f.astype(np.float32), 1.0, arrays)
    Retrained(store.path).write(model_key(digest, kept, seed), digest, model)


def test_retrained_models_are_witnesses_but_do_not_change_a_queue_under_review(own):
    first = find_suspects(own)
    kept = np.ones(own.n_train, dtype=bool)
    kept[:10] = False
    f = np.random.default_rng(0).standard_normal(own.n)
    f[3] = -80.0
    for seed in range(4):
        _keep_model(own, kept, seed, f)
    evidence = gather(own)
    assert evidence.witness_f.shape == (4, own.n_train)
    assert evidence.witness_unseen[0].sum() == 10
    np.testing.assert_array_equal(find_suspects(own).score, first.score)
    heard = find_suspects(own, renew=True)
    assert heard.place[3] == 0
    assert find_suspects(open_store(own.path)).place[3] == 0
    assert gather(own, witnesses=False).witness_f.shape == (0, own.n_train)


def test_models_of_a_second_pass_judge_with_their_embeddings(own):
    width = own.array(0, "image_embedding").shape[1]
    unit = np.zeros((own.n, width), dtype=np.float32)
    unit[:, 0] = 1
    kept = np.arange(own.n_train) % 2 == 0
    _keep_model(own, kept, 2, np.zeros(own.n), (unit, unit))
    evidence, before = gather(own), gather(own, witnesses=False)
    assert evidence.image_space.shape[1] == before.image_space.shape[1] + width
    assert len(evidence.f) == len(evidence.unseen) == own.n_checkpoints + 1
    assert len(evidence.witness_f) == 0
    np.testing.assert_array_equal(evidence.unseen[-1], ~kept)
    np.testing.assert_allclose(np.linalg.norm(evidence.image_space, axis=1), 1, rtol=1e-3)
    rank_suspects(own, evidence)
    found, names = rankings(own)  # baselines know the checkpoints alone
    np.testing.assert_allclose(found["cosine"], baselines(own, before)["cosine"])
    assert "cosine" in names


def test_a_second_pass_trains_on_complementary_halves_without_the_suspects(own):
    rows = left_out(find_suspects(own))
    wanted = second_pass_models(own, rows, 3)
    assert [model.seed for model in wanted] == sorted({model.seed for model in wanted})
    for model in wanted:
        assert not model.kept[rows].any()
    assert (wanted[0].kept & wanted[1].kept).sum() <= 1  # an odd number of pairs shares one
    assert (wanted[0].kept | wanted[1].kept).sum() == own.n_train - rows.size
    with pytest.raises(UsageError, match="retrain"):
        second_pass_models(own, rows, 0)


def test_hunt_with_retraining_resumes_and_hears_its_models(own):
    suspects, measured = hunt(own, truth="true_text", retrain=1)
    models = list((own.path / "retrained" / "models").glob("*.npz"))
    assert len(models) == 1
    stamp = models[0].stat().st_mtime_ns
    again, _ = hunt(own, retrain=1)
    assert models[0].stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.score, suspects.score)
    assert measured is not None
    assert set(signals(own, gather(own))) == set(suspects.signals)
