"""Train M small models of a task on recorded random parts of a data set: `traklens train`."""

import json
from pathlib import Path

import numpy as np
import torch

from traklens.engine.data import Dataset
from traklens.engine.progress import Report, silent
from traklens.engine.tasks.contract import Batch, Task
from traklens.engine.tasks.loading import Loader, Placed
from traklens.engine.tasks.registry import recorded, task_named
from traklens.engine.training.fit import fit, save_weights
from traklens.engine.training.run_directory import Recipe, Run, RunSpec, open_run, record_quality, start_run
from traklens.engine.training.split import Split, split_dataset
from traklens.engine.versions import libraries
from traklens.stores.errors import UsageError
from traklens.stores.locks import writing
from traklens.stores.specs import ModelOutputSpec

EPOCH_LIMITS = (8, 40)  # of epochs, when --epochs is not given


def train(
    dataset: Dataset,
    out: Path,
    *,
    task: Task | None = None,
    model: str = "",
    checkpoints: int = 4,
    epochs: int | None = None,
    subset: float = 0.5,
    heldout: float = 0.1,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float | None = None,
    augment: str | None = None,
    optimizer: str | None = None,
    average: float | None = None,
    report: Report = silent,
) -> Run:
    """Train into the run directory `out`, or finish the run that is there.

    `task` is CLIP if not given. What is None is chosen by the task, the number of epochs by the size of the data.
    Raises UsageError for values out of range, StoreError when `out` holds a run of another specification.
    """
    if checkpoints < 1 or batch_size < 2 or (epochs is not None and epochs < 1):
        raise UsageError(
            "training options",
            f"checkpoints {checkpoints}, batch size {batch_size}, epochs {epochs}",
            "at least 1 checkpoint, 1 epoch and a batch of 2",
            "Correct the option.",
        )
    task = task or task_named("clip")
    chosen = task.recipe
    optimizer = chosen.optimizer if optimizer is None else optimizer
    learning_rate = chosen.learning_rates.get(optimizer, 0.0) if learning_rate is None else learning_rate
    augment = chosen.augment if augment is None else augment
    average = chosen.average if average is None else average
    if optimizer not in ("adamw", "sgd"):
        raise UsageError("optimizer", repr(optimizer), "adamw or sgd", "Choose one of them.")
    if not 0 < learning_rate < np.inf:
        raise UsageError("learning_rate", str(learning_rate), "a finite number above 0", "Try 0.001.")
    if not 0 <= average < 1:
        raise UsageError("average", str(average), "0 (none) or more, below 1", "Try 0.99.")
    if augment not in task.augments:
        raise UsageError("augment", repr(augment), ", ".join(task.augments), "Choose one of them.")
    split = split_dataset(dataset, heldout=heldout, subset=subset, checkpoints=checkpoints, seed=seed)
    members = int(split.subsets.sum(axis=1).max())
    if epochs is None:
        epochs = int(np.clip(round(chosen.examples_seen / members), *EPOCH_LIMITS))
    recipe = Recipe(
        checkpoints=checkpoints,
        epochs=epochs,
        subset=subset,
        heldout=heldout,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=chosen.weight_decays[optimizer],
        warmup=chosen.warmup,
        augment=augment,
        optimizer=optimizer,
        steps=epochs * max(1, members // batch_size),
        average=average,
    )
    spec = RunSpec(dataset.spec, task.model_spec(model, dataset), recipe, recorded(task))
    task = task.bind(spec.model, ModelOutputSpec())
    with writing(out, "run"):
        return _train(start_run(out, spec, dataset, split, libraries()), task, dataset, split, report)


def _train(run: Run, task: Task, dataset: Dataset, split: Split, report: Report) -> Run:
    """Train the checkpoints that the run lacks."""
    spec, checkpoints = run.spec, run.spec.recipe.checkpoints
    if all(str(m) in run.quality for m in range(checkpoints)):
        return run
    loader = Loader(task, [Placed(example, dataset.root, "dataset") for example in dataset.examples])
    examples = loader.whole(report)
    heldout = {name: values[torch.from_numpy(split.heldout)] for name, values in examples.items()}
    for m in range(checkpoints):
        if str(m) in run.quality:
            continue
        train_checkpoint(run, task, m, examples, split.train[split.subsets[m]], report)
        record_quality(run, m, task.quality(task.load_checkpoint(spec.model, run.checkpoint(m)), heldout))
    return open_run(run.path)


def train_checkpoint(
    run: Run, task: Task, m: int, examples: Batch, members: np.ndarray, report: Report = silent
) -> None:
    """Train checkpoint m on the rows `members` of `examples` and write its weights."""
    partial = run.path / f"checkpoint_{m}.partial.safetensors"
    stage = f"training checkpoint {m + 1} of {run.spec.recipe.checkpoints}"

    def log(epoch: int, loss: float, seconds: float) -> None:
        line = {"checkpoint": m, "epoch": epoch, "loss": round(loss, 4), "seconds": round(seconds, 2)}
        with (run.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    spec = run.spec
    streams = spec.dataset.streams
    model = fit(
        task,
        spec.model,
        spec.recipe,
        m,
        examples,
        members,
        partial,
        streams=streams,
        stage=stage,
        report=report,
        log=log,
    )
    save_weights(model, run.checkpoint(m))
    partial.unlink(missing_ok=True)
