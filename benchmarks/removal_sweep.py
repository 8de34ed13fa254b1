"""What makes predicted removals agree with retraining: damping λ, the weight Q, group or additive, checkpoints.

    python benchmarks/removal_sweep.py STORE

Every removal of the store that was checked by retraining, with a target; `traklens evaluate STORE --leave-k-out …` makes
some. Slope: of the line through the origin, measured over predicted.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import machine
from scipy.stats import spearmanr

from traklens.engine.features.precondition import DampedGram, gram_matrix
from traklens.engine.retraining.jobs import history
from traklens.engine.retraining.measurements import Measurements
from traklens.engine.retraining.noise_ceiling import ceiling
from traklens.stores.retrained import Request
from traklens.stores.store import Store, open_store

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def effects(store: Store, m: int, damping: float, removals: list[Request], weighted: bool) -> np.ndarray:
    """Predicted change of f of every removal's target by one checkpoint: [removals, 2], group and additive."""
    n, phi = store.n_train, np.asarray(store.array(m, "phi")[:])
    q = np.asarray(store.array(m, "q")[:n], dtype=np.float64) if weighted else np.ones(n)
    damped = DampedGram(gram_matrix([phi[:n]], phi.shape[1]), damping)
    found = []
    for removal in removals:
        rows = np.array(removal.rows)
        solved = damped.solve(phi[rows]).astype(np.float64)
        target, inverse = phi[removal.target] @ solved.T, np.eye(rows.size) - phi[rows] @ solved.T
        found.append((-target @ np.linalg.solve(inverse, q[rows]), -target @ q[rows]))
    return np.array(found)


def line(name: str, predicted: np.ndarray, measured: np.ndarray) -> None:
    slope = float(predicted @ measured / (predicted @ predicted))
    error = np.abs(predicted - measured).mean()
    scaled = np.abs(slope * predicted - measured).mean()
    rank = spearmanr(predicted, measured).statistic  # type: ignore[union-attr]
    print(f"| {name} | {rank:.2f} | {slope:.2f} | {error:.2f} | {scaled:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    store = open_store(parser.parse_args().store)
    measurements = Measurements(store)
    done = [(request, measurements.of(request)) for _, request, _ in history(store) if request.target is not None]
    removals, found = [r for r, m in done if m is not None], [m for _, m in done if m is not None]
    measured, seeds = np.array([m.change for m in found]), [len(m.changes) for m in found]
    noise = ceiling(np.array([list(m.changes)[: min(seeds)] for m in found]).T)
    print(machine())
    counts = f"{len(found)} removals, {min(seeds)} to {max(seeds)} retrainings each; M = {store.n_checkpoints}"
    print(f"{counts}, k = {store.manifest.projection.dim}")
    print(
        f"mean |measured| {np.abs(measured).mean():.2f}, rank correlation that noise allows {noise or np.nan:.2f}\n"
    )
    print("| prediction | rank correlation | slope | mean absolute error | … to scale |\n|---|---|---|---|---|")
    for damping in DAMPINGS:
        every = np.stack([effects(store, m, damping, removals, True) for m in range(store.n_checkpoints)])
        line(f"group, λ = {damping:g}", every[..., 0].mean(axis=0), measured)
        line(f"additive, λ = {damping:g}", every[..., 1].mean(axis=0), measured)
        if damping == 1.0:
            for count in (1, 2, 4):
                line(f"group, λ = 1, M = {count}", every[:count, :, 0].mean(axis=0), measured)
            bare = np.stack([effects(store, m, damping, removals, False) for m in range(store.n_checkpoints)])
            line("group, λ = 1, without Q", bare[..., 0].mean(axis=0), measured)


if __name__ == "__main__":
    main()
