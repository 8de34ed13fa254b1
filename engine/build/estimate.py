"""What a build would take, and which way to per-sample gradients is the fastest here: measured on a few examples."""

import time
from dataclasses import replace

from torch import nn

from traklens.engine.build.self_test import check_gradients, check_task
from traklens.engine.build.source import Source
from traklens.engine.features.featurize import PREFIX, Featurizer
from traklens.engine.gradients import Choice, choose_strategy
from traklens.engine.models.parameters import attributed_parameters
from traklens.engine.tasks.contract import ModelOutput
from traklens.engine.tasks.loading import Loader
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec

PROBE_EXAMPLES = 16


def probe(
    source: Source, loader: Loader, model: nn.Module, projection: ProjectionSpec, device: str = "cpu"
) -> Choice:
    """Measure the ways to per-sample gradients on a few examples of this data set and model; source.task is bound."""
    count = min(PROBE_EXAMPLES, source.n)
    batch = loader.load(0, count)
    streams = source.dataset.spec.streams
    context = source.task.context(model, loader.training(model.eval().to(device), count, streams=streams))
    module = ModelOutput(source.task, model, tuple(batch), tuple(context)).eval()
    names = [f"{PREFIX}{name}" for name in attributed_parameters(model, projection.modules, source.task.frozen())]
    inputs, shared = (tuple(x.to(device) for x in found.values()) for found in (batch, context))
    return choose_strategy(module, inputs, names, shared, examples=PROBE_EXAMPLES)


def checked(
    source: Source, output: ModelOutputSpec, projection: ProjectionSpec, *, gradients: str | None, device: str
) -> dict[str, str]:
    """Whether the gradients of this model are right, without building anything. Raises as `build_store`."""
    source = replace(source, task=source.task.bind(source.model, output))
    check_task(source, projection)
    model = source.task.load_checkpoint(source.model, source.checkpoints[0])
    found = gradients or probe(source, Loader(source.task, source.rows), model, projection, device).strategy
    featurizer = Featurizer(source.task, model, projection, 0, strategy=found, device=device)
    difference = check_gradients(source, featurizer)
    return {
        "gradients": f"{found}, {difference:.1e} away from plain autograd (relative, at most, on three examples)",
        "parameters": f"{len(featurizer.parameters)} tensors, {sum(size for _, size in featurizer.layout):,} numbers",
    }


def estimate(
    source: Source, output: ModelOutputSpec, projection: ProjectionSpec, *, batch_size: int, device: str = "cpu"
) -> dict[str, str]:
    """What a build would take, measured on a few examples: path, time, disk and memory. Nothing is written."""
    source = replace(source, task=source.task.bind(source.model, output))
    loader, task = Loader(source.task, source.rows), source.task
    model = task.load_checkpoint(source.model, source.checkpoints[0])
    choice = probe(source, loader, model, projection, device)
    featurizer = Featurizer(task, model, projection, 0, strategy=choice.strategy, device=device)
    count = min(PROBE_EXAMPLES, source.n)
    batch, streams = loader.load(0, count), source.dataset.spec.streams
    context = task.context(model, loader.training(model, count, streams=streams))
    width = sum(values.shape[1] for values in featurizer.embed(batch).values())
    seconds = []
    for _ in range(2):  # the first call compiles the projection
        start = time.perf_counter()
        featurizer.project(batch, context, [])
        seconds.append((time.perf_counter() - start) / count)
    m, k = len(source.checkpoints), projection.dim
    numbers = 4 * m * (source.n * (k + width) + source.n_train * k)
    indices = 2 * m * source.n_train * (k + width)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    p = sum(sizes[name] for name in featurizer.parameters)
    noun = source.dataset.account.noun
    one = noun.removesuffix("s")
    return {
        noun: f"{source.n_train:,} training, {source.n - source.n_train:,} held-out",
        "checkpoints": f"{m} of {sum(sizes.values()):,} parameters",
        "gradients": f"{choice.strategy} ({', '.join(f'{s} {t * 1e3:.1f} ms' for s, t in choice.seconds.items())} per {one})",
        "projection": f"{projection.kind}, {p:,} to {k:,}, on {device}",
        "time": f"about {seconds[-1] * source.n * m / 60:.1f} minutes ({seconds[-1] * 1e3:.1f} ms per {one} and checkpoint)",
        "disk": f"about {(numbers + indices) / 1e9:.2f} GB",
        "memory": f"about {(3 * 8 * k * k + 4 * batch_size * k + 8 * p) / 1e9 + 1:.1f} GB, whatever the number of {noun}",
    }
