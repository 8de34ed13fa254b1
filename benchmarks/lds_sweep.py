"""What raises LDS: checkpoints M, damping λ, the weight Q, the soft threshold, k, half-subset or full-data checkpoints.

    python benchmarks/lds_sweep.py STORE [OTHER_STORE ...] [--models-of STORE] [--repeats 1 2 3]

The retrained models of `--models-of` (the first store if not given) are the measure for all of them; `traklens evaluate`
has to have trained them. Every store brings its own checkpoints, k and projection; damping is varied here.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import machine

from traklens.engine.attribution.methods import mean_q, scores_of
from traklens.engine.evaluation.evaluate import target_rows
from traklens.engine.evaluation.lds import judged_with_threshold, lds
from traklens.engine.features.precondition import DampedGram, gram_matrix
from traklens.engine.retraining.jobs import retraining_method
from traklens.engine.retraining.subsets import measured_subsets
from traklens.stores.store import Store, open_store

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
BASELINES = ("graddot", "gradcos", "influence", "clip", "clip_image", "clip_text", "bm25", "random")


def kernels(store: Store, rows: np.ndarray, damping: float) -> list[np.ndarray]:
    """φ_m(z)ᵀG_m⁻¹φ_m(z_i) per checkpoint: [T, n_train] each."""
    found = []
    for m in range(store.n_checkpoints):
        phi = np.asarray(store.array(m, "phi")[:])
        train = phi[: store.n_train]
        damped = DampedGram(gram_matrix([train], train.shape[1]), damping)
        found.append(damped.solve(phi[rows]) @ train.T)
    return found


def line(name: str, scores: np.ndarray, kept: np.ndarray, f: np.ndarray) -> None:
    judged = judged_with_threshold(scores, kept, f)
    found, plain = judged.interval, lds(scores, kept, f).mean()
    print(
        f"| {name} | {plain:.3f} | {found.mean:.3f} | {found.lo:.3f} to {found.hi:.3f} | {judged.share:g} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--models-of", type=Path)
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1])
    parser.add_argument("--targets", type=int, default=200)
    wanted = parser.parse_args()
    measure = open_store(wanted.models_of or wanted.stores[0])
    rows = target_rows(measure, wanted.targets)
    print(machine())
    most = max(wanted.repeats)
    for path in wanted.stores:
        store = open_store(path)
        if [str(x) for x in store.examples.id[rows]] != [str(x) for x in measure.examples.id[rows]]:
            raise SystemExit(f"{path} holds other pairs")
        for repeats in wanted.repeats if path == wanted.stores[0] else [most]:
            kept, f, _ = measured_subsets(measure, retraining_method(measure), wanted.subsets, repeats)
            f = f[:, rows]
            print(
                f"\n{path.name}: M = {store.n_checkpoints}, k = {store.manifest.projection.dim}; {len(kept)} half subsets, "
                f"{repeats} models each, {len(rows)} targets\n\n"
                "| scores | LDS | with soft threshold | 95 % | share kept |\n|---|---|---|---|---|"
            )
            q, m = mean_q(store, store.n_checkpoints), store.n_checkpoints
            for damping in DAMPINGS if repeats == most else (1.0,):
                by_checkpoint = kernels(store, rows, damping)
                line(f"TRAK, λ = {damping:g}", np.mean(by_checkpoint, axis=0) * q, kept, f)
                if damping == 1.0 and repeats == most:
                    line("TRAK, λ = 1, without Q", np.mean(by_checkpoint, axis=0), kept, f)
                    for count in (x for x in (1, 2, 4) if x < m):
                        scores = np.mean(by_checkpoint[:count], axis=0) * mean_q(store, count)
                        line(f"TRAK, λ = 1, M = {count}", scores, kept, f)
            for method in BASELINES if path == wanted.stores[0] else ("graddot", "gradcos", "clip"):
                line(method, scores_of(store, method, rows).scores, kept, f)


if __name__ == "__main__":
    main()
