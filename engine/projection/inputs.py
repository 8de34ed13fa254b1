"""What every projector on the CPU checks and shares: layout, arrays, threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from traklens.engine.projection.definition import Layout
from traklens.stores.errors import UsageError

LIMIT = 2**32  # counters are 32-bit words
WORTH_A_THREAD = 1 << 18  # numbers; below, starting threads costs more than the work


def number_of(layout: Layout) -> dict[str, tuple[int, int]]:
    """name → (tensor number, numel). UsageError for a repeated name or a size the counters cannot hold."""
    found: dict[str, tuple[int, int]] = {}
    for number, (name, numel) in enumerate(layout):
        if name in found:
            raise UsageError(
                f"parameter {name}", "the name twice", "distinct names", "Give every parameter its own name."
            )
        if not 0 < numel < LIMIT:
            raise UsageError(f"parameter {name}", f"{numel} coordinates", "1 to 2³² − 1", "Leave the parameter out.")
        found[name] = (number, numel)
    return found


def as_rows(gradients: Tensor | np.ndarray, name: str, numel: int, out: np.ndarray, dim: int) -> np.ndarray:
    """The gradients as float32 [B, numel], C-contiguous; no copy where they are so already (float64 is rounded).

    UsageError where shapes do not fit, or `out` is not C-contiguous float32 [B, k]: the kernels do not check bounds.
    """
    if isinstance(gradients, Tensor):
        if gradients.device.type != "cpu":
            raise UsageError(
                f"gradients of {name}", f"a tensor on {gradients.device}", "a tensor on cpu", "Move it with .cpu()."
            )
        gradients = gradients.detach().to(torch.float32).numpy()
    if gradients.ndim != 2 or gradients.shape[1] != numel:
        raise UsageError(
            f"gradients of {name}", f"shape {gradients.shape}", f"[B, {numel}]", "Flatten them, one row per example."
        )
    _check_out(out, len(gradients), dim)
    return np.ascontiguousarray(gradients, dtype=np.float32)


def as_table_rows(
    rows: Tensor, ids: Tensor, name: str, numel: int, out: np.ndarray, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a table as float32 [B, L, d] and their ids as int64 [B, L], both C-contiguous; UsageError as of `as_rows`."""
    values, of = rows.detach().to(torch.float32).numpy(), ids.detach().to(torch.int64).numpy()
    fits = values.ndim == 3 and of.shape == values.shape[:2] and values.shape[2] > 0 and not numel % values.shape[2]
    if not fits or (of.size and not 0 <= of.min() <= of.max() < numel // values.shape[2]):
        raise UsageError(
            f"gradients of {name}",
            f"rows {tuple(rows.shape)} with ids {tuple(ids.shape)}",
            f"[B, L, d] and [B, L], d a divisor of {numel}, ids of its rows",
            "Give the rows that occur.",
        )
    _check_out(out, len(values), dim)
    return np.ascontiguousarray(values), np.ascontiguousarray(of)


def as_weights(weights: np.ndarray, dim: int) -> np.ndarray:
    """One number for each of the k outputs, float32 [k]. UsageError for another number of them."""
    if weights.shape != (dim,):
        raise UsageError("weights", f"shape {weights.shape}", f"({dim},)", "Give one number for each output.")
    return np.ascontiguousarray(weights, dtype=np.float32)


def _check_out(out: np.ndarray, count: int, dim: int) -> None:
    if out.shape != (count, dim) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise UsageError(
            "out",
            f"{out.dtype} {out.shape}{'' if out.flags.c_contiguous else ', not contiguous'}",
            f"contiguous float32 ({count}, {dim})",
            "Make it with np.zeros((B, k), dtype=np.float32).",
        )


def for_each_part(work: Callable[[slice], None], count: int, numbers: int) -> None:
    """Call `work(part)` for as many parts of 0 … count − 1 as torch has threads. The work must release the GIL.

    Plain threads rather than numba's, which must not be entered from two threads at once, as an application does.
    `numbers` is how many gradient entries there are in all: for few, one thread does everything.
    """
    threads = min(torch.get_num_threads(), count) if numbers >= WORTH_A_THREAD else 1
    if threads <= 1:
        work(slice(0, count))
        return
    ends = [count * i // threads for i in range(threads + 1)]
    own, *others = (slice(a, b) for a, b in pairwise(ends))
    waiting = [_pool(threads - 1).submit(work, part) for part in others]
    work(own)
    for part in waiting:
        part.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads are kept: starting them for every tensor would cost as much as a small tensor's projection."""
    return ThreadPoolExecutor(threads, thread_name_prefix="projection")
