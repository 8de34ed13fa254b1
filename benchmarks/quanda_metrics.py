"""A yardstick that is not ours: quanda's metrics on our scores and on its own wrappers of captum and traker.

    PEERS/bin/pip install quanda==0.5.0
    PYTHONPATH=. PEERS/bin/python benchmarks/quanda_metrics.py WORK [--noisy STORE --truth COLUMN]

WORK is that of peers.py: class detection (share of the five most influential training examples that have the target's class)
of one checkpoint, for our store's methods and for quanda's wrappers. With STORE, a classifier built on noisy labels:
mislabelling detection (area under the share of wrong labels found over the share inspected), by our hunt's ranking, by our
self-influence, and by quanda's own from captum's TracInCPFast on the same checkpoint.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
from quanda.explainers.wrappers import TRAK, CaptumTracInCPFast
from quanda.metrics.downstream_eval import ClassDetectionMetric, MislabelingDetectionMetric
from torch.utils.data import TensorDataset

from traklens.engine.attribution.methods import METHODS, scores_of
from traklens.engine.label_errors.ground_truth import wrong_pairs
from traklens.engine.label_errors.suspects import find_suspects
from traklens.engine.models.classifiers import ResNet9
from traklens.engine.models.preprocessing import normalise
from traklens.engine.retraining.retrainer import open_source
from traklens.engine.tasks.loading import Loader
from traklens.stores.store import open_store

BATCH, TARGETS, DIM = 50, 100, 1_024


def _load(model: torch.nn.Module, file: str) -> float:
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval()
    return 1.0


def class_detection(work: Path) -> None:
    with np.load(work / "world.npz") as found:
        train = TensorDataset(torch.from_numpy(found["train_pixels"]), torch.from_numpy(found["train_label"]))
        targets, labels = (torch.from_numpy(found[name][:TARGETS]) for name in ("target_pixels", "target_label"))
    file = str(work / "checkpoint_0.pt")
    model = ResNet9(int(labels.max()) + 1)
    _load(model, file)

    def judged(name: str, explanations: torch.Tensor, seconds: float) -> None:
        metric = ClassDetectionMetric(model, train, s=5, checkpoints=file, checkpoints_load_func=_load)
        metric.update(explanations, labels)
        print(f"| {name} | {metric.compute()['score']:.3f} | {seconds:.0f} |", flush=True)

    print(f"\nclass detection, {len(targets)} targets, one checkpoint | score | seconds |\n|---|---|---|")
    store = open_store(work / "store")
    rows = np.load(work / "rows.npy")[:TARGETS]
    for method in ("trak", "graddot", "gradcos", "influence", "clip"):
        scored = scores_of(store, method, rows, checkpoints=1)
        judged(f"ours: {METHODS[method].title}", torch.from_numpy(scored.scores), scored.seconds)
    begun = time.perf_counter()
    traced = CaptumTracInCPFast(model, model.head, train, [file], checkpoints_load_func=_load, batch_size=BATCH)
    judged("quanda: captum TracInCPFast", traced.explain(targets, labels), time.perf_counter() - begun)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tracker = TRAK(model, train, "x", cache_dir=folder, proj_dim=DIM, batch_size=BATCH)
        judged("quanda: traker TRAK", tracker.explain(targets, labels), time.perf_counter() - begun)


def mislabelling(path: Path, truth: str) -> None:
    store = open_store(path)
    wrong = wrong_pairs(store, truth)
    source = open_source(store)
    batch = Loader(source.task, source.rows[: store.n_train]).whole(lambda *_: None)
    train = TensorDataset(normalise(source.model, batch["pixels"]), batch["label"])
    model = source.task.load_checkpoint(source.model, store.checkpoint_path(0))
    suspects = find_suspects(store)
    print(f"\nmislabelling detection, {wrong.sum():,} of {wrong.size:,} wrong | score |\n|---|---|")

    def judged(name: str, ranking: torch.Tensor) -> None:
        # as places: quanda 0.5 adds 0.0001 times the row's number to break ties, which drowns scores of small size
        places = ranking.argsort(stable=True).argsort(stable=True).double()
        metric = MislabelingDetectionMetric(
            model, train, np.flatnonzero(wrong).tolist(), precomputed_self_influence=places
        )
        print(f"| {name} | {metric.compute()['score']:.3f} |", flush=True)

    judged("ours: hunt", torch.from_numpy(suspects.score))
    judged("ours: self-influence", torch.from_numpy(suspects.signals["self_influence"]))
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "a.pt")
        torch.save(model.state_dict(), file)
        traced = CaptumTracInCPFast(model, model.head, train, [file], checkpoints_load_func=_load, batch_size=BATCH)
        judged("quanda: captum TracInCPFast, self-influence", traced.self_influence(batch_size=BATCH).detach())
    judged("at random", torch.rand(wrong.size, generator=torch.Generator().manual_seed(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--noisy", type=Path)
    parser.add_argument("--truth", default="clean_label")
    wanted = parser.parse_args()
    print(machine())
    if wanted.noisy is not None:
        mislabelling(wanted.noisy, wanted.truth)
    class_detection(wanted.work)


if __name__ == "__main__":
    main()
