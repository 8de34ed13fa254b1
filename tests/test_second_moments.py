"""Options that change features: gradients on the scale of Adam's steps, and whose gradients the Gram matrix is of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from worlds import WORLDS

import traklens
from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.attribution.scores import stored_target
from traklens.engine.data import values_of
from traklens.engine.explore.reproduce import commands
from traklens.engine.gradients import reference_gradients
from traklens.engine.models.optimizer_state import adam_second_moments
from traklens.engine.projection import make_projector
from traklens.engine.retraining.retrainer import open_source
from traklens.engine.tasks.contract import ModelOutput
from traklens.engine.tasks.loading import Loader
from traklens.stores.errors import ModelError, UsageError
from traklens.stores.store import open_store


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data of the own task, and two checkpoints after some steps of Adam with its state beside the weights."""
    folder = tmp_path_factory.mktemp("adam")
    WORLDS["own"].data(folder)
    with np.load(folder / "data.npz") as data:
        x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    for number in range(2):
        torch.manual_seed(number)
        model = _network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            ((model(x)[:, 0] - y) ** 2).mean().backward()
            optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{number}.pt")
    return folder


def _build(folder: Path, name: str, **options) -> Path:
    traklens.build(
        folder / "data.npz",
        out=folder / name,
        task=WORLDS["own"].named(folder),
        checkpoints=[folder / "0.pt", folder / "1.pt"],
        dim=32,
        progress=False,
        **options,
    )
    return folder / name


def _reference(folder: Path, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """∇f of every example under the first checkpoint, by plain autograd [n, p], and Q [n]."""
    store = open_store(path)
    source = open_source(store, task=WORLDS["own"].named(folder))
    task = source.task.bind(source.model, store.manifest.model_output)
    model = task.load_checkpoint(source.model, store.checkpoint_path(0))
    names = [f"model.{name}" for name, _ in model.named_parameters()]
    rows, batch = [], Loader(task, source.rows).load(0, source.n)
    for row in range(source.n):
        one = tuple(values[row : row + 1] for values in batch.values())
        found = reference_gradients(ModelOutput(task, model, tuple(batch), ()).eval(), one, names)
        rows.append(torch.cat([found[name].reshape(-1) for name in names]))
    return torch.stack(rows).double().numpy(), task.output_to_loss(model, batch, {}).numpy()


@pytest.mark.parametrize("kind", ["gradients", "optimizer"])
def test_rows_are_gradients_over_the_fourth_root_of_their_second_moment(folder, kind):
    path = _build(folder, kind, second_moment=kind)
    store = open_store(path)
    gradients, q = _reference(folder, path)
    v = np.asarray(store.array(0, "second_moment")[0], dtype=np.float64)
    if kind == "gradients":  # 48 training examples: all of them are drawn
        n = store.n_train
        np.testing.assert_allclose(v, np.mean((q[:n, None] * gradients[:n]) ** 2, axis=0), rtol=1e-3, atol=1e-9)
    else:
        state = torch.load(folder / "0.pt", weights_only=True)["optimizer"]["state"]
        np.testing.assert_array_equal(v, np.concatenate([state[i]["exp_avg_sq"].reshape(-1) for i in range(4)]))
    scaled = gradients / np.sqrt(np.sqrt(v) + 1e-3 * np.sqrt(v.mean()))
    expected = np.zeros((store.n, 32), dtype=np.float32)
    layout = tuple((name, parameter.numel()) for name, parameter in _network().named_parameters())
    projector, parts = make_projector(store.manifest.projection, layout, 0), np.split(scaled, [32, 40, 48], axis=1)
    for (name, _), part in zip(layout, parts, strict=True):
        projector.accumulate(name, torch.from_numpy(part.astype(np.float32)), expected)
    phi = np.asarray(store.array(0, "phi")[:])
    np.testing.assert_allclose(phi, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert f"--second-moment {kind}" in commands(store)[-1]
    assert store.manifest.score.second_moment == kind


@pytest.mark.parametrize("kind", ["gradients", "optimizer"])
def test_a_new_question_is_scaled_as_the_store_was(folder, kind):
    path = _build(folder, f"{kind} asked", second_moment=kind)
    store, task = open_store(path), WORLDS["own"].named(folder)
    models, source = LiveModels(store, task=task), open_source(store, task=task)
    placed = source.rows[3]
    asked = models.about(values_of(placed.root, placed.example, source.task.fields))
    stored = stored_target(store, 3)
    np.testing.assert_allclose(
        asked.influence_query, stored.influence_query, rtol=1e-3, atol=1e-4 * np.abs(stored.influence_query).max()
    )


def test_a_checkpoint_without_an_optimizer_is_refused_with_the_way_out(folder, tmp_path):
    torch.save(_network().state_dict(), tmp_path / "bare.pt")
    with pytest.raises(ModelError, match=r"no optimizer state.*--second-moment gradients"):
        adam_second_moments(tmp_path / "bare.pt", _network())
    with pytest.raises(ModelError, match="nothing"):
        adam_second_moments(tmp_path / "none.pt", _network())
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "sgd.pt")
    with pytest.raises(ModelError, match="exp_avg_sq of the model's 4 parameters"):
        adam_second_moments(tmp_path / "sgd.pt", model)


@pytest.mark.parametrize("form", ["one group", "gains first", "weights first", "named in any order"])
def test_an_optimizers_numbers_are_given_the_names_of_the_parameters(tmp_path, form):
    model = _network()
    named = dict(model.named_parameters())
    gains = [p for p in named.values() if p.ndim < 2]
    weights = [p for p in named.values() if p.ndim >= 2]
    groups = {
        "one group": model.parameters(),
        "gains first": [{"params": gains, "weight_decay": 0.0}, {"params": weights}],
        "weights first": [{"params": weights}, {"params": gains, "weight_decay": 0.0}],
        "named in any order": list(reversed(list(named.items()))),
    }[form]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    found = adam_second_moments(tmp_path / "a.pt", model)
    assert set(found) == set(named)
    for name, parameter in named.items():
        assert torch.equal(found[name], optimizer.state[parameter]["exp_avg_sq"])


@pytest.mark.parametrize("kind", ["train", "targets", "mixed"])
def test_the_gram_matrix_is_of_the_examples_named(folder, kind):
    store = open_store(_build(folder, f"gram {kind}", gram=kind, damping=0.5))
    n, phi = store.n_train, np.asarray(store.array(1, "phi")[:], dtype=np.float64)
    train, targets = phi[:n].T @ phi[:n], phi[n:].T @ phi[n:] * n / (store.n - n)
    gram = {"train": train, "targets": targets, "mixed": (train + targets) / 2}[kind]
    gram = gram + 0.5 * np.trace(gram) / 32 * np.eye(32)
    expected = np.linalg.solve(gram, phi[:n].T).T
    found = np.asarray(store.array(1, "preconditioned")[:])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert ("--gram" in commands(store)[-1]) == (kind != "train")


def test_what_these_options_can_be_is_said_before_anything_is_computed(folder, tmp_path):
    for option in ({"gram": "half"}, {"second_moment": "adam"}):
        with pytest.raises(UsageError, match="Choose one of them"):
            _build(folder, "refused", **option)
    with np.load(folder / "data.npz") as data:
        np.savez(tmp_path / "data.npz", x=data["x"], y=data["y"])
    with pytest.raises(UsageError, match=r"no held-out examples.*--targets"):
        traklens.build(
            tmp_path / "data.npz",
            out=tmp_path / "store",
            task=WORLDS["own"].named(folder),
            checkpoints=[folder / "0.pt"],
            dim=32,
            gram="targets",
            progress=False,
        )
    assert not (folder / "refused").exists()
