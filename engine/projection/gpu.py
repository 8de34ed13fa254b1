"""Projection on an NVIDIA GPU: cuda/projection.cu compiled by CuPy at run time, on torch's stream, without a copy.

The matrices are those of definition.py; only the order of summation differs from the CPU's.
NOT YET RUN ON HARDWARE: the kernels are checked on the processor (tests/test_cuda_host.py) and compile for sm_80 and sm_90.
"""

from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from traklens.engine.projection.definition import Layout, projection_key, tile_size
from traklens.engine.projection.inputs import number_of
from traklens.engine.projection.launch import KINDS, SJLT_SHAPES, Launch, rademacher_launch, sjlt_launch
from traklens.stores.errors import ModelError, UsageError
from traklens.stores.specs import ProjectionSpec

SOURCES = Path(str(resources.files("traklens.engine.projection") / "cuda_sources"))


def kernel_names() -> list[str]:
    """Every kernel by its C++ name, template arguments included."""
    names = [f"traklens::sjlt<{kind}, {t}, {o}, {r}>" for kind in KINDS.values() for _, t, o, r in SJLT_SHAPES]
    return [*names, *(f"traklens::rademacher<{kind}>" for kind in KINDS.values()), "traklens::add_parts"]


@cache
def _kernel(device: int, name: str) -> Any:
    """One compiled kernel on one device: a second to compile, all of them would take a dozen.

    ModelError when CuPy is missing or the compilation fails.
    """
    try:
        import cupy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(
            "the CUDA projection", str(error), "CuPy", 'Install it with `pip install ".[gpu]"`.'
        ) from error
    with cupy.cuda.Device(device):
        try:
            module = cupy.RawModule(
                code=(SOURCES / "projection.cu").read_text(encoding="utf-8"),
                options=("-std=c++17", f"-I{SOURCES}"),
                name_expressions=(name,),
            )
            return module.get_function(name)
        except (cupy.cuda.compiler.CompileException, OSError) as error:
            raise ModelError(
                f"kernels in {SOURCES}",
                str(error),
                "sources this CUDA can compile",
                "Project on the CPU instead.",
            ) from error


class GpuProjector:
    """See `projection.Projector`; the matrices are those of `definition.py`, the launches those of `launch.py`."""

    def __init__(self, spec: ProjectionSpec, layout: Layout, checkpoint: int) -> None:
        self.spec, self.layout = spec, layout
        self._number = number_of(layout)
        self._key = projection_key(spec, layout, checkpoint)
        self._sparse = spec.kind == "sjlt"
        self._size = tile_size(spec) if self._sparse else 0
        self._scale = (spec.nonzeros if self._sparse else spec.dim) ** -0.5

    def accumulate(self, name: str, gradients: Tensor, out: Tensor) -> None:
        """Add the projection of gradients [B, numel] (float32, bfloat16 or float16) to out float32 [B, k], both on one GPU.

        UsageError where shapes, types or devices do not fit; ModelError naming the launch when CUDA refuses it.
        """
        import cupy  # pyright: ignore[reportMissingImports]

        number, numel = self._number[name]
        _check(name, numel, self.spec.dim, gradients, out)
        kind, batch = str(gradients.dtype).removeprefix("torch."), len(gradients)
        kernel, plan, arguments = self._plan(kind, batch, numel, number)
        device = gradients.device.index or 0
        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(gradients.device).cuda_stream, device)
        partial = torch.empty(plan.parts * batch * self.spec.dim, dtype=torch.float32, device=gradients.device)
        values, count = gradients.detach().contiguous(), out.numel()
        # Addresses, since CuPy has no bfloat16. Torch reuses the memory in the order of this stream: after the kernels.
        source, sums, total = (np.uint64(tensor.data_ptr()) for tensor in (values, partial, out))
        with cupy.cuda.Device(device), stream:
            launch = _launcher(device, name)
            launch(kernel, plan.grid, plan.threads, plan.shared_bytes, (source, sums, *arguments))
            whole = (sums, total, np.uint64(count), np.uint32(plan.parts), np.float32(self._scale))
            launch("traklens::add_parts", (-(-count // 256), 1, 1), 256, 0, whole)

    def _plan(self, kind: str, batch: int, numel: int, number: int) -> tuple[str, Launch, tuple]:
        """The kernel by its C++ name, its launch, and its arguments after the two arrays."""
        u32, u64, dim = np.uint32, np.uint64, self.spec.dim
        if self._sparse:
            plan = sjlt_launch(kind, batch, numel, self._size, self.spec.nonzeros)
            values = (batch, self._size, self.spec.nonzeros, number, plan.per_part, *self._key)
            name = f"traklens::sjlt<{', '.join(map(str, plan.template))}>"
            return name, plan, (u64(numel), *map(u32, values))
        plan = rademacher_launch(kind, batch, numel, dim)
        arguments = (u64(numel), *map(u32, (batch, dim, number)), u64(plan.per_part), *map(u32, self._key))
        return f"traklens::rademacher<{plan.template[0]}>", plan, arguments


def _launcher(device: int, parameter: str) -> Callable[[str, tuple[int, int, int], int, int, tuple], None]:
    """Launch a kernel by name; an error says what was launched."""

    def launch(name: str, grid: tuple[int, int, int], threads: int, shared: int, arguments: tuple) -> None:
        import cupy  # pyright: ignore[reportMissingImports]

        try:
            kernel = _kernel(device, name)
            if shared > 48 * 1024:
                kernel.max_dynamic_shared_size_bytes = shared
            kernel(grid, (threads, 1, 1), arguments, shared_mem=shared)
        except (cupy.cuda.driver.CUDADriverError, cupy.cuda.runtime.CUDARuntimeError) as error:
            raise ModelError(
                f"{name} on {parameter}",
                f"{error} (grid {grid}, {threads} threads, {shared} bytes of shared memory, GPU {device})",
                "a launch this GPU accepts",
                "Lower --proj-dim or --batch-size, or project on the CPU.",
            ) from error

    return launch


def _check(name: str, numel: int, dim: int, gradients: Tensor, out: Tensor) -> None:
    if not gradients.is_cuda or gradients.device != out.device:
        raise UsageError(
            f"gradients of {name}",
            f"{gradients.device}, output on {out.device}",
            "both on one GPU",
            "Move them there.",
        )
    if str(gradients.dtype).removeprefix("torch.") not in KINDS:
        raise UsageError(f"gradients of {name}", f"{gradients.dtype}", ", ".join(KINDS), "Convert them first.")
    if gradients.ndim != 2 or gradients.shape[1] != numel:
        raise UsageError(
            f"gradients of {name}",
            f"shape {tuple(gradients.shape)}",
            f"[B, {numel}]",
            "Flatten them, one row per example.",
        )
    if out.shape != (len(gradients), dim) or out.dtype != torch.float32 or not out.is_contiguous():
        raise UsageError(
            "out",
            f"{out.dtype} {tuple(out.shape)}",
            f"contiguous float32 ({len(gradients)}, {dim})",
            "Make it with torch.zeros.",
        )
