"""The steps of on_device.sh: each yields what it finds as it finds it, raises SkippedError, or fails as it may."""

import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions, version
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = (("weight", 5_003), ("bias", 7), ("embedding", 40_001))
SMALL = "ON_DEVICE_SMALL"  # set where a tool makes everything a hundred times slower
LEFT = "ON_DEVICE_SECONDS"  # how long the step may take: what it starts must end before
KINDS = ("float32", "bfloat16", "float16")
OF_STORES = ("open_clip", "zarr", "pyarrow", "faiss", "PIL")  # what reading data and writing a store import


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

    found: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "cuda": torch.version.cuda}
    found["rehearsal"] = rehearse
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        found |= {"device": facts.name, "memory": facts.total_memory, "sm": f"{facts.major}.{facts.minor}"}
    for name in ("cupy", "numba", "numpy", "open_clip", "zarr", "pyarrow", "faiss", "transformers"):
        found[name] = _version(name)
    for tool in ("nvidia-smi", "nvcc", "compute-sanitizer"):
        found[tool] = shutil.which(tool)
    if found["nvidia-smi"]:
        query = "--query-gpu=name,driver_version,memory.used,clocks.sm,clocks.mem,temperature.gpu"
        found["gpu"] = _run(["nvidia-smi", query, "--format=csv,noheader"]).stdout.strip()
    yield found


def _version(name: str) -> str | None:
    """The version of an importable package, "" where it does not say; None where it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    found = packages_distributions().get(name)
    return version(found[0]) if found else ""


def parity(rehearse: bool) -> Iterator[dict]:
    """Projected values against the float64 reference, twice the same bits: every kernel, input type and awkward sizes."""
    import numpy as np
    import torch

    from traklens.engine.projection import make_projector
    from traklens.engine.projection.definition import rademacher_matrix
    from traklens.stores.specs import ProjectionSpec

    device = "cpu" if rehearse else "cuda"
    small = rehearse or SMALL in os.environ
    layout = (("weight", 613), ("bias", 7)) if small else LAYOUT
    specs = [ProjectionSpec(dim=300, nonzeros=3), ProjectionSpec("rademacher", 300), ProjectionSpec(dim=2_048)]
    specs += [ProjectionSpec(dim=dim) for dim in (4_096, 8_192, 16_384, 20_000)]  # a launch shape each
    for spec in specs[:3] if rehearse else specs:
        dense = rademacher_matrix(spec, layout, 0) if spec.kind == "rademacher" else None
        for kind, batch in product(KINDS, (1, 5) if small else (1, 11, 70)):
            gradients = torch.randn(batch, sum(n for _, n in layout)).to(getattr(torch, kind))
            exact = gradients.double().numpy()
            expected = _sparse_product(spec, layout, exact) if dense is None else exact @ dense
            runs = []
            for _ in range(2):
                projector = make_projector(spec, layout, 0, device=device)
                zeros = torch.zeros(batch, spec.dim, device=device)
                out, start = zeros.numpy() if rehearse else zeros, 0
                for name, numel in layout:
                    projector.accumulate(name, gradients[:, start : start + numel].contiguous().to(device), out)
                    start += numel
                runs.append(zeros.cpu().numpy())
            error = float(np.abs(runs[0] - expected).max() / np.abs(expected).max())
            same = bool(np.array_equal(*runs))
            yield {"projection": spec.kind, "k": spec.dim, "kind": kind, "batch": batch, "error": error,
                   "same_bits": same, "ok": error <= 1e-5 and same}  # fmt: skip


def _sparse_product(spec: Any, layout: Any, gradients: Any) -> Any:
    """Pᵀg of `sjlt` in float64 by the tables of the definition: at k = 16,384 the matrix itself would take gigabytes."""
    import numpy as np

    from traklens.engine.projection.definition import projection_key, tile_permutation, tile_signs

    size, key = spec.dim // spec.nonzeros, projection_key(spec, layout, 0)
    out, start = np.zeros((len(gradients), spec.dim)), 0
    for tensor, (_, numel) in enumerate(layout):
        tiles = -(-numel // size)
        padded = np.pad(gradients[:, start : start + numel], ((0, 0), (0, tiles * size - numel)))
        for tile, block in product(range(tiles), range(spec.nonzeros)):
            place, sign = (table(key, tensor, tile, block, size) for table in (tile_permutation, tile_signs))
            out[:, block * size : (block + 1) * size] += sign * padded[:, tile * size + place]
        start += numel
    return out / np.sqrt(spec.nonzeros)


def bandwidth(rehearse: bool) -> Iterator[dict]:
    """`sjlt` against a device copy (wanted 70 %), `rademacher` against the bf16 matrix rate (wanted 50 %)."""
    import numpy as np
    import torch
    from projection import copy_bandwidth, cuda_seconds, matmul_rate

    from traklens.engine.projection import make_projector
    from traklens.stores.specs import ProjectionSpec

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
            shares = {
                "share_of_copy": gradients.nbytes / seconds / copy,
                "share_of_matmul": 2 * batch * p * dim / seconds / rate,
            }
            enough = shares["share_of_copy"] >= 0.7 if family == "sjlt" else shares["share_of_matmul"] >= 0.5
            line = {"projection": family, "p": p, "batch": batch, "kind": kind, "k": dim, "ms": 1e3 * seconds}
            yield line | shares | {"reached": enough}


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sanitizer(rehearse: bool) -> Iterator[dict]:
    """`compute-sanitizer` on the small parity cases."""
    tool = [] if rehearse else [shutil.which("compute-sanitizer") or "", "--error-exitcode", "86"]  # without: 0
    if "" in tool:
        raise SkippedError("no compute-sanitizer on the path")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *tool,
            sys.executable,
            str(ROOT / "benchmarks/on_device.py"),
            "--only",
            "parity",
            "--out",
            folder,
            *flag(rehearse),
        ]
        done = _run(command, **{SMALL: "1"})
    yield {"rc": done.returncode, "said": done.stdout[-800:] + done.stderr[-800:], "ok": done.returncode == 0}


def gpu_tests(rehearse: bool) -> Iterator[dict]:
    """The tests marked `gpu`; without the packages that a store needs, those of the projection alone."""
    need("pytest")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_gpu.py"]
    lacking = [name for name in OF_STORES if importlib.util.find_spec(name) is None]
    if lacking:
        yield {"left_out": "the test that builds a store", "lacking": lacking}
        command += ["--noconftest", "-k", "TestOnGpu"]
    done = _run(command)
    yield {"rc": done.returncode, "said": (done.stdout + done.stderr)[-800:], "ok": done.returncode == 0}


def gradients(rehearse: bool) -> Iterator[dict]:
    """Per-sample gradients of ViT-B/32, and their projection, against a training step."""
    need("open_clip")
    module = importlib.import_module("gradients")
    import torch

    name, batch, dim = ("tiny", 4, 64) if rehearse else ("ViT-B-32", 64, 2_048)
    device = torch.device("cpu" if rehearse else "cuda")
    yield module.measure(name, batch, 1 if rehearse else 3, False, device, dim=dim)


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
    need(*OF_STORES)
    import numpy as np

    from traklens.engine.attribution.scores import rank, stored_target
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.training.train import train
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
    from traklens.stores.store import open_store

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
        distance = float(np.abs(phi[0] - phi[1]).max() / np.abs(phi[0]).max())
        scores, common = [], []
        for row in range(0, one.n, max(1, one.n // 20)):
            first, second = (rank(s, stored_target(s, row), top=10).proponents for s in (one, two))
            common.append(len({p.id for p in first} & {p.id for p in second}))
            scores.append(abs(first[0].score - second[0].score) / abs(first[0].score))
    yield {"pairs": pairs, "seconds": seconds, "distance": distance, "score_distance": max(scores),
           "same_of_top_ten": min(common), "ok": distance <= 1e-3}  # fmt: skip


def flag(rehearse: bool) -> list[str]:
    return ["--rehearse"] if rehearse else []


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Run a command to its end, or until just before the step's own: then it ends with all that it started, rc −9."""
    seconds = float(os.environ.get(LEFT, "60")) - 3
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        said = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # compute-sanitizer would leave its program on the GPU
        said = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, *said)


Step = Callable[[bool], Iterator[dict]]
STEPS: dict[str, tuple[float, Step]] = {  # the most important first; seconds each may take
    "facts": (40, facts),
    "parity": (90, parity),
    "bandwidth": (150, bandwidth),
    "sanitizer": (60, sanitizer),
    "gradients": (80, gradients),
    "store": (120, store),
    "gpu_tests": (120, gpu_tests),
    "peers": (60, peers),
}
