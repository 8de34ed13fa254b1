"""Kill every writing command at file operations and at random moments, repeat it, and compare with an undisturbed one.

    python benchmarks/kills.py [--kills N] [--seed S]

Prints one line per kill that left a difference, and the counts. A process that has imported everything is forked for each
command, so that a kill costs the work it interrupts and not the start of Python.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import traklens.engine.training.fit
from tests.killing import KILLED, end_before
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.data import load_dataset
from traklens.engine.data.demo import write_demo_dataset
from traklens.engine.training.train import train
from traklens.stores.reviews import Reviews
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

PAIRS, DECISIONS = 80, 12
IGNORED = ("log.jsonl", "reviews.sqlite", "manifest.json", "checksums.json", "checksums.sha256")


def train_run(folder: Path) -> None:
    train(load_dataset(folder / "data"), folder / "run", checkpoints=2, epochs=2, batch_size=16, heldout=0.2)


def build(folder: Path, overwrite: bool = False) -> None:
    source = Source.open(folder / "data", run=folder / "run")
    outputs = ModelOutputSpec(n_reference=16), ProjectionSpec(dim=32), ScoreSpec()
    build_store(source, folder / "store", *outputs, gradients="hooks", overwrite=overwrite)


def in_child(act: Callable[[], object], before: Callable[[], object] = lambda: None) -> int:
    """Run `act` in a forked child: its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before()
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(seconds: float, act: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below, those whose bytes hold times left out."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): "" if path.name.startswith(IGNORED) else _digest(path, folder)
        for path in files
    }


def _digest(path: Path, folder: Path) -> str:
    """Of the content without the place where it lies."""
    return hashlib.sha256(path.read_bytes().replace(str(folder.parent).encode(), b"")).hexdigest()


def fresh(folder: Path, whole: Path, what: str) -> None:
    """What the command finds: the data; for a build the run; for a replacement also a store with decisions."""
    os.system(f"cp -r '{whole}/data' '{folder}/data'")
    if what != "train":
        os.system(f"cp -r '{whole}/run' '{folder}/run'")
    if what == "replace":
        os.system(f"cp -r '{whole}/store' '{folder}/store'")
        for number in range(DECISIONS):
            Reviews(folder / "store").decide([f"pair {number}"], "wrong")
        (folder / "store/retrained/models").mkdir(parents=True)
        (folder / "store/retrained/models/a.npz").write_bytes(b"measured")


COMMANDS = {"train": train_run, "build": build, "replace": lambda folder: build(folder, overwrite=True)}


def difference(folder: Path, whole: Path, what: str) -> list[str]:
    """What the repeated command left otherwise than an undisturbed one."""
    part = "run" if what == "train" else "store"
    expected, found = tree(whole / part), tree(folder / part)
    if what == "replace":
        found = {k: v for k, v in found.items() if not k.startswith(("reviews.sqlite", "retrained/"))}
    lines = [f"~{name}" for name in expected if name in found and found[name] != expected[name]]
    lines += [f"+{name}" for name in found if name not in expected] + [f"-{n}" for n in expected if n not in found]
    lines += [f"beside: {e.name}" for e in folder.iterdir() if e.name not in ("data", "run", "store")]
    if what == "replace":
        kept = len(Reviews(folder / "store").current())
        lines += [f"{kept} decisions of {DECISIONS}"] if kept != DECISIONS else []
        lines += [] if (folder / "store/retrained/models/a.npz").is_file() else ["no retrained model"]
    return lines


def main(kills: int, seed: int) -> int:
    torch.set_num_threads(1)
    traklens.engine.training.fit.SAVE_EVERY_SECONDS = 0.0
    draw, counts, bad = random.Random(seed), Counter(), 0
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        write_demo_dataset(whole / "data", n=PAIRS, seed=0)
        seconds = {}
        for name in ("train", "build"):
            start = time.monotonic()
            assert in_child(lambda name=name: COMMANDS[name](whole)) == 0
            seconds[name] = time.monotonic() - start
        seconds["replace"] = seconds["build"]
        for number in range(kills):
            what = list(COMMANDS)[number % 3]
            folder = Path(place) / str(number)
            folder.mkdir()
            fresh(folder, whole, what)
            if draw.random() < 0.7:
                n = int(np.exp(draw.uniform(0, np.log(40 if what == "train" else 450))))
                died = in_child(lambda what=what, f=folder: COMMANDS[what](f), lambda n=n: end_before(n)) == KILLED
                how = f"operation {n}"
            else:
                after = draw.uniform(0, seconds[what])
                died = killed_after(after, lambda what=what, f=folder: COMMANDS[what](f)) == -signal.SIGKILL
                how = f"after {after:.2f} s"
            again = in_child(lambda what=what, f=folder: COMMANDS[what](f))
            left = difference(folder, whole, what) if again == 0 else [f"the repetition ended with {again}"]
            counts[what, "killed" if died else "ended before"] += 1
            bad += bool(left)
            if left:
                print(f"BAD {what}, {how}: {'; '.join(left[:6])}", flush=True)
            os.system(f"rm -r '{folder}'")
    for (what, how), count in sorted(counts.items()):
        print(f"{what:8} {how:13} {count}")
    print(f"{kills} kills, {bad} left a difference")
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(bool(main(arguments.kills, arguments.seed)))
