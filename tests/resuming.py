"""Trainings and builds in processes of their own that kill themselves, begun by a process that has imported everything."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

LIBRARIES = ("traklens.engine.build.stages", "traklens.engine.training.train", "traklens.engine.tasks.registry")
SECONDS = 300  # that a process may take


def work(job: str, folder: Path, out: Path, stage: str, at: int, begun=None) -> None:
    """Train or build; kill this process when progress `stage` has come to `at`: no handler, no flush, no goodbye.

    `begun` is set at the first sign of work.
    """
    import torch

    import traklens.engine.training.fit
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.data import load_dataset
    from traklens.engine.training.train import train
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    torch.set_num_threads(1)
    traklens.engine.training.fit.SAVE_EVERY_SECONDS = 0.0

    def report(found: str, done: int, total: int, detail: str) -> None:
        if begun is not None:
            begun.set()
        if stage and found.startswith(stage) and done >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    if job == "train":
        train(load_dataset(folder / "data"), out, checkpoints=2, epochs=2, batch_size=32, report=report)
        return
    source = Source.open(folder / "data", run=folder / "run")
    specs = ModelOutputSpec(n_reference=32), ProjectionSpec(dim=32), ScoreSpec()
    build_store(source, out, *specs, batch_size=32, gradients="hooks", report=report)


def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    return context


def ended(job: str, folder: Path, out: Path, stage: str = "", at: int = 0) -> int:
    """The exit status of such a process: 0, or −SIGKILL where it came to the stage."""
    process = _context().Process(target=work, args=(job, folder, out, stage, at))
    process.start()
    process.join(SECONDS)
    assert process.exitcode in (0, -signal.SIGKILL), f"exit status {process.exitcode} (its error is above)"
    return process.exitcode


def killed_at_random(folder: Path, out: Path, moment: random.Random) -> int:
    """Begin a build and kill it from outside within a second of its first sign of work: its exit status."""
    context = _context()
    begun = context.Event()
    process = context.Process(target=work, args=("build", folder, out, "", 0, begun))
    process.start()
    assert begun.wait(SECONDS)
    time.sleep(moment.uniform(0, 1))
    process.kill()
    process.join(SECONDS)
    assert process.exitcode is not None
    return process.exitcode
