"""The sparse projection on the CPU: one pass over the gradients, tables made on the fly, fixed order of summation.

For each tile of T = k/s coordinates the s index and sign tables are made once and used for all samples. Every output
number is summed by one thread in the order of the tiles, so neither batch size nor thread count changes a bit.
"""

import math
import threading

import numpy as np
from torch import Tensor

from traklens.engine.projection.definition import Layout, projection_key, tile_size
from traklens.engine.projection.inputs import as_rows, as_table_rows, as_weights, for_each_part, number_of
from traklens.engine.projection.philox import philox_words
from traklens.engine.projection.rows import WIDTH, add_scaled_row, turn_block
from traklens.stores.compiled import compiled
from traklens.stores.specs import ProjectionSpec

# From this many samples and tiles on, turning the tile so that samples are adjacent is worth its cost (measured).
SAMPLES_TO_TURN = 6
TILES_TO_TURN = 4


@compiled()
def _gcd(a, b):
    while b:
        a, b = b, a % b
    return a


@compiled()
def _fill_tables(index, sign, tile, tensor, size, scale, k0, k1):
    """index uint32 and sign float32, both [s, T], of one tile; the signs are multiplied by the scale."""
    for block in range(index.shape[0]):
        w0, w1, _, _ = philox_words(np.uint64(tile), np.uint64(tensor), np.uint64(block), np.uint64(0), k0, k1)
        a, c = np.int64(w0) % size, np.int64(w1) % size
        while _gcd(a, size) != 1:
            a = (a + 1) % size
        _fill_places(index[block], np.uint32(a), np.uint32(c), size)
        for group in range((size + 127) // 128):
            words = philox_words(np.uint64(tile), np.uint64(tensor), np.uint64(block), np.uint64(1 + group), k0, k1)
            for w in range(4):
                start = group * 128 + w * 32
                _fill_signs(sign[block, start : start + 32], np.uint32(words[w]), scale)


@compiled(inline="always")
def _fill_places(index, a, c, size):
    """index[j] = (a·j + c) mod T."""
    if size & (size - 1) == 0:  # vectorises; 32-bit overflow does no harm
        last = np.uint32(size - 1)
        for j in range(index.size):
            index[j] = (a * np.uint32(j) + c) & last
        return
    place = np.int64(c)
    for j in range(size):
        index[j] = place
        place += a
        if place >= size:
            place -= size


@compiled(inline="always")
def _fill_signs(sign, word, scale):
    """sign[bit] = ±scale, minus where the bit is 1."""
    for bit in range(sign.size):
        sign[bit] = scale - np.float32(2.0) * scale * np.float32((word >> np.uint32(bit)) & np.uint32(1))


@compiled()
def _accumulate_few(gradients, out, sums, tensor, size, nonzeros, k0, k1):
    """Add the projection of gradients [b, numel] of one tensor to out [b, s·T], one sample after the other."""
    batch, numel = gradients.shape
    scale = np.float32(1.0 / math.sqrt(nonzeros))
    index = np.empty((nonzeros, size), dtype=np.uint32)
    sign = np.empty((nonzeros, size), dtype=np.float32)
    if numel <= size:  # biases and norms: most outputs get nothing
        _fill_tables(index, sign, 0, tensor, size, scale, k0, k1)
        for block in range(nonzeros):
            filled = np.flatnonzero(index[block] < numel)
            for b in range(batch):
                for j in filled:
                    out[b, block * size + j] += sign[block, j] * gradients[b, index[block, j]]
        return
    padded = np.zeros(size, dtype=np.float32)
    sums = sums[: batch * nonzeros * size].reshape(batch, nonzeros * size)
    sums[:] = 0
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
                target = sums[b, block * size : (block + 1) * size]
                for j in range(size):
                    target[j] += sign[block, j] * values[index[block, j]]
    for b in range(batch):
        for j in range(nonzeros * size):
            out[b, j] += sums[b, j]


@compiled()
def _accumulate_many(gradients, out, sums, tensor, size, nonzeros, k0, k1):
    """The same sums, bit for bit, for sixteen samples at a time: a gathered coordinate is a row of sixteen numbers.

    Memory: k·b + T·16 floats a thread, which stay in the cache.
    """
    batch, numel = gradients.shape
    scale, lots = np.float32(1.0 / math.sqrt(nonzeros)), (batch + WIDTH - 1) // WIDTH
    index = np.empty((nonzeros, size), dtype=np.uint32)
    sign = np.empty((nonzeros, size), dtype=np.float32)
    turned = np.zeros((size, WIDTH), dtype=np.float32)
    sums = sums[: lots * nonzeros * size * WIDTH].reshape(lots, nonzeros * size, WIDTH)
    sums[:] = 0
    for tile in range((numel + size - 1) // size):
        _fill_tables(index, sign, tile, tensor, size, scale, k0, k1)
        start = tile * size
        count = min(size, numel - start)
        for lot in range(lots):
            _turn(turned, gradients, lot * WIDTH, start, count)
            target = sums[lot]
            for block in range(nonzeros):
                for j in range(size):
                    add_scaled_row(target, block * size + j, turned, np.int64(index[block, j]), sign[block, j])  # pyright: ignore[reportCallIssue]
    for lot in range(lots):
        _add_turned(out[lot * WIDTH : (lot + 1) * WIDTH], sums[lot])


@compiled()
def _accumulate_rows(values, ids, entries, out, tensor, size, nonzeros, k0, k1):
    """Add the projection of rows [b, L, d] of a table to out [b, s·T]: the entries (sample, place) in order of their ids.

    The tables of a tile are made once for all rows in it, and turned round: which output takes a coordinate.
    """
    width = values.shape[2]
    scale, made = np.float32(1.0 / math.sqrt(nonzeros)), np.int64(-1)
    index = np.empty((nonzeros, size), dtype=np.uint32)
    sign = np.empty((nonzeros, size), dtype=np.float32)
    taken = np.empty((nonzeros, size), dtype=np.uint32)
    first = 0
    while first < len(entries):
        id = ids[entries[first, 0], entries[first, 1]]
        last = first
        while last < len(entries) and ids[entries[last, 0], entries[last, 1]] == id:
            last += 1
        begin, end = id * width, (id + 1) * width
        for tile in range(begin // size, (end - 1) // size + 1):
            if tile != made:
                _fill_tables(index, sign, tile, tensor, size, scale, k0, k1)
                for block in range(nonzeros):
                    for j in range(size):
                        taken[block, index[block, j]] = j
                made = tile
            start, stop = max(begin, tile * size), min(end, (tile + 1) * size)
            for entry in range(first, last):
                b, place = entries[entry]
                for block in range(nonzeros):
                    for i in range(start, stop):
                        j = taken[block, i - tile * size]
                        out[b, block * size + j] += sign[block, j] * values[b, place, i - begin]
        first = last


@compiled()
def _spread(weights, out, tensor, size, nonzeros, k0, k1):
    """out[i] = Σ_j P[i, j]·weights[j] for the coordinates of one tensor; weights [s·T], out [numel]."""
    scale = np.float32(1.0 / math.sqrt(nonzeros))
    index = np.empty((nonzeros, size), dtype=np.uint32)
    sign = np.empty((nonzeros, size), dtype=np.float32)
    out[:] = 0
    for tile in range((out.size + size - 1) // size):
        _fill_tables(index, sign, tile, tensor, size, scale, k0, k1)
        for block in range(nonzeros):
            for j in range(size):
                place = tile * size + np.int64(index[block, j])
                if place < out.size:
                    out[place] += sign[block, j] * weights[block * size + j]


@compiled()
def _add_turned(out, sums):
    """out[b, j] += sums[j, b] for out [up to 16, k]."""
    block = np.empty((WIDTH, WIDTH), dtype=np.float32)
    whole = sums.shape[0] - sums.shape[0] % WIDTH
    for j in range(0, whole, WIDTH):
        turn_block(block, 0, sums, j, 0)  # pyright: ignore[reportCallIssue]
        for b in range(out.shape[0]):
            row, more = out[b, j : j + WIDTH], block[b]
            for i in range(row.size):
                row[i] += more[i]
    for b in range(out.shape[0]):
        for j in range(whole, sums.shape[0]):
            out[b, j] += sums[j, b]


@compiled()
def _turn(turned, gradients, first, start, count):
    """turned[j, b] = gradients[first + b, start + j] for j < count, zero beyond the samples and the coordinates."""
    rows, whole = min(WIDTH, gradients.shape[0] - first), 0
    if rows == WIDTH:
        whole = count - count % WIDTH
        for j in range(0, whole, WIDTH):
            turn_block(turned, j, gradients, first, start + j)  # pyright: ignore[reportCallIssue]
    else:
        turned[:, rows:] = 0
    for b in range(rows):
        for j in range(whole, count):
            turned[j, b] = gradients[first + b, start + j]
    turned[count:] = 0


class SjltProjector:
    """See `traklens.engine.projection.Projector`; the matrix is `definition.sjlt_matrix`."""

    def __init__(self, spec: ProjectionSpec, layout: Layout, checkpoint: int) -> None:
        self.spec, self.layout = spec, layout
        self._size = tile_size(spec)
        self._number, self._own = number_of(layout), threading.local()
        k0, k1 = projection_key(spec, layout, checkpoint)
        self._key = np.uint64(k0), np.uint64(k1)

    def accumulate(self, name: str, gradients: Tensor | np.ndarray, out: np.ndarray) -> None:
        """Add the projection of [B, numel] to out float32 [B, k]. UsageError where shapes do not fit."""
        number, numel = self._number[name]
        values = as_rows(gradients, name, numel, out, self.spec.dim)
        arguments = (number, self._size, self.spec.nonzeros, *self._key)

        def work(rows: slice) -> None:
            count = rows.stop - rows.start
            many = count >= SAMPLES_TO_TURN and numel >= TILES_TO_TURN * self._size
            sums = self._scratch(-(-count // WIDTH) * WIDTH * self.spec.dim)
            (_accumulate_many if many else _accumulate_few)(values[rows], out[rows], sums, *arguments)

        for_each_part(work, len(values), values.size)

    def accumulate_rows(self, name: str, rows: Tensor, ids: Tensor, out: np.ndarray) -> None:
        """See `TakesRows.accumulate_rows`."""
        number, numel = self._number[name]
        values, of = as_table_rows(rows, ids, name, numel, out, self.spec.dim)
        arguments = (number, self._size, self.spec.nonzeros, *self._key)

        def work(part: slice) -> None:
            some, own = values[part], of[part]
            entries = np.argwhere(some.any(axis=2))  # padding has no gradient
            order = np.argsort(own[entries[:, 0], entries[:, 1]], kind="stable")
            _accumulate_rows(some, own, entries[order], out[part], *arguments)

        for_each_part(work, len(values), values.size)

    def spread(self, name: str, weights: np.ndarray) -> np.ndarray:
        """See `Projector.spread`."""
        number, numel = self._number[name]
        out = np.empty(numel, dtype=np.float32)
        _spread(as_weights(weights, self.spec.dim), out, number, self._size, self.spec.nonzeros, *self._key)
        return out

    def _scratch(self, count: int) -> np.ndarray:
        """At least `count` numbers of this thread's own: fresh memory for every tensor would be mapped anew each time."""
        found = getattr(self._own, "sums", None)
        if found is None or found.size < count:
            found = self._own.sums = np.empty(count, dtype=np.float32)
        return found
