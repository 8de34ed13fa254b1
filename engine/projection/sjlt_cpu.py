"""The sparse projection on the CPU: one pass over the gradients, tables made on the fly, fixed order of summation.

For each tile of T = k/s coordinates the s index and sign tables are made once and used for all samples. Every output
number is summed by one thread in the order of the tiles, so neither batch size nor thread count changes a bit.
"""

import math

import numba
import numpy as np
from torch import Tensor

from engine.projection.definition import Layout, projection_key, tile_size
from engine.projection.inputs import as_rows, for_each_part, number_of
from engine.projection.philox import philox_words
from stores.specs import ProjectionSpec

# From this many samples and tiles on, turning the tile so that samples are adjacent is worth its cost (measured).
SAMPLES_TO_TURN = 6
TILES_TO_TURN = 4


@numba.njit(nogil=True, cache=True)
def _gcd(a, b):
    while b:
        a, b = b, a % b
    return a


@numba.njit(nogil=True, cache=True)
def _fill_tables(index, sign, tile, tensor, size, scale, k0, k1):
    """index uint32 and sign float32, both [s, T], of one tile; the signs are multiplied by the scale."""
    for block in range(index.shape[0]):
        w0, w1, _, _ = philox_words(np.uint64(tile), np.uint64(tensor), np.uint64(block), np.uint64(0), k0, k1)
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
            words = philox_words(np.uint64(tile), np.uint64(tensor), np.uint64(block), np.uint64(1 + group), k0, k1)
            for w in range(4):
                word = words[w]
                start = group * 128 + w * 32
                for bit in range(min(32, size - start)):
                    negative = (word >> np.uint64(bit)) & np.uint64(1)
                    sign[block, start + bit] = scale - np.float32(2.0) * scale * np.float32(negative)


@numba.njit(nogil=True, cache=True)
def _accumulate_few(gradients, out, tensor, size, nonzeros, k0, k1):
    """Add the projection of gradients [b, numel] of one tensor to out [b, s·T], one sample after the other."""
    batch, numel = gradients.shape
    scale = np.float32(1.0 / math.sqrt(nonzeros))
    index = np.empty((nonzeros, size), dtype=np.uint32)
    sign = np.empty((nonzeros, size), dtype=np.float32)
    padded = np.zeros(size, dtype=np.float32)
    for tile in range((numel + size - 1) // size):
        _fill_tables(index, sign, tile, tensor, size, scale, k0, k1)
        start = tile * size
        for b in range(batch):
            values = gradients[b, start : start + size]
            if values.size < size:
                for j in range(values.size):
                    padded[j] = values[j]
                values = padded
            for block in range(nonzeros):
                target = out[b, block * size : (block + 1) * size]
                for j in range(size):
                    target[j] += sign[block, j] * values[index[block, j]]


@numba.njit(nogil=True, cache=True)
def _accumulate_many(gradients, out, tensor, size, nonzeros, k0, k1):
    """The same sums, bit for bit, with samples adjacent: a gathered coordinate is a vector of all samples.

    The innermost loops run over samples through one-dimensional views of run-time length: only so does the compiler
    vectorise them. Memory: (k + T)·b floats, which stay in the cache.
    """
    batch, numel = gradients.shape
    scale = np.float32(1.0 / math.sqrt(nonzeros))
    index = np.empty((nonzeros, size), dtype=np.uint32)
    sign = np.empty((nonzeros, size), dtype=np.float32)
    turned = np.zeros((size, batch), dtype=np.float32)
    sums = np.empty((nonzeros * size, batch), dtype=np.float32)
    for b in range(batch):
        for j in range(nonzeros * size):
            sums[j, b] = out[b, j]
    for tile in range((numel + size - 1) // size):
        _fill_tables(index, sign, tile, tensor, size, scale, k0, k1)
        start = tile * size
        count = min(size, numel - start)
        for j in range(count):
            for b in range(batch):
                turned[j, b] = gradients[b, start + j]
        for j in range(count, size):
            for b in range(batch):
                turned[j, b] = np.float32(0)
        for block in range(nonzeros):
            for j in range(size):
                factor = sign[block, j]
                target, values = sums[block * size + j], turned[index[block, j]]
                for b in range(target.size):
                    target[b] += factor * values[b]
    for b in range(batch):
        for j in range(nonzeros * size):
            out[b, j] = sums[j, b]


class SjltProjector:
    """See `engine.projection.Projector`; the matrix is `definition.sjlt_matrix`."""

    def __init__(self, spec: ProjectionSpec, layout: Layout, checkpoint: int) -> None:
        self.spec, self.layout = spec, layout
        self._size = tile_size(spec)
        self._number = number_of(layout)
        k0, k1 = projection_key(spec, layout, checkpoint)
        self._key = np.uint64(k0), np.uint64(k1)

    def accumulate(self, name: str, gradients: Tensor | np.ndarray, out: np.ndarray) -> None:
        """Add the projection of [B, numel] to out float32 [B, k]. UsageError where shapes do not fit."""
        number, numel = self._number[name]
        values = as_rows(gradients, name, numel, out, self.spec.dim)
        arguments = (number, self._size, self.spec.nonzeros, *self._key)

        def work(rows: slice) -> None:
            many = rows.stop - rows.start >= SAMPLES_TO_TURN and numel >= TILES_TO_TURN * self._size
            (_accumulate_many if many else _accumulate_few)(values[rows], out[rows], *arguments)

        for_each_part(work, len(values), values.size)
