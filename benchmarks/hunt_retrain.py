"""Does training without the suspects make better models? Against training without as many pairs at random, and with all.

    python benchmarks/hunt_retrain.py STORE [--top N] [--seeds 3] [--truth COLUMN]

N defaults to the estimate of how many captions are wrong. Judged on the held-out pairs (without those that the truth column
calls wrong): mean model output f, and recall at 1 of captions by image and images by caption. Differences are paired, by
held-out pair and seed; 95 % intervals over both: all pairs share the few models that decide.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from machine import machine

from traklens.engine.cli.console import notes, progress
from traklens.engine.label_errors.ground_truth import differs
from traklens.engine.label_errors.suspects import find_suspects
from traklens.engine.retraining.jobs import ModelToTrain, kept_without, random_rows, retraining_method
from traklens.engine.retraining.worker import train_models
from traklens.engine.statistics import two_way
from traklens.stores.retrained import Retrained, RetrainedModel, model_key
from traklens.stores.store import Store, open_store

SEED = 30_000


def judged_rows(store: Store, truth: str | None) -> np.ndarray:
    """Held-out rows whose caption is right, as far as is known."""
    rows = np.arange(store.n_train, store.n)
    if truth is None:
        return rows
    template = store.manifest.dataset.caption_template
    right = [
        not differs(store.examples.words[r], store.examples.attributes(int(r)).get(truth, ""), template) for r in rows
    ]
    return rows[right]


def hits(model: RetrainedModel, captions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether the own caption (or an equal one) ranks first for the image, and the other way: mean of the two [rows]."""
    u, v = (model.arrays[name][rows].astype(np.float32) for name in ("image_embedding", "text_embedding"))
    similarity = u @ v.T
    same = captions[rows][:, None] == captions[rows][None, :]
    by_image = same[np.arange(rows.size), similarity.argmax(axis=1)]
    by_caption = same[np.arange(rows.size), similarity.argmax(axis=0)]
    return (by_image + by_caption.astype(float)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--top", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--truth")
    wanted = parser.parse_args()
    store, begin = open_store(wanted.store), time.perf_counter()
    suspects, n = find_suspects(store), store.n_train
    top = wanted.top or max(1, round(suspects.expected_wrong))
    parts = {
        "everything": lambda seed: np.ones(n, dtype=bool),
        f"without the {top} most suspect": lambda seed: kept_without(n, suspects.order[:top]),
        f"without {top} at random": lambda seed: kept_without(n, random_rows(store, top, seed)),
    }
    models = {
        name: [ModelToTrain(kept(s), SEED + s, True) for s in range(wanted.seeds)] for name, kept in parts.items()
    }
    with progress(notes) as report:
        train_models(store, [m for s in range(wanted.seeds) for m in (x[s] for x in models.values())], report=report)
    retrained, method, rows = Retrained(store.path), retraining_method(store), judged_rows(store, wanted.truth)
    captions = np.asarray(store.examples.words)
    values = {}
    for name, asked in models.items():
        found = [retrained.read(model_key(method.digest, m.kept, m.seed)) for m in asked]
        f, recall = np.array([m.f[rows] for m in found]), np.array([hits(m, captions, rows) for m in found])
        values[name] = {"f": f, "recall@1": recall}
        spread = ", ".join(f"{x:.3f}" for x in recall.mean(axis=1))
        print(f"{name:32s} f {f.mean():+.3f}   recall@1 {recall.mean():.3f} (seeds {spread})")
    _, suspect, drawn = values
    for name in ("f", "recall@1"):
        for other in (drawn, "everything"):
            difference = values[suspect][name] - values[other][name]
            others = (difference.sum(axis=0) - difference) / max(1, len(difference) - 1)  # the mean without each seed
            found = two_way(difference.mean(axis=0), others)
            print(
                f"{name}: without suspects − {other}: {found.mean:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}] over "
                f"{rows.size} held-out pairs and {wanted.seeds} seeds"
            )
    print(f"{wanted.seeds} seeds, {time.perf_counter() - begin:.0f} s, {machine()}")


if __name__ == "__main__":
    main()
