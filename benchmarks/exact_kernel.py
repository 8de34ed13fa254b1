"""What projection and damping cost: TRAK of one checkpoint with no projection at all, beside several dimensions k.

    python benchmarks/exact_kernel.py DATA RUN WORK [--checkpoint 0]

WORK is that of peers.py. Without projection φ(z)ᵀ(ΦᵀΦ + λI)⁻¹φ_i is taken in its dual form, from inner products of whole
gradients: K_z(K + λI)⁻¹. λ is relative to the mean diagonal of the Gram matrix as everywhere, k stands for p there. "weighed"
weighs the Gram matrix by p(1 − p), as an influence function does. Needs memory for n·p float32 numbers.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import machine
from peers import half

from traklens.engine.build.source import Source
from traklens.engine.evaluation.lds import lds
from traklens.engine.gradients import per_sample_gradients
from traklens.engine.projection import make_projector
from traklens.engine.tasks.contract import ModelOutput
from traklens.engine.tasks.loading import Loader
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DIMS = (1_024, 4_096)
BATCH = 64


def gradients(source: Source, rows: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
    """Whole gradients [n, p], p of the label [n], and projections [n, k] by dimension."""
    task = source.task
    model = task.load_checkpoint(source.model, source.checkpoints[m])
    loader = Loader(task, source.rows)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))
    layout = tuple(sizes.items())
    projectors = {k: make_projector(ProjectionSpec(dim=k), layout, m) for k in DIMS}
    whole = np.zeros((rows.size, sum(sizes.values())), dtype=np.float32)
    projected = {k: np.zeros((rows.size, k), dtype=np.float32) for k in DIMS}
    p = np.zeros(rows.size)
    for start in range(0, rows.size, BATCH):
        part = rows[start : start + BATCH]
        batch = loader.load_rows(part)
        module = ModelOutput(task, model, tuple(batch), ()).eval()

        def sink(name: str, values: torch.Tensor, which: slice, start: int = start) -> None:
            name = name.removeprefix("model.")
            at = slice(start + which.start, start + which.stop)
            whole[at, starts[name] : starts[name] + sizes[name]] += values.numpy()
            for k, projector in projectors.items():
                projector.accumulate(name, values, projected[k][at])

        names = [f"model.{name}" for name in sizes]
        f = per_sample_gradients(module, tuple(batch.values()), sink, strategy="hooks", names=names)
        p[start : start + part.size] = torch.sigmoid(f).numpy()
    return whole, p, projected


def dual(kernel: np.ndarray, n: int, damping: float, weight: np.ndarray) -> np.ndarray:
    """K_z(WK + λI)⁻¹ from inner products of training set and targets [n + T, n] → [T, n]."""
    own = kernel[:n].astype(np.float64)
    ridge = damping * float((np.diag(own) * weight).sum()) / min(n, own.shape[0])
    system = own * weight[None, :]
    system[np.diag_indices(n)] += ridge
    return np.linalg.solve(system, kernel[n:].astype(np.float64).T).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--checkpoint", type=int, default=0)
    wanted = parser.parse_args()
    source = Source.open(wanted.data, run=wanted.run)
    source = replace(source, task=source.task.bind(source.model, ModelOutputSpec()))
    n = source.n_train
    targets = n + np.random.default_rng(3).permutation(source.n - n)[:200]  # those of peers.py
    files = sorted((wanted.work / "truth").glob("*.npy"), key=lambda f: tuple(map(int, f.stem.split("_"))))
    subsets = 1 + max(int(file.stem.split("_")[0]) for file in files)
    truth = np.stack(
        [np.mean([np.load(f)[targets] for f in files if f.stem.startswith(f"{j}_")], axis=0) for j in range(subsets)]
    )
    halves = np.stack([half(n, j) for j in range(subsets)])
    whole, p, projected = gradients(source, np.concatenate([np.arange(n), targets]), wanted.checkpoint)
    q, plain, weighed = 1 - p[:n], np.ones(n), p[:n] * (1 - p[:n]) + 1e-6
    kernels = {"no projection": whole @ whole[:n].T} | {f"k = {k:,}": x @ x[:n].T for k, x in projected.items()}
    print(machine())
    print(
        "| LDS of one checkpoint, λ = |",
        " | ".join(f"{d:g}" for d in DAMPINGS),
        "|\n|" + "---|" * (len(DAMPINGS) + 1),
    )
    for name, kernel in kernels.items():
        width = int(name.split()[-1].replace(",", "")) if name.startswith("k") else whole.shape[1]
        for kind, weight in (("", plain), (", weighed", weighed)):
            found = []
            for damping in DAMPINGS:
                # the mean diagonal of a k × k matrix is the trace over k; the dual system has the same trace over n
                relative = damping * n / width
                found.append(lds((dual(kernel, n, relative, weight) * q).astype(np.float32), halves, truth).mean())
            print(f"| {name}{kind} |", " | ".join(f"{value:.3f}" for value in found), "|", flush=True)


if __name__ == "__main__":
    main()
