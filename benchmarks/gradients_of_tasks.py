"""Per-sample gradients of a run's own models and data against an ordinary training step on the same examples.

    python benchmarks/gradients_of_tasks.py DATA RUN [--batch 64] [--repeats 7] [--threads 1] [--dim 2048]

A training step is the task's loss, forward and backward, without the optimizer. "Gradients" hands every example's gradient to
nobody, "with projection" to the projection of a build. All three take turns; the ratio of medians is what counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine

from traklens.engine.build.source import Source
from traklens.engine.features.featurize import Featurizer
from traklens.engine.tasks.loading import Loader
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=2048)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    source = Source.open(wanted.data, run=wanted.run)
    source = replace(source, task=source.task.bind(source.model, ModelOutputSpec()))
    task, loader, count = source.task, Loader(source.task, source.rows), min(wanted.batch, source.n)
    model = task.load_checkpoint(source.model, source.checkpoints[0])
    featurizer = Featurizer(task, model, ProjectionSpec(dim=wanted.dim), 0)
    batch, ids = loader.load(0, count), [str(row) for row in range(count)]
    context = task.context(model, loader.training(model, source.n_train, streams=source.dataset.spec.streams))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        task.loss(model, batch).backward()
        model.zero_grad(set_to_none=True)

    ways: dict[str, Callable[[], object]] = {
        "training step": step,
        "gradients": lambda: featurizer.gradients(batch, context, lambda *_: None, lambda *_: None),
        "with projection": lambda: featurizer.project(batch, context, ids),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(wanted.repeats + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if repeat:  # the first compiles and warms up
                seconds[name].append(time.perf_counter() - begun)
    found = {name: statistics.median(times) / count * 1e3 for name, times in seconds.items()}
    print(machine())
    names = ", ".join(
        f"{name} {value:.2f} ms ({value / found['training step']:.2f} x)" for name, value in found.items()
    )
    print(f"{task.name}, {sum(p.numel() for p in model.parameters()):,} parameters, batch {count}: {names}")


if __name__ == "__main__":
    main()
