"""The steps of benchmarks/on_device.sh: each in a process of its own with a budget of its own, results as JSON lines.

A line is {"step", "seconds", …} with what was found, or with "skipped" or "failed" and why. A step that fails, hangs or
crashes the driver does not stop the next one.
"""

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
SECONDS = 540.0
RESULTS = "results.jsonl"
LAYOUT = (("weight", 5_003), ("bias", 7), ("embedding", 40_001))
SMALL = "ON_DEVICE_SMALL"  # set where a tool makes everything a hundred times slower
KINDS = ("float32", "bfloat16", "float16")


class SkippedError(Exception):
    """A step that cannot run here, and why."""


def need(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SkippedError(f"not installed: {', '.join(missing)}")


def facts(rehearse: bool) -> Iterator[dict]:
    """What this runs on."""
    import torch
    from machine import machine

    found: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "rehearsal": rehearse}
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        found |= {"device": facts.name, "memory": facts.total_memory, "sm": f"{facts.major}.{facts.minor}"}
    for name in ("cupy", "numba", "numpy", "open_clip", "zarr", "pyarrow", "faiss", "transformers"):
        found[name] = importlib.util.find_spec(name) is not None
    if shutil.which("nvidia-smi"):
        found["nvidia_smi"] = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip()
    yield found


def parity(rehearse: bool) -> Iterator[dict]:
    """Projected values against the float64 reference, and twice the same bits."""
    import numpy as np
    import torch

    from engine.projection import make_projector
    from engine.projection.definition import reference_projection
    from stores.specs import ProjectionSpec

    device = "cpu" if rehearse else "cuda"
    small = rehearse or SMALL in os.environ
    layout = (("weight", 613), ("bias", 7)) if small else LAYOUT
    specs = (ProjectionSpec(dim=300, nonzeros=3), ProjectionSpec(dim=2_048), ProjectionSpec("rademacher", 300))
    for spec, kind, batch in product(specs, KINDS, (1, 5) if small else (1, 11, 70)):
        gradients = torch.randn(batch, sum(n for _, n in layout)).to(getattr(torch, kind))
        expected = reference_projection(spec, layout, 0, gradients.double().numpy())
        runs = []
        for _ in range(2):
            projector = make_projector(spec, layout, 0, device=device)
            out = np.zeros((batch, spec.dim), np.float32) if rehearse else torch.zeros(batch, spec.dim, device=device)
            start = 0
            for name, numel in layout:
                projector.accumulate(name, gradients[:, start : start + numel].contiguous().to(device), out)
                start += numel
            runs.append(out if isinstance(out, np.ndarray) else out.cpu().numpy())
        error = float(np.abs(runs[0] - expected).max() / np.abs(expected).max())
        same = bool(np.array_equal(*runs))
        yield {"projection": spec.kind, "k": spec.dim, "kind": kind, "batch": batch, "error": error, "same_bits": same,
               "ok": error <= 1e-5 and same}  # fmt: skip


def bandwidth(rehearse: bool) -> Iterator[dict]:
    """`sjlt` against a device copy (wanted 70 %), `rademacher` against the bf16 matrix rate (wanted 50 %)."""
    import numpy as np
    import torch
    from projection import copy_bandwidth, cuda_seconds, matmul_rate

    from engine.projection import make_projector
    from stores.specs import ProjectionSpec

    device = torch.device("cpu" if rehearse else "cuda")
    copy, rate = (1e10, 1e11) if rehearse else (copy_bandwidth(device, 5), matmul_rate(device, 5))
    yield {"copy_bytes_per_second": copy, "matmul_flops": rate}
    sizes = (5_000,) if rehearse else (22_000_000, 151_000_000)
    for p, batch, kind in product(sizes, (16, 64), ("bfloat16", "float32")):
        gradients = torch.randn(batch, p, device=device, dtype=getattr(torch, kind))
        for dim, family in product((256,) if rehearse else (2_048, 4_096, 16_384), ("sjlt", "rademacher")):
            projector = make_projector(ProjectionSpec(kind=family, dim=dim), (("g", p),), 0, device=device.type)
            out: Any = np.zeros((batch, dim), np.float32) if rehearse else torch.zeros(batch, dim, device=device)
            work = lambda project=projector.accumulate, g=gradients, o=out: project("g", g, o)  # noqa: E731
            seconds = _timed(work) if rehearse else cuda_seconds(work, 3)
            line = {"projection": family, "p": p, "batch": batch, "kind": kind, "k": dim, "ms": 1e3 * seconds}
            yield line | {
                "share_of_copy": gradients.nbytes / seconds / copy,
                "share_of_matmul": 2 * batch * p * dim / seconds / rate,
            }


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sanitizer(rehearse: bool) -> Iterator[dict]:
    """`compute-sanitizer` on the small parity cases."""
    tool = [] if rehearse else [shutil.which("compute-sanitizer") or ""]
    if tool == [""]:
        raise SkippedError("no compute-sanitizer on the path")
    with tempfile.TemporaryDirectory() as folder:
        command = [*tool, sys.executable, __file__, "--only", "parity", "--out", folder, *_flag(rehearse)]
        done = _run(command, **{SMALL: "1"})
    yield {"rc": done.returncode, "said": done.stdout[-800:] + done.stderr[-800:], "ok": done.returncode == 0}


def gpu_tests(rehearse: bool) -> Iterator[dict]:
    """The tests marked `gpu`."""
    need("pytest", "open_clip", "zarr", "pyarrow", "faiss", "streamlit")
    done = _run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", str(ROOT / "tests/test_gpu.py")]
    )
    yield {"rc": done.returncode, "said": done.stdout[-800:], "ok": done.returncode == 0}


def gradients(rehearse: bool) -> Iterator[dict]:
    """Per-sample gradients against a training step."""
    need("open_clip")
    module = importlib.import_module("gradients")
    import torch

    name, batch = ("tiny", 4) if rehearse else ("ViT-B-32", 64)
    yield module.measure(name, batch, 1 if rehearse else 3, False, torch.device("cpu" if rehearse else "cuda"))


def peers(rehearse: bool) -> Iterator[dict]:
    """fast_jl and TRAIS-Lab's sjlt on the same gradients, where they are installed."""
    import torch

    for name, attribute in (("fast_jl", "project_rademacher_8"), ("sjlt", "SJLTProjection")):
        if importlib.util.find_spec(name) is None:
            yield {"peer": name, "skipped": "not installed, and it builds only where CUDA's compiler is"}
            continue
        peer, gradient = importlib.import_module(name), torch.randn(32, 22_000_000, device="cuda")
        if name == "fast_jl":
            count = torch.cuda.get_device_properties(0).multi_processor_count
            work = lambda f=getattr(peer, attribute), g=gradient, c=count: f(g, 2_048, 0, c)  # noqa: E731
        else:
            work = lambda f=getattr(peer, attribute)(22_000_000, 2_048, c=4, device="cuda"), g=gradient: f(g)  # noqa: E731
        from projection import cuda_seconds

        yield {"peer": name, "p": 22_000_000, "batch": 32, "k": 2_048, "ms": 1e3 * cuda_seconds(work, 3)}


def store(rehearse: bool) -> Iterator[dict]:
    """`build --device cuda` of a small demo against the CPU's store: distance of features, rankings."""
    need("open_clip", "zarr", "pyarrow", "faiss", "PIL")
    import numpy as np

    from engine.attribution import rank, stored_target
    from engine.build import build_store
    from engine.data import load_dataset
    from engine.demo_data import write_demo_dataset
    from engine.source import Source
    from engine.train import train
    from stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
    from stores.store import open_store

    pairs, dim = (24, 32) if rehearse else (2_000, 2_048)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = write_demo_dataset(folder / "data", n=pairs, seed=0)
        train(load_dataset(data), folder / "run", checkpoints=1, epochs=1, batch_size=8, heldout=0.2)
        source, seconds = Source.open(data, run=folder / "run"), {}
        outputs = ModelOutputSpec(n_reference=16), ProjectionSpec(dim=dim), ScoreSpec()
        for name, device in (("cpu", "cpu"), ("device", "cpu" if rehearse else "cuda")):
            seconds[name] = _timed(
                lambda n=name, d=device: build_store(source, folder / n, *outputs, gradients="hooks", device=d)
            )
        one, two = open_store(folder / "cpu"), open_store(folder / "device")
        phi = [np.asarray(s.array(0, "phi")[:]) for s in (one, two)]
        tops = [[p.id for p in rank(s, stored_target(s, one.n - 1), top=10).proponents] for s in (one, two)]
        distance = float(np.abs(phi[0] - phi[1]).max() / np.abs(phi[0]).max())
    yield {"pairs": pairs, "seconds": seconds, "distance": distance, "same_top_ten": len({*tops[0]} & {*tops[1]}),
           "ok": distance <= 1e-3}  # fmt: skip


STEPS: dict[
    str, tuple[float, Callable[[bool], Iterator[dict]]]
] = {  # the most important first; seconds each may take
    "facts": (40, facts),
    "parity": (90, parity),
    "bandwidth": (150, bandwidth),
    "sanitizer": (60, sanitizer),
    "gradients": (80, gradients),
    "store": (120, store),
    "gpu_tests": (120, gpu_tests),
    "peers": (60, peers),
}


def _flag(rehearse: bool) -> list[str]:
    return ["--rehearse"] if rehearse else []


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)


def write(out: Path, line: dict) -> None:
    """Append one whole line, on disk before this returns."""
    text = json.dumps(line) + "\n"
    with (out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    print(text[:300].rstrip(), flush=True)


def one_step(name: str, out: Path, rehearse: bool) -> int:
    """Run a step in this process, writing what it finds as it finds it."""
    begun = time.monotonic()
    try:
        for found in STEPS[name][1](rehearse):
            write(out, {"step": name, "seconds": round(time.monotonic() - begun, 2)} | found)
    except SkippedError as error:
        write(out, {"step": name, "skipped": str(error)})
    except Exception as error:  # whatever a driver raises: it is the finding
        write(out, {"step": name, "failed": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Everything a GPU has to show.")
    parser.add_argument("--rehearse", action="store_true", help="on the processor, with tiny sizes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all steps together")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts/on_device")
    parser.add_argument("--step", action="append", choices=STEPS, help="only these")
    parser.add_argument("--only", choices=STEPS, help="one step in this very process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        return one_step(options.only, options.out, options.rehearse)
    end, failed = time.monotonic() + options.seconds, 0
    for name in options.step or STEPS:
        left = min(STEPS[name][0], end - time.monotonic())
        if left < 1:
            write(options.out, {"step": name, "skipped": "no time left"})
            continue
        print(f"== {name} (at most {left:.0f} s)", flush=True)
        command = [sys.executable, __file__, "--only", name, "--out", str(options.out), *_flag(options.rehearse)]
        try:
            failed += subprocess.run(command, timeout=left, cwd=ROOT).returncode != 0
        except subprocess.TimeoutExpired:
            write(
                options.out,
                {"step": name, "failed": f"cut after {left:.0f} s; what it found until then stands above"},
            )
            failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
