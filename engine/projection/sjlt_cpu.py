"""The sparse projection on the CPU: one pass over the gradients, tables made on the fly, fixed order of summation.

For each tile of T = k/s coordinates the s index and sign tables are made once and used for all samples. Every output
number is summed by one thread in the order of the tiles, so neither batch size nor thread count changes a bit.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from engine.projection.definition import Layout, projection_key, tile_size
from engine.projection.philox import philox_words
from stores.specs import ProjectionSpec


@numba.njit(nogil=True, cache=True)
def _gcd(a, b):
    while b:
        a, b = b, a % b
    return a


@numba.njit(nogil=True, cache=True)
def _fill_tables(index, sign, tile, tensor, size, scale, k0, k1):
    """index int32 and sign float32, both [s, T], of one tile."""
    for block in range(index.shape[0]):
        w0, w1, _, _ = philox_words(
            np.uint64(tile), np.uint64(tensor), np.uint64(block), np.uint64(0), k0, k1
        )
        a, c = np.int64(w0) % size, np.int64(w1) % size
        while _gcd(a, size) != 1:
            a = (a + 1) % size
        place = c
        for j in range(size):
            index[block, j] = place
            place += a
            if place >= size:
                place -= size
        for group in range((size + 127) // 128):
            words = philox_words(
                np.uint64(tile), np.uint64(tensor), np.uint64(block), np.uint64(1 + group), k0, k1
            )
            for w in range(4):
                word = words[w]
                start = group * 128 + w * 32
                for bit in range(min(32, size - start)):
                    negative = (word >> np.uint64(bit)) & np.uint64(1)
                    sign[block, start + bit] = scale - np.float32(2.0) * scale * np.float32(negative)


@numba.njit(nogil=True, cache=True)
def _accumulate(gradients, out, tensor, size, nonzeros, k0, k1):
    """Add the projection of gradients [b, numel] of one tensor to out [b, s·T]."""
    batch, numel = gradients.shape
    scale = np.float32(1.0 / math.sqrt(nonzeros))
    index = np.empty((nonzeros, size), dtype=np.int32)
    sign = np.empty((nonzeros, size), dtype=np.float32)
    padded = np.zeros(size, dtype=np.float32)
    for tile in range((numel + size - 1) // size):
        _fill_tables(index, sign, tile, tensor, size, scale, k0, k1)
        start = tile * size
        whole = start + size <= numel
        for b in range(batch):
            if whole:
                values = gradients[b, start : start + size]
            else:
                padded[:] = 0
                padded[: numel - start] = gradients[b, start:]
                values = padded
            for block in range(nonzeros):
                target = out[b, block * size : (block + 1) * size]
                for j in range(size):
                    target[j] += sign[block, j] * values[index[block, j]]


class SjltProjector:
    """See `engine.projection.Projector`; the matrix is `definition.sjlt_matrix`."""

    def __init__(self, spec: ProjectionSpec, layout: Layout, checkpoint: int) -> None:
        self.spec, self.layout = spec, layout
        self._size = tile_size(spec)
        self._number = {name: number for number, (name, _) in enumerate(layout)}
        k0, k1 = projection_key(spec, layout, checkpoint)
        self._key = np.uint64(k0), np.uint64(k1)

    def accumulate(self, name: str, gradients: Tensor | np.ndarray, out: np.ndarray) -> None:
        """Add the projection of float32 [B, numel] to out float32 [B, k]."""
        values = as_rows(gradients)
        arguments = (self._number[name], self._size, self.spec.nonzeros, *self._key)
        for_each_part(lambda rows: _accumulate(values[rows], out[rows], *arguments), len(values))


def as_rows(gradients: Tensor | np.ndarray) -> np.ndarray:
    """float32, contiguous; no copy where that is so already."""
    values = gradients.detach().numpy() if isinstance(gradients, Tensor) else gradients
    return np.ascontiguousarray(values, dtype=np.float32)


def for_each_part(work, count: int) -> None:
    """Call `work(rows)` for as many parts of 0 … count − 1 as torch has threads. The work must release the GIL.

    Plain threads rather than numba's, which must not be entered from two threads at once, as an application does.
    """
    threads = max(1, min(torch.get_num_threads(), count))
    if threads == 1:
        work(slice(0, count))
        return
    ends = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, (slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))))
