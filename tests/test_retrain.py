"""Retraining in the background: what it measures, and that kills, cancels and neighbours leave nothing wrong behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.attribution.scores import stored_target
from traklens.engine.models.checkpoints import load_checkpoint
from traklens.engine.retraining.jobs import (
    ModelToTrain,
    cancel,
    history,
    kept_without,
    models_to_train,
    random_rows,
    recipe_for,
    resume,
    retraining_method,
    start,
    wait,
)
from traklens.engine.retraining.measurements import Measurements
from traklens.engine.retraining.retrainer import Retrainer
from traklens.engine.retraining.worker import train_models
from traklens.engine.training.fit import fit
from traklens.stores.errors import ModelError, StoreError, UsageError
from traklens.stores.retrained import Request, Retrained, model_key
from traklens.stores.store import Store, open_store

SLOW = """
import sys, time
import traklens.engine.retraining.worker
before = traklens.engine.retraining.retrainer.fit
def fit(*a, report, **k):
    def slowly(*x):
        time.sleep(0.1)
        report(*x)
    return before(*a, report=slowly, **k)
traklens.engine.retraining.retrainer.fit = fit
import traklens.engine.training.fit
traklens.engine.training.fit.SAVE_EVERY_SECONDS = 0.0
from pathlib import Path
sys.exit(traklens.engine.retraining.worker.work_on(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.fixture
def store(own_store) -> Store:
    return open_store(own_store)


def _slowly(store: Store, request: Request) -> tuple[str, subprocess.Popen]:
    """A job worked on slowly enough to be caught in the act."""
    job = Retrained(store.path).add_job(request)
    return job, subprocess.Popen([sys.executable, "-c", SLOW, str(store.path), job], cwd=Path(__file__).parent.parent)


def _until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def _silent(*_: object) -> None:
    pass


def test_a_retrained_model_is_what_fit_makes_of_the_kept_pairs(store, tmp_path):
    method = retraining_method(store)
    assert method.run is not None
    kept = kept_without(store.n_train, [0, 5, 9])
    retrainer = Retrainer(store, method)
    found = retrainer.train(ModelToTrain(kept, 2), tmp_path / "partial")
    recipe = recipe_for(method.run.spec.recipe, store.n_train, int(kept.sum()))
    assert retrainer.examples is not None
    spec, task, members = method.run.spec.model, retrainer.source.task, np.flatnonzero(kept)
    clip = fit(task, spec, recipe, 1002, retrainer.examples, members, tmp_path / "other", streams=2).eval()
    f, similarity, _ = retrainer.measure(clip)
    np.testing.assert_array_equal(found.f, f)
    np.testing.assert_array_equal(found.similarity, similarity)


def test_a_diverged_model_is_an_error_and_no_measurement(store, tmp_path, monkeypatch):
    retrainer = Retrainer(store, retraining_method(store))
    f = np.zeros(store.n, dtype=np.float32)
    f[3] = np.nan
    monkeypatch.setattr(retrainer, "measure", lambda model: (f, f, {}))
    with pytest.raises(ModelError, match=f"no number for 1 of {store.n}"):
        retrainer.train(ModelToTrain(kept_without(store.n_train, [0]), 0), tmp_path / "partial")


def test_a_store_checkpoint_measures_as_the_store_says(store):
    """Measuring the store's first checkpoint against its own references gives the stored cosine, and f per reference set."""
    manifest = store.manifest
    retrainer = Retrainer(store, retraining_method(store))
    f, similarity, arrays = retrainer.measure(
        load_checkpoint(manifest.model, store.path / manifest.checkpoints[0].path)
    )
    u, v = (np.asarray(store.array(0, name)[:]) for name in store.task.embeddings)
    np.testing.assert_allclose(similarity, (u * v).sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(arrays["image_embedding"], u, atol=1e-5)
    featurizer, embedded = LiveModels(store).featurizers[0], dict(zip(store.task.embeddings, (u, v), strict=True))
    batch = retrainer._batch(np.arange(store.n))
    by_set = []
    for m in range(store.n_checkpoints):
        rows, stored = store.context(m)["reference"], store.context(m)
        stored |= {name: values[rows] for name, values in embedded.items()}
        context = {name: torch.from_numpy(values) for name, values in stored.items()}
        by_set.append(featurizer.measure(batch, context, embedded)["f"])
    np.testing.assert_allclose(f, np.mean(by_set, axis=0), atol=1e-3)
    np.testing.assert_allclose(by_set[0], np.asarray(store.array(0, "f")[:]), atol=1e-3)


def test_retraining_takes_as_many_steps_as_a_checkpoint(store):
    run = retraining_method(store).run
    assert run is not None
    recipe = run.spec.recipe
    members = int(np.asarray(store.array(0, "subset")[:]).sum())
    assert recipe.steps == recipe.epochs * (members // recipe.batch_size)
    assert recipe_for(recipe, 1000, 123) == recipe
    before = replace(recipe, steps=0)  # of runs that did not record it
    assert recipe_for(before, 1000, 500).epochs == recipe.epochs
    assert recipe_for(before, 1000, 1000).epochs == round(recipe.epochs / 2)


def test_a_job_measures_the_change_and_is_not_done_twice(store):
    request = Request(rows=(1, 2, 3, 4), seeds=2, target=store.n - 1, choice="trak 4")
    status = wait(store, start(store, request), _silent)
    assert (status.state, status.done, status.total) == ("done", 6, 6)
    measured = Measurements(store).of(request)
    assert measured is not None
    retrained, method, n = Retrained(store.path), retraining_method(store), store.n_train
    f = {
        (name, seed): float(retrained.read(model_key(method.digest, kept, seed)).f[-1])
        for seed in (0, 1)
        for name, kept in (
            ("all", np.ones(n, dtype=bool)),
            ("without", kept_without(n, request.rows)),
            ("random", kept_without(n, random_rows(store, 4, seed))),
        )
    }
    control = np.mean([f["all", s] for s in (0, 1)])
    changes = [f["without", s] - control for s in (0, 1)]
    rounding = float(8 * np.finfo(np.float32).eps) * max(map(abs, f.values()))  # of sums and differences of float32
    assert measured.changes == pytest.approx(changes, abs=rounding)
    assert measured.change == pytest.approx(np.mean(changes), abs=rounding)
    assert measured.deviation == pytest.approx(np.std(changes, ddof=1), abs=rounding)
    assert measured.random == pytest.approx([f["random", s] - control for s in (0, 1)], abs=rounding)
    before = {path: path.stat().st_mtime_ns for path in retrained.path.glob("models/*.npz")}
    assert wait(store, start(store, request), _silent).state == "done"
    assert {path: path.stat().st_mtime_ns for path in retrained.path.glob("models/*.npz")} == before
    assert len(history(store)) == 2
    assert open_store(store.path).verify() == []


def test_a_killed_retraining_resumes_and_ends_with_the_same_numbers(store):
    request = Request(rows=(7, 8), seeds=1, target=store.n - 1)
    job, process = _slowly(store, request)
    retrained = Retrained(store.path)
    _until(
        lambda: len(list(retrained.path.glob("models/*.npz"))) == 1 and list(retrained.path.glob("work/*.partial.*"))
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert retrained.status(job).state == "interrupted"
    resume(store, job)
    assert wait(store, job, _silent).state == "done"
    found = {path.name: retrained.read(path.stem).f for path in retrained.path.glob("models/*.npz")}
    assert not list(retrained.path.glob("work/*"))
    shutil.rmtree(retrained.path)
    train_models(store, models_to_train(store, request))
    for path in retrained.path.glob("models/*.npz"):
        np.testing.assert_array_equal(retrained.read(path.stem).f, found[path.name])
    assert len(found) == 3


def test_cancel_leaves_nothing_behind_but_finished_models(store):
    request = Request(rows=(7, 8), seeds=3, target=store.n - 1)
    job, process = _slowly(store, request)
    retrained = Retrained(store.path)
    _until(lambda: list(retrained.path.glob("models/*.npz")) and list(retrained.path.glob("work/*.partial.*")))
    cancel(store, job, wait_seconds=20)
    process.wait(timeout=20)
    assert retrained.jobs() == []
    assert not retrained.job(job).exists()
    assert not list(retrained.path.glob("work/*"))
    for path in retrained.path.glob("models/*.npz"):
        assert retrained.read(path.stem).f.shape == (store.n,)


def test_a_dead_job_is_discarded_by_cancel(store):
    job, process = _slowly(store, Request(rows=(7, 8), seeds=1, target=store.n - 1))
    retrained = Retrained(store.path)
    _until(lambda: list(retrained.path.glob("work/*.partial.*")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    cancel(store, job)
    assert retrained.jobs() == []
    assert not list(retrained.path.glob("work/*.partial.*"))


def test_two_retrainings_at_once_do_not_disturb_each_other(store):
    """They share their controls: each model is trained once, and both end with what one alone would measure."""
    requests = [Request(rows=rows, seeds=1, target=store.n - 1) for rows in ((3, 4), (5, 6))]
    both = [_slowly(store, request) for request in requests]
    assert [process.wait(timeout=120) for _, process in both] == [0, 0]
    retrained = Retrained(store.path)
    assert [retrained.status(job).state for job, _ in both] == ["done", "done"]
    assert len(list(retrained.path.glob("models/*.npz"))) == 4

    def measured() -> list:
        return [found.to_json() for found in map(Measurements(store).of, requests) if found]

    together = measured()
    shutil.rmtree(retrained.path)
    for request in requests:
        train_models(store, models_to_train(store, request))
    assert len(together) == 2
    assert measured() == together


def test_the_users_command_gets_a_keep_list_a_seed_and_a_place_for_weights(store, tiny_demo, tmp_path):
    shutil.copy(tiny_demo / "run" / "checkpoint_0.safetensors", tmp_path / "weights.safetensors")
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(StoreError, match="--train-command"):
        retraining_method(store)
    script = tmp_path / "train.py"
    script.write_text(
        "import shutil, sys\n"
        "keep, seed, out = sys.argv[1:]\n"
        "lines = open(keep, encoding='utf-8').read().splitlines()\n"
        "assert lines[0] == 'filepath\\ttitle'\n"
        f"open({str(tmp_path / 'seen')!r}, 'a').write(f'{{seed}} {{len(lines) - 1}}\\n')\n"
        f"shutil.copy({str(tmp_path / 'weights.safetensors')!r}, out)\n"
    )
    command = f"{sys.executable} {script} {{keep}} {{seed}} {{out}}"
    request = Request(rows=(0, 1, 2), seeds=2, target=store.n - 1, random_control=False, command=command)
    assert wait(store, start(store, request), _silent).state == "done"
    n = store.n_train
    seen = sorted((tmp_path / "seen").read_text().splitlines())
    assert seen == sorted(f"{seed} {size}" for seed in (0, 1) for size in (n, n - 3))
    measured = Measurements(store).of(request)
    assert measured is not None
    assert measured.change == 0.0  # the same weights every time
    with pytest.raises(UsageError, match=r"\{out\}"):
        retraining_method(store, "train {keep} {seed}")


def test_a_failing_command_is_one_message_in_the_status(store):
    request = Request(rows=(0,), seeds=1, target=0, command="false {keep} {seed} {out}")
    status = wait(store, start(store, request), _silent)
    assert status.state == "failed"
    assert "exit status 1" in status.detail


def test_requests_that_cannot_be_carried_out_are_named(store):
    for request, message in (
        (Request(rows=(), seeds=1), "none"),
        (Request(rows=(store.n_train,), seeds=1), "rows of training examples"),
        (Request(rows=(1,), seeds=0), "0 seeds"),
    ):
        with pytest.raises(UsageError, match=message):
            start(store, request)
    assert history(store) == []


def test_a_damaged_model_file_is_named(store):
    retrained = Retrained(store.path)
    retrained.model_path("ab").parent.mkdir(parents=True)
    retrained.model_path("ab").write_bytes(b"PK nothing")
    with pytest.raises(StoreError, match=r"ab\.npz"):
        retrained.read("ab")


def test_the_target_of_a_job_need_not_be_held_out(store):
    assert stored_target(store, 0).row == 0
    request = Request(rows=(1,), seeds=1, target=0, random_control=False)
    train_models(store, models_to_train(store, request))
    assert Measurements(store).of(request) is not None
    assert Measurements(store).of(request, rows=store.n - 1) is not None
