"""How well methods predict retrained models (LDS) and what they cost, beside other libraries on the same checkpoints.

    python -m venv PEERS && PEERS/bin/pip install traker==0.3.2 dattri==0.3 kronfluence==1.0.1 "captum<0.9" …
    traklens train DATA --task image_classifier --label-column clean_label --sample 6000 --checkpoints 8 --out RUN
    python benchmarks/peers.py DATA RUN WORK --python PEERS/bin/python [--targets 200] [--subsets 16] [--repeats 2]

Runs of text take the peers of peers_text.py, language models bergson too; more training examples than k = 1,024 are
needed, or the Gram matrices of peers that do not damp them are singular:

    PEERS/bin/pip install traker==0.3.2 dattri==0.3 bergson==2.5.1 graphviz -e ".[text]"
    traklens train DATA --task text_classifier --label-column label --checkpoints 8 --out RUN
    traklens train DATA --task causal_lm --text-column text --checkpoints 8 --out RUN
    python benchmarks/peers.py DATA RUN WORK --python PEERS/bin/python --timeout 7200 […]

The checkpoints are those of RUN, each trained on a random half. Truth: models trained anew by the run's recipe on
other random halves, `repeats` per half, their mean f of each held-out target: log odds. LDS: rank correlation over
the halves of that with the sum of a method's scores over the half, mean over the targets, interval over targets and
models. Attainable: see noise_ceiling.py. Seconds: one process, `--threads` threads, features of training set and
targets and scores; ours by a whole `build_store`. What is finished in WORK is not done again.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import peers_adapters
import peers_text
import torch
from machine import machine

from traklens.engine.attribution.methods import METHODS, scores_of
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.evaluation.lds import judged, judged_with_threshold
from traklens.engine.models.preprocessing import normalise
from traklens.engine.retraining.noise_ceiling import ceiling
from traklens.engine.tasks.loading import Loader
from traklens.engine.tasks.text import TextTask
from traklens.engine.training.fit import fit
from traklens.engine.training.run_directory import open_run
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
from traklens.stores.store import open_store

COUNTS = (1, 2, 4, 8)
OURS = ("trak", "graddot", "gradcos", "influence", "clip")
OF_TEXTS = ("weighted", "bm25")
DIM = 1_024
PEERS = {  # by task: the file that runs them, and their names
    "image_classifier": (peers_adapters.__file__, tuple(peers_adapters.PEERS)),
    "text_classifier": (peers_text.__file__, tuple(peers_text.CLASSIFIER)),
    "causal_lm": (peers_text.__file__, tuple(peers_text.LANGUAGE)),
}


def half(n: int, j: int) -> np.ndarray:
    """The j-th random half of the training set: bool [n]; halves 2i and 2i + 1 are complementary."""
    first = np.random.default_rng([17, j - j % 2]).permutation(n) < n // 2
    return first if j % 2 == 0 else ~first


def prepared(source: Source, run: Path, work: Path, targets: int) -> np.ndarray:
    """The files that peers read, and rows.npy: the targets' rows, held-out ones in a seeded order.

    world.npz: the tensors of the task's batch of the training set (train_…) and of the targets (target_…), pictures
    normalised; world.json: the run; a .pt per checkpoint.
    """
    rows = source.n_train + np.random.default_rng(3).permutation(source.n - source.n_train)[:targets]
    batch = Loader(source.task, source.rows).whole(lambda *_: None)
    if "pixels" in batch:
        batch["pixels"] = normalise(source.model, batch["pixels"])
    work.mkdir(parents=True, exist_ok=True)
    sides = {"train": slice(source.n_train), "target": rows}
    np.savez(
        work / "world.npz",
        allow_pickle=False,
        **{f"{side}_{name}": x.numpy()[part] for side, part in sides.items() for name, x in batch.items()},
    )
    (work / "world.json").write_text(json.dumps({"run": str(run.resolve())}))
    np.save(work / "rows.npy", rows)
    for m, file in enumerate(source.checkpoints):
        torch.save(source.task.load_checkpoint(source.model, file).state_dict(), work / f"checkpoint_{m}.pt")
    return rows


def retrained(job: tuple[Source, Path, Path, int, int]) -> None:
    """f of every row under one retrained model, kept as WORK/truth/J_R.npy."""
    source, run, work, j, r = job
    file = work / "truth" / f"{j}_{r}.npy"
    if file.is_file():
        return
    torch.set_num_threads(1)
    batch, spec = Loader(source.task, source.rows).whole(lambda *_: None), open_run(run).spec
    members = np.flatnonzero(half(source.n_train, j))
    partial = work / "truth" / f"{j}_{r}.partial"
    model = fit(source.task, spec.model, spec.recipe, 5_000 + 100 * r + j, batch, members, partial, streams=2).eval()
    with torch.no_grad():
        parts = [{name: x[i : i + 64] for name, x in batch.items()} for i in range(0, source.n, 64)]
        f = torch.cat([source.task.model_output(model, source.task.trimmed(part), {}) for part in parts]).numpy()
    np.save(file, f)
    partial.unlink(missing_ok=True)


def ours(source: Source, work: Path, rows: np.ndarray) -> dict[tuple[str, int], tuple[np.ndarray, float]]:
    """Our scores [T, n] and seconds by method and number of checkpoints; one store, its build shared by all."""
    path, begun = work / "store", time.perf_counter()
    took = work / "store-seconds.npy"
    specs = (ModelOutputSpec(), ProjectionSpec(dim=DIM), ScoreSpec(weight_by_q=source.task.weighs_by_q))
    build_store(source, path, *specs)
    if not took.is_file():
        np.save(took, time.perf_counter() - begun)
    store, seconds = open_store(path), float(np.load(took)) / len(source.checkpoints)
    found = {}
    further = OF_TEXTS if isinstance(source.task, TextTask) else ()
    for method in (*OURS, *(name for name in further if METHODS[name].fits(store))):
        for count in (count for count in COUNTS if count <= store.n_checkpoints):
            scored = scores_of(store, method, rows, checkpoints=count)
            built = seconds * count if METHODS[method].needs else 0.0
            found[(f"ours: {METHODS[method].title}", count)] = scored.scores, built + scored.seconds
    return found


def theirs(
    file: str, peer: str, count: int, work: Path, python: str, timeout: float
) -> tuple[np.ndarray, float] | None:
    """Scores and seconds of a peer of an adapters' file; None when it fails or takes too long, which its log says."""
    out = work / f"{peer.replace(' ', '-')}-{count}.npz"
    if not out.is_file():
        command = [python, file, peer, str(work), str(count), str(out)]
        with (work / "log.txt").open("a") as log:
            try:
                subprocess.run(command, stdout=log, stderr=log, timeout=timeout, check=True, env=_environment())
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                print(f"{peer}, {count} checkpoints: {type(error).__name__}, see {work}/log.txt", file=sys.stderr)
                return None
    with np.load(out) as found:
        scores, seconds = found["scores"], float(found["seconds"])
    if not np.isfinite(scores).all():
        print(f"{peer}, {count} checkpoints: not all scores are finite", file=sys.stderr)
        return None
    return scores, seconds


def _environment() -> dict[str, str]:
    """This checkout for the peer's Python too, and as many threads as here."""
    root, threads = str(Path(__file__).resolve().parent.parent), str(torch.get_num_threads())
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--subsets", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1_200.0)
    parser.add_argument("--peers", help="names, with commas between; all of the task's unless given")
    parser.add_argument("--counts", default="1,4")
    wanted = parser.parse_args()
    source = Source.open(wanted.data, run=wanted.run)
    source = replace(source, task=source.task.bind(source.model, ModelOutputSpec()))
    file, peers = PEERS[source.task.name]
    rows = prepared(source, wanted.run, wanted.work, wanted.targets)
    (wanted.work / "truth").mkdir(exist_ok=True)
    jobs = [(source, wanted.run, wanted.work, j, r) for r in range(wanted.repeats) for j in range(wanted.subsets)]
    with multiprocessing.get_context("spawn").Pool(wanted.workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(retrained, jobs), start=1):
            print(f"retrained {done} of {len(jobs)}", file=sys.stderr)
    halves = np.stack([half(source.n_train, j) for j in range(wanted.subsets)])
    truth = np.stack(
        [
            [np.load(wanted.work / "truth" / f"{j}_{r}.npy")[rows] for r in range(wanted.repeats)]
            for j in range(wanted.subsets)
        ]
    )  # [S, R, T]
    torch.set_num_threads(wanted.threads)
    results = ours(source, wanted.work, rows)
    for peer in wanted.peers.split(",") if wanted.peers else peers:
        for count in (int(x) for x in wanted.counts.split(",")):
            found = theirs(file, peer, count, wanted.work, wanted.python, wanted.timeout)
            if found is not None:
                results[(peer, count)] = found
    attainable = ceiling(truth.transpose(1, 0, 2))
    print(machine())
    print(
        f"{source.n_train:,} training examples, {len(rows)} held-out targets, k = {DIM:,}, {wanted.subsets} halves, "
        f"{wanted.repeats} models each; attainable {attainable if attainable is None else round(attainable, 3)}\n"
    )
    print("| method | M | LDS | 95 % | LDS with threshold | seconds |\n|---|---|---|---|---|---|")
    measured, pairs = truth.mean(axis=1), np.arange(wanted.subsets) // 2  # a half and its complement
    for (name, count), (scores, seconds) in sorted(results.items(), key=lambda item: (item[0][1], item[0][0])):
        found = judged(scores, halves, measured, pairs).interval
        best = judged_with_threshold(scores, halves, measured, pairs).values.mean()
        print(
            f"| {name} | {count} | {found.mean:.3f} | {found.lo:.3f} to {found.hi:.3f} | {best:.3f} | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
