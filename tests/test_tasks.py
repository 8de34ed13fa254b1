"""The task contract: every task is held to the same invariants, from gradients to the pages, by being in WORLDS."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import html_of
from streamlit.testing.v1 import AppTest
from worlds import WORLDS, World

from traklens.app.caches import STORE_VARIABLE
from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.attribution.scores import stored_target
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.cli.removal_request import answer as remove
from traklens.engine.data import load_dataset, values_of
from traklens.engine.evaluation.evaluate import evaluate
from traklens.engine.explore.query import answer
from traklens.engine.explore.reproduce import commands
from traklens.engine.gradients import per_sample_gradients, reference_gradients
from traklens.engine.label_errors.hunt import hunt
from traklens.engine.label_errors.signals import gather
from traklens.engine.models.parameters import attributed_parameters
from traklens.engine.retraining.retrainer import open_source
from traklens.engine.tasks.contract import ModelOutput
from traklens.engine.tasks.loading import Loader
from traklens.engine.tasks.registry import TASK_VARIABLE, reading_of, task_named
from traklens.engine.training.train import train
from traklens.stores.errors import UsageError
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
from traklens.stores.store import Store, open_store

PAGES = ("explore", "map", "remove", "hunt", "evaluate", "store", "confusion")


@pytest.fixture(scope="module", params=list(WORLDS))
def world(request, tmp_path_factory) -> tuple[Path, World]:
    """A folder with data, run and store of a task."""
    here, folder = WORLDS[request.param], tmp_path_factory.mktemp(request.param)
    data = here.data(folder)
    task = task_named(here.named(folder))
    dataset = load_dataset(data, fields=task.fields, read=reading_of(task))
    train(dataset, folder / "run", task=task, checkpoints=2, epochs=2, batch_size=16)
    source = Source.open(data, task=here.named(folder), run=folder / "run")
    build_store(
        source, folder / "store", ModelOutputSpec(n_reference=16), ProjectionSpec(dim=32), ScoreSpec(), batch_size=16
    )
    return folder, here


@pytest.fixture
def store(world, monkeypatch) -> Store:
    folder, here = world
    if ":" in here.task:
        monkeypatch.setenv(TASK_VARIABLE, here.named(folder))
    return open_store(folder / "store")


@pytest.fixture
def asked(store):
    """The first checkpoint as the build saw it: task, model, batch of six training examples, context.

    In float64 but for CLIP, which has no kinks: a ReLU at its kink would turn the last bits of a sum into another gradient.
    """
    source = open_source(store)
    model = source.task.load_checkpoint(source.model, store.checkpoint_path(0))
    context = {name: torch.from_numpy(values) for name, values in store.context(0).items()}
    batch = Loader(source.task, source.rows).load(0, 6)
    if source.task.name != "clip":
        model.double().register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
        batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    return source.task, model, batch, context


def _module(asked):
    task, model, batch, context = asked
    names = [f"model.{name}" for name in attributed_parameters(model, "", task.frozen())]
    return ModelOutput(task, model, tuple(batch), tuple(context)).eval(), names


def test_f_of_an_example_does_not_depend_on_its_batch(asked):
    task, model, batch, context = asked
    together = task.model_output(model, batch, context)
    alone = [task.model_output(model, {k: x[i : i + 1] for k, x in batch.items()}, context) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)
    assert together.shape == (6,)


def test_per_sample_gradients_by_hooks_are_autograds(asked):
    module, names = _module(asked)
    _, _, batch, context = asked
    expected = reference_gradients(module, tuple(batch.values()), names, tuple(context.values()))
    found = {name: torch.zeros_like(values) for name, values in expected.items()}

    def sink(name, gradients, rows):
        found[name][rows] += gradients

    inputs, shared = tuple(batch.values()), tuple(context.values())
    per_sample_gradients(module, inputs, sink, strategy="hooks", names=names, shared=shared)
    for name, values in expected.items():
        scale = max(1e-6, float(values.abs().max()))
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("world", ["image_classifier", "text_classifier", "own"], indirect=True)
def test_the_gradient_of_the_loss_is_minus_q_times_that_of_f(asked):
    """∇loss(z) = −Q·∇f(z), for every task whose loss is a mean over examples of a function of f; CLIP's is a contrast within
    its batch (tests/test_model_output.py), that of a language model a sum over tokens (tests/test_text.py)."""
    task, model, batch, context = asked
    q = task.output_to_loss(model, batch, context)
    parameters = [p for _, p in model.named_parameters()]
    for i in range(6):
        one = {name: x[i : i + 1] for name, x in batch.items()}
        of_loss = torch.autograd.grad(task.loss(model, one), parameters)
        of_f = torch.autograd.grad(task.model_output(model, one, context).sum(), parameters)
        for a, b in zip(of_loss, of_f, strict=True):
            torch.testing.assert_close(a, -q[i].detach() * b, rtol=1e-3, atol=1e-5)


def test_weights_of_the_loss_weigh_examples(asked):
    task, model, batch, _ = asked
    plain, even = task.loss(model, batch), task.loss(model, batch, torch.full((6,), 0.3, dtype=torch.float32))
    torch.testing.assert_close(plain, even, rtol=1e-4, atol=1e-5)
    if task.name != "clip":
        first = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float32)
        alone = task.loss(model, {name: x[:1] for name, x in batch.items()})
        torch.testing.assert_close(task.loss(model, batch, first), alone, rtol=1e-4, atol=1e-5)


def test_a_stored_example_asked_anew_is_the_stored_one(store):
    models, source = LiveModels(store), open_source(store)
    for row in (2, store.n - 1):
        placed, stored = source.rows[row], stored_target(store, row)
        live = models.about(values_of(placed.root, placed.example, source.task.fields))
        assert live.f == pytest.approx(stored.f, abs=1e-3)
        apart = np.linalg.norm(live.influence_query - stored.influence_query)
        assert apart < 0.02 * np.linalg.norm(stored.influence_query)  # a ReLU at its kink may have gone the other way
        assert live.words == stored.words
        if stored.guess is not None and live.guess is not None:
            assert live.guess.p_label == pytest.approx(stored.guess.p_label, abs=1e-3)


def test_a_contrast_is_the_difference_of_its_two_sides(store):
    models, source = LiveModels(store), open_source(store)
    values = values_of(source.rows[1].root, source.rows[1].example, source.task.fields)
    field = store.task.title
    if store.task.first("text", "label") is None:
        with pytest.raises(UsageError, match="no field in words"):
            models.about(values, contrast="more")
        return
    other = next(str(words) for words in store.examples.words if words != values[field])
    both = models.about(values, contrast=other)
    one, two = models.about(values), models.about({**values, field: other})
    assert both.f == pytest.approx(one.f - two.f, abs=1e-4)
    difference = one.influence_query - two.influence_query
    np.testing.assert_allclose(both.influence_query, difference, atol=1e-4 * np.abs(difference).max())


def test_a_query_names_examples_as_the_task_does(store):
    found = json.loads(json.dumps(answer(store.path, id=str(store.examples.id[0]), top=3)))
    title = store.task.title
    assert found["target"][title] == store.examples.words[0]
    assert all(title in example for side in ("proponents", "opponents") for example in found[side])
    assert ("predicted" in found["target"]) == (title == "label")
    assert ("similarity" in found) == (title == "caption")


def test_removal_retraining_hunt_and_evaluation(store, world):
    found = remove(store, id=str(store.examples.id[store.n - 1]), top=3, retrain=1)
    assert found["measured"]["seeds"] == 1
    assert np.isfinite([found["predicted"]["group"], found["measured"]["change"]]).all()
    if world[1].hunts:
        suspects, _ = hunt(store)
        assert np.isfinite(suspects.score).all()
        assert ((suspects.probability >= 0) & (suspects.probability <= 1)).all()
        again, _ = hunt(store, retrain=2)  # with models trained without the suspects, their arrays heard as evidence
        assert np.isfinite(again.score).all()
        assert len(gather(store).f) == store.n_checkpoints + 2
    else:
        with pytest.raises(UsageError, match="no caption, label"):
            hunt(store)
    outcome = evaluate(store, subsets=4, targets=4)
    assert {"trak", "graddot", "random"} <= set(outcome["lds"])
    assert ("clip" in outcome["lds"]) == bool(store.task.embeddings)


def test_every_page_opens(store, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, str(store.path))
    for page in PAGES:
        script = (
            f"from traklens.app.views import {page}\nfrom traklens.app import caches\n"
            f"{page}.show(caches.current_store())\n"
        )
        if page == "confusion" and not store.manifest.model.config.get("classes"):
            continue
        at = AppTest.from_string(script, default_timeout=120).run()
        assert not at.exception, (page, at.exception)
        assert "`" not in html_of(at), page


@pytest.mark.parametrize("world", ["own"], indirect=True)
def test_opening_a_store_of_ones_own_task_runs_none_of_its_code(world, monkeypatch):
    folder, _ = world
    monkeypatch.delenv(TASK_VARIABLE, raising=False)
    store = open_store(folder / "store")
    assert stored_target(store, 0).words.startswith("x [")
    with pytest.raises(UsageError, match=r"whose code is not run unless you name it.*--task"):
        LiveModels(store)


@pytest.mark.parametrize("world", ["own"], indirect=True)
def test_a_task_whose_file_was_changed_answers_no_new_question(world, tmp_path):
    folder, here = world
    other = tmp_path / "own.py"
    other.write_text((folder / "own.py").read_text().replace("** 2)", "** 2) / 2"))
    store = open_store(folder / "store")
    with pytest.raises(UsageError, match=r"changed since.*Build the store again"):
        LiveModels(store, task=f"{other}:Line")
    assert LiveModels(store, task=here.named(folder)).task.name == "line"


@pytest.mark.parametrize("world", ["clip", "image_classifier"], indirect=True)
def test_log_probability_and_unit_rows_are_what_they_say(world, tmp_path):
    """f = log p with Q = 1; rows of length one in the direction they had; the commands that make the store again say so."""
    folder, here = world
    source = Source.open(folder / "data", run=folder / "run")
    output, projection = ModelOutputSpec(n_reference=16), ProjectionSpec(dim=32)
    build_store(source, tmp_path / "unit", output, projection, ScoreSpec(normalize="unit"), batch_size=16)
    plain, unit = open_store(folder / "store"), open_store(tmp_path / "unit")
    a, b = (np.asarray(one.array(0, "phi")[:]) for one in (plain, unit))
    np.testing.assert_allclose(np.linalg.norm(b, axis=1), 1, rtol=1e-5)
    directions = a / np.linalg.norm(a, axis=1, keepdims=True)
    assert np.einsum("nk,nk->n", directions, b).min() > 0.999
    assert "--normalize unit" in commands(unit)[-1]
    changed = ModelOutputSpec(output="log_probability", n_reference=16)
    build_store(source, tmp_path / "log", changed, projection, ScoreSpec(), batch_size=16)
    log = open_store(tmp_path / "log")
    f, margin, q = (np.asarray(one.array(0, name)[:]) for one, name in ((log, "f"), (plain, "f"), (log, "q")))
    np.testing.assert_array_equal(q, 1)
    if here.task == "image_classifier":
        np.testing.assert_allclose(f, -np.logaddexp(0, -margin.astype(np.float64)), rtol=1e-3, atol=1e-4)
    else:
        p = np.asarray(log.array(0, "p")[:], dtype=np.float64)
        np.testing.assert_allclose(f, np.log(p).sum(axis=1), rtol=1e-3, atol=1e-4)
    assert "--output log_probability" in commands(log)[-1]
    with pytest.raises(UsageError, match="normalize"):
        build_store(source, tmp_path / "none", output, projection, ScoreSpec(normalize="long"))
