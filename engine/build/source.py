"""What a store is built from: the examples in row order, the task, the model and its checkpoints."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from traklens.engine.data import Dataset
from traklens.engine.models.weights import weights_in
from traklens.engine.progress import Report, silent
from traklens.engine.streams import STREAMS
from traklens.engine.tasks.contract import Task
from traklens.engine.tasks.loading import Placed
from traklens.engine.tasks.reading import DataOptions
from traklens.engine.tasks.registry import task_named, task_of
from traklens.engine.training.run_directory import Run, open_run
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.specs import ModelSpec


@dataclass(frozen=True)
class Source:
    """Examples in row order (training first), task, model and checkpoints.

    `subsets` is bool [M, n_train], which training examples each checkpoint saw; None when that is not known.
    """

    task: Task
    dataset: Dataset
    targets: Dataset | None
    rows: tuple[Placed, ...]
    n_train: int
    subsets: np.ndarray | None
    model: ModelSpec
    checkpoints: tuple[Path, ...]

    @property
    def n(self) -> int:
        return len(self.rows)

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        task: Task | str | None = None,
        run: Path | None = None,
        model: str | None = None,
        checkpoints: tuple[Path, ...] = (),
        targets: Path | None = None,
        options: DataOptions = DataOptions(),
        seed: int = 0,
        report: Report = silent,
    ) -> "Source":
        """Read the data and find the checkpoints: those of a run, or the given files of an architecture that the task knows.

        With a run, options that are not given are the run's own, its task too. Raises UsageError when neither or both
        are given, StoreError when the data are not those of the run.
        """
        opened, streams = open_run(run) if run is not None else None, STREAMS
        known = options.task(_task(task, opened))
        named = model is not None or (bool(checkpoints) and run is None and not known.named_models)
        if (run is None) == (not named):
            raise UsageError("build", "both or neither of --run and --model", "exactly one of them", "Choose one.")
        if (run is None) != bool(checkpoints):
            raise UsageError("build", "--model and --checkpoint not together", "both or neither", "Give both.")
        if opened is not None:
            of_run = opened.spec.dataset
            options, seed, streams = options.or_those_of(of_run), of_run.seed, of_run.streams
        dataset = options.load(data, known, seed=seed, streams=streams, report=report)
        subsets = None
        if opened is not None:
            train, heldout, subsets = _split_of(opened, dataset)
            spec = opened.spec.model
            checkpoints = tuple(opened.checkpoint(m) for m in range(opened.spec.recipe.checkpoints))
        else:
            is_heldout = np.array([example.split == "heldout" for example in dataset.examples])
            train, heldout = np.flatnonzero(~is_heldout), np.flatnonzero(is_heldout)
            checkpoints = tuple(weights_in(path) for path in checkpoints)
            spec = known.model_spec(model or "", dataset, checkpoints)
        rows = [Placed(dataset.examples[i], dataset.root, "dataset") for i in (*train, *heldout)]
        further = None
        if targets is not None:
            further = replace(options, reader=None, sample=None).load(targets, known, seed=seed)
            ids = {row.example.id for row in rows}
            rows += [Placed(e, further.root, "targets") for e in further.examples if e.id not in ids]
        return cls(known, dataset, further, tuple(rows), len(train), subsets, spec, tuple(checkpoints))


def _task(given: Task | str | None, run: Run | None) -> Task:
    """The task that is asked for, or that of the run, or CLIP."""
    if run is not None:
        task = task_of(run.spec.task, given)
        if isinstance(given, str) and not run.spec.task.source and task_named(given).name != task.name:
            raise UsageError(
                "task", repr(given), f"the run's own, {task.name!r}", "Leave --task out: the run knows it."
            )
        return task
    return task_named(given or "clip") if isinstance(given, str | None) else given


def _split_of(run: Run, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    missing = [m for m in range(run.spec.recipe.checkpoints) if str(m) not in run.quality]
    if missing:
        raise StoreError(
            f"run {run.path}",
            f"{len(missing)} of {run.spec.recipe.checkpoints} checkpoints not finished",
            "a finished run",
            "Run the same `traklens train` again: it continues.",
        )
    split = run.split(dataset)
    return split.train, split.heldout, split.subsets
