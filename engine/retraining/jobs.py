"""Retraining as a question: which models to train, how far a job is, what was measured. No torch here.

A removal is checked by training again without the removed pairs, several times with different seeds, beside controls
trained on everything and, if wanted, without as many pairs drawn at random. The work is done by `worker.py`, in a process of
its own; both sides meet in the store's folder of retrained models.
"""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from traklens.engine.streams import generator
from traklens.engine.training.run_directory import Recipe, Run, open_run
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.retrained import FINISHED, Request, Retrained, Status, model_key
from traklens.stores.specs import CLIP, TaskSpec, placeless, to_dict
from traklens.stores.store import Store

MOST_SEEDS = 32
KINDS = {"clip": "clip_margin"}  # what a model output was called before tasks had names
LATER_FIELDS = (  # as before they were recorded
    ("resize_mode", "shortest"),
    ("interpolation", "bicubic"),
    ("streams", 1),
    ("fields", to_dict(CLIP)["fields"]),
    ("label_column", None),
    ("output", "margin"),
    ("optimizer", "adamw"),
    ("steps", 0),
    ("average", 0.0),
)
REFERENCE_SETS = 4  # f of a retrained model is the mean over this many of the store's reference sets
PLACEHOLDERS = ("{keep}", "{seed}", "{out}")


@dataclass(frozen=True)
class RetrainingMethod:
    """How models of a store are trained again: by the recipe of its run, or by the user's own command."""

    digest: str
    run: Run | None
    command: str | None


@dataclass(frozen=True)
class ModelToTrain:
    """One model to train: on which training examples (bool [n_train]), with which seed, whether to keep its embeddings."""

    kept: np.ndarray
    seed: int
    arrays: bool = False


def retraining_method(store: Store, command: str | None = None) -> RetrainingMethod:
    """How to retrain the models of a store. StoreError when it has no run directory and no command is given.

    Stores of the same data, recipe and model output measure the same thing, whatever their projection and their number
    of checkpoints.
    """
    manifest = store.manifest
    run = None
    if command is None:
        run = _run_of(store)
    else:
        missing = [name for name in PLACEHOLDERS if name not in command]
        if missing:
            raise UsageError(
                "train_command",
                f"no {', '.join(missing)}",
                "a command with {keep}, {seed} and {out}",
                "See `Retraining models of your own` in the README.",
            )
    dataset = placeless(to_dict(manifest.dataset)) | {"root": ""}
    facts = {
        "dataset": _before(dataset),
        "targets": None if manifest.targets is None else manifest.targets.fingerprint,
        "model": _before(to_dict(manifest.model)),
        "model_output": _before(to_dict(manifest.model_output) | {"kind": _kind(manifest.task)}),
        "reference_sets": min(len(manifest.checkpoints), REFERENCE_SETS),
        "rows": [store.n_train, store.n],
        "recipe": None if run is None else _before(to_dict(replace(run.spec.recipe, checkpoints=0))),
        "command": command,
    }
    return RetrainingMethod(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(), run, command)


def _kind(task: TaskSpec) -> str:
    """What a store's model output is: the task, and for one of the user's own its code."""
    return KINDS.get(task.name, f"{task.name} {task.version} {task.source}".strip())


def _before(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification as it was written before later fields were added, where these have their first meaning.

    What names a way of training must stay as it was, or finished models would not be found again.
    """
    return {name: value for name, value in spec.items() if (name, value) not in LATER_FIELDS}


def _run_of(store: Store) -> Run:
    """The run directory that holds the store's checkpoints."""
    folder = store.checkpoint_path(0).parent
    if not (folder / "run.json").is_file():
        raise StoreError(
            f"store {store.path}",
            f"no run.json in {folder}, where its checkpoints come from",
            "the run directory of `traklens train`",
            "If it was moved: `traklens relocate STORE --run RUN`. For models of another training, give your own with "
            "--train-command.",
        )
    return open_run(folder)


def recipe_for(recipe: Recipe, n_train: int, members: int) -> Recipe:
    """The run's recipe for a model that sees `members` pairs: as many steps as the run's checkpoints took.

    Models then differ by what they saw and not by how long they were trained. Runs that record no number of steps made
    `epochs` passes over a share `subset` of the training examples: with more pairs fewer passes make nearly as many steps.
    """
    if recipe.steps:
        return recipe
    epochs = max(1, round(recipe.epochs * recipe.subset * n_train / max(members, 1)))
    return replace(recipe, epochs=epochs)


def kept_without(n_train: int, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """bool [n_train], false for the removed rows. Raises UsageError for rows that are no training examples."""
    rows = np.asarray(rows, dtype=np.int64)
    if rows.size == 0:
        raise UsageError("examples to remove", "none", "at least one training example", "Choose some.")
    bad = rows[(rows < 0) | (rows >= n_train)]
    if bad.size:
        raise UsageError("pairs to remove", f"row {bad[0]}", "rows of training examples", "Leave held-out pairs out.")
    kept = np.ones(n_train, dtype=bool)
    kept[rows] = False
    if kept.sum() < 8:
        raise UsageError(
            "pairs to remove", f"{rows.size} of {n_train}", "at least 8 left to train on", "Remove fewer."
        )
    return kept


def random_rows(store: Store, size: int, seed: int) -> np.ndarray:
    """As many training examples drawn at random, the same for every removal of this size: ascending int64 [size]."""
    draw = generator("random removal", size, seed, version=store.manifest.dataset.streams)
    return np.sort(draw.choice(store.n_train, size=size, replace=False))


def models_to_train(store: Store, request: Request) -> list[ModelToTrain]:
    """The models a request needs, seed by seed, so that a first answer is there early."""
    n = store.n_train
    without, everything = kept_without(n, request.rows), np.ones(n, dtype=bool)
    wanted = []
    for seed in range(request.seeds):
        wanted += [ModelToTrain(everything, seed), ModelToTrain(without, seed)]
        if request.random_control:
            wanted.append(ModelToTrain(kept_without(n, random_rows(store, len(set(request.rows)), seed)), seed))
    return wanted


def start(store: Store, request: Request) -> str:
    """Begin a retraining in a process of its own; returns the job's id.

    Raises UsageError for a request that cannot be carried out and StoreError when the store's models cannot be
    retrained.
    """
    if not 1 <= request.seeds <= MOST_SEEDS:
        raise UsageError("retrain", f"{request.seeds} seeds", f"1 to {MOST_SEEDS}", "Try 3.")
    models_to_train(store, request)
    retraining_method(store, request.command)
    retrained = Retrained(store.path)
    job = retrained.add_job(replace(request, created=time.time()))
    _spawn(store, job)
    return job


def resume(store: Store, job: str) -> None:
    """Go on with a job that was interrupted or has failed. Models it has finished are not trained again."""
    retrained = Retrained(store.path)
    if retrained.is_running(job):
        return
    retrained.write_status(job, replace(retrained.status(job), state="waiting", updated=time.time()))
    _spawn(store, job)


def _spawn(store: Store, job: str) -> None:
    with (Retrained(store.path).job(job) / "log.txt").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-P", "-m", "traklens.engine.retraining.worker", str(store.path.resolve()), job],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=Path(__file__).parents[3],
        )


def cancel(store: Store, job: str, *, wait_seconds: float = 0.0) -> None:
    """Stop a job; its process removes what it had half done and the job itself. Finished models stay.

    A job whose process is gone is removed at once. With `wait_seconds`, return only when it is gone, or the time is up.
    """
    retrained = Retrained(store.path)
    folder = retrained.job(job)
    if not folder.is_dir():
        return
    retrained.ask_to_cancel(job)
    until = time.monotonic() + wait_seconds
    while retrained.is_running(job) and time.monotonic() < until:
        time.sleep(0.05)
    with contextlib.suppress(StoreError):  # its own process may be removing it at this moment
        if not retrained.is_running(job) and retrained.status(job).state != "waiting":
            remove_partial(store, retrained.request(job))
            shutil.rmtree(folder, ignore_errors=True)


def remove_partial(store: Store, request: Request) -> None:
    """Remove half-trained weights of a request's models that no other process is working on."""
    retrained, method = Retrained(store.path), retraining_method(store, request.command)
    for wanted in models_to_train(store, request):
        key = model_key(method.digest, wanted.kept, wanted.seed)
        files = (
            retrained.work(key),
            retrained.work(key).with_suffix(".writing"),
        )  # the latter of a save that was killed
        if any(file.exists() for file in files):
            with retrained.training_lock(key) as free:
                for file in files if free else ():
                    file.unlink(missing_ok=True)


def history(store: Store) -> list[tuple[str, Request, Status]]:
    """All jobs of a store, newest first; damaged ones are left out."""
    retrained = Retrained(store.path)
    found = []
    for job in retrained.jobs():
        try:
            found.append((job, retrained.request(job), retrained.status(job)))
        except (StoreError, TypeError):
            continue
    return found


def wait(store: Store, job: str, report) -> Status:
    """Follow a job until it ends, reporting models done; interrupting the wait leaves the job running."""
    retrained = Retrained(store.path)
    while True:
        status = retrained.status(job)
        if status.total:
            report("retraining", status.done, status.total, status.detail)
        if status.state in (*FINISHED, "interrupted"):
            return status
        time.sleep(0.2)
