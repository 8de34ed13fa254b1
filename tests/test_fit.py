"""Fitting: as many steps whatever a model sees, the mean of its weights at the end, and the same bytes when interrupted."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from traklens.engine.training import fit as fitting
from traklens.engine.training.fit import fit
from traklens.engine.training.run_directory import open_run
from traklens.engine.training.running_mean import RunningMean, decay_for
from traklens.stores.errors import UsageError


class Line(nn.Module):
    """Stands for a model; batches are recorded by the task."""

    weight: nn.Parameter
    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.register_buffer("seen", torch.tensor(0))


class Task:
    """A regression on two numbers, with what `fit` asks of a task."""

    name, source = "line", ""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def build_model(self, spec: object, *, seed: int) -> Line:
        return Line()

    def augmented(self, batch: dict, augment: str, generator: torch.Generator) -> dict:
        return batch

    def trimmed(self, batch: dict) -> dict:
        return batch

    def loss(self, model: Line, batch: dict) -> torch.Tensor:
        self.batches.append(batch["row"].tolist())
        model.seen += len(batch["row"])
        return ((batch["row"] / 50 * model.weight[0] + model.weight[1]) ** 2).mean()

    def constrain(self, model: Line) -> None:
        pass


@pytest.fixture
def recipe(tiny_demo):
    found = open_run(tiny_demo / "run").spec.recipe
    return replace(found, batch_size=8, steps=30, learning_rate=0.05, average=0.0)


def _fitted(recipe, members, partial, task=None) -> tuple[Line, list[list[int]]]:
    examples = {"row": torch.arange(100.0)}
    task = task or Task()
    model = fit(task, None, recipe, 0, examples, np.asarray(members), partial, streams=2)  # type: ignore[arg-type]
    return cast("Line", model), task.batches


@pytest.mark.parametrize("members", [9, 40, 63, 64, 100])
def test_every_model_takes_as_many_steps_whatever_it_sees(recipe, tmp_path, members):
    _, batches = _fitted(recipe, range(members), tmp_path / "p")
    assert [len(batch) for batch in batches] == [8] * 30
    per_pass = members // 8
    for start in range(0, 30, per_pass):
        once = [row for batch in batches[start : start + per_pass] for row in batch]
        assert len(set(once)) == len(once)  # an example once in a pass


def test_runs_that_record_no_steps_make_whole_passes(recipe, tmp_path):
    _, batches = _fitted(replace(recipe, steps=0, epochs=3), range(40), tmp_path / "p")
    assert len(batches) == 3 * 5


def test_a_model_ends_with_the_running_mean_of_its_weights(recipe, tmp_path, monkeypatch):
    each: list[torch.Tensor] = []
    add = RunningMean.add

    def watched(self, step):
        each.append(self._weights["weight"].clone())
        add(self, step)

    monkeypatch.setattr(RunningMean, "add", watched)
    model, _ = _fitted(replace(recipe, average=0.8), range(40), tmp_path / "p")
    counts = 0.8 ** torch.arange(29, -1, -1.0)
    mean = (counts[:, None] * torch.stack(each)).sum(dim=0) / counts.sum()
    torch.testing.assert_close(model.weight.detach(), mean)
    assert int(model.seen) == 30 * 8  # a count is not averaged
    assert not torch.allclose(mean, each[-1])


def test_without_averaging_a_model_ends_with_its_last_weights(recipe, tmp_path):
    last, _ = _fitted(recipe, range(40), tmp_path / "p")
    mean, _ = _fitted(replace(recipe, average=0.9), range(40), tmp_path / "q")
    assert not torch.allclose(last.weight, mean.weight)
    assert int(last.seen) == int(mean.seen)


@pytest.mark.parametrize(("steps", "decay"), [(10_000, 0.99), (308, 0.99), (30, 0.9), (4, 0.25), (2, 0.0)])
def test_the_mean_is_of_a_third_of_a_short_run_at_most(steps, decay):
    assert decay_for(0.99, steps) == pytest.approx(decay)
    assert decay_for(0.0, steps) == 0


class KilledError(Exception):
    pass


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_an_interrupted_training_ends_with_the_same_bytes(recipe, tmp_path, monkeypatch, average):
    recipe = replace(recipe, average=average)
    whole, _ = _fitted(recipe, range(41), tmp_path / "whole")
    monkeypatch.setattr(fitting, "SAVE_EVERY_SECONDS", -1.0)

    class Breaks(Task):
        def loss(self, model, batch):
            if len(self.batches) == 17:
                raise KilledError
            return super().loss(model, batch)

    with pytest.raises(UsageError, match="KilledError"):
        _fitted(recipe, range(41), tmp_path / "p", Breaks())
    assert (tmp_path / "p").is_file()
    again, batches = _fitted(recipe, range(41), tmp_path / "p")
    assert len(batches) == 13
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
