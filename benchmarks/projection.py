"""Projection of a batch of gradients against its peers, taking turns, with quality beside speed.

    python benchmarks/projection.py [--json] [--store STORE] [--only cpu|gpu|quality]

Peers on the CPU: traker's BasicProjector (`pip install --no-deps traker==0.3.2`; left out if it is not there), a product
with one materialised block of a dense matrix (extrapolated to k), and a plain copy of the same gradients, the floor. On a
GPU: a device copy and a bfloat16 matrix product, and `fast_jl` if it is installed. Quality: error of inner products of
projected gradients against the exact ones, relative to `rademacher` at the same k, for Gaussian, heavy-tailed and (with
--store, a store of the demo) real gradients. `a_vs_b` is how many times faster a is; `a_vs_memcpy` how many times slower.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from projection_quality import quality

from traklens.engine.projection import make_projector
from traklens.stores.specs import ProjectionSpec

BLOCK = 100  # columns of the materialised peer


def _median(work: Callable[[], Any], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def cpu(p: int, dim: int, batch: int, repeats: int) -> dict[str, float]:
    """Seconds of every candidate and the agreed ratios."""
    gradients = torch.randn(batch, p, generator=torch.Generator().manual_seed(0))
    copy, out = torch.empty_like(gradients), np.zeros((batch, dim), dtype=np.float32)
    layout = (("g", p),)
    sparse = make_projector(ProjectionSpec(dim=dim), layout, 0)
    dense = make_projector(ProjectionSpec(kind="rademacher", dim=dim), layout, 0)
    block = torch.randn(p, BLOCK, generator=torch.Generator().manual_seed(1))
    work = {
        "memcpy": lambda: copy.copy_(gradients),
        "sjlt": lambda: sparse.accumulate("g", gradients, out),
        "rademacher": lambda: dense.accumulate("g", gradients, out),
        "materialised": lambda: gradients @ block,
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            if name in ("rademacher", "materialised") and turn > 3:
                continue
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    found = {name: statistics.median(values) for name, values in times.items()}
    found["materialised"] *= dim / BLOCK
    found |= traker(gradients, p, dim)
    result = {f"{name}_seconds": seconds for name, seconds in found.items()}
    result["sjlt_vs_memcpy"] = found["sjlt"] / found["memcpy"]
    for name in ("sjlt", "rademacher"):
        for peer in ("traker_normal", "traker_rademacher", "materialised"):
            if peer in found:
                result[f"{name}_vs_{peer}"] = found[peer] / found[name]
    return result


def traker(gradients: torch.Tensor, p: int, dim: int) -> dict[str, float]:
    """Seconds of traker's BasicProjector, once each, after its constructor; nothing if it is not installed."""
    try:
        from trak.projectors import (  # pyright: ignore[reportMissingImports]
            BasicProjector,
            ProjectionType,
        )
    except ImportError:
        return {}
    found = {}
    for kind in ("normal", "rademacher"):
        peer = BasicProjector(p, dim, 0, ProjectionType(kind), torch.device("cpu"))
        start = time.perf_counter()
        peer.project(gradients, model_id=0)
        found[f"traker_{kind}"] = time.perf_counter() - start
    return found


def gpu(dims: tuple[int, ...], repeats: int) -> dict[str, Any] | None:
    """Rates on the GPU at hand: milliseconds, share of the copy bandwidth (sjlt), of the matrix-product rate (dense)."""
    if not torch.cuda.is_available():
        return None
    device, found = torch.device("cuda"), {"device": torch.cuda.get_device_name(), "runs": []}
    bandwidth, rate = copy_bandwidth(device, repeats), matmul_rate(device, repeats)
    found |= {"copy_bytes_per_second": bandwidth, "matmul_flops": rate}
    for p, batch, kind in product((22_000_000, 151_000_000), (16, 64), ("bfloat16", "float32")):
        gradients = torch.randn(batch, p, device=device, dtype=getattr(torch, kind))
        for dim, family in product(dims, ("sjlt", "rademacher")):
            projector = make_projector(ProjectionSpec(kind=family, dim=dim), (("g", p),), 0, device="cuda")
            out = torch.zeros(batch, dim, device=device)
            seconds = cuda_seconds(partial(projector.accumulate, "g", gradients, out), repeats)
            line = {"family": family, "p": p, "batch": batch, "kind": kind, "k": dim, "ms": 1e3 * seconds}
            line["share_of_copy"] = gradients.nbytes / seconds / bandwidth
            line["share_of_matmul"] = 2 * batch * p * dim / seconds / rate
            found["runs"].append(line)
    return found


def copy_bandwidth(device: torch.device, repeats: int) -> float:
    """Bytes a second that a device copy reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    return 2 * source.numel() / cuda_seconds(partial(torch.empty_like(source).copy_, source), repeats)


def matmul_rate(device: torch.device, repeats: int) -> float:
    """bfloat16 operations a second of a large matrix product."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    return 2 * 8192**3 / cuda_seconds(partial(torch.matmul, a, a), repeats)


def cuda_seconds(work: Callable[[], Any], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--p", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=2_048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--only", choices=("cpu", "gpu", "quality"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts = {
        "cpu": lambda: cpu(options.p, options.dim, options.batch, options.repeats),
        "gpu": lambda: gpu((2_048, 4_096, 16_384), options.repeats),
        "quality": lambda: quality(options.dim, options.store),
    }
    found = {name: run() if options.only in (None, name) else None for name, run in parts.items()}
    if options.json:
        print(json.dumps({"machine": machine(), "threads": torch.get_num_threads()} | found))
        return
    print(machine(), "threads", torch.get_num_threads())
    for name, values in found.items():
        print(name + ":", "none here" if values is None else "")
        for key, value in (values or {}).items():
            for line in value if isinstance(value, list) else [{"": value}]:
                print(
                    f"  {key:34}", *(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items())
                )


if __name__ == "__main__":
    main()
