"""The dense ±1/√k projection on the CPU by table lookup: faster than multiplying by a ready matrix.

For eight coordinates there are 256 sums ±g₀ ±g₁ … ±g₇ per sample; they are tabulated once, and every output column
adds the one that its eight sign bits name, two such tables at a time. So p·k/8 additions instead of p·k, and no sign
matrix at any time. Rows are LLVM vectors (rows.py): the code does not hang on what the compiler makes of a processor's name.
Every output number is summed by one thread in a fixed order: neither batch size nor thread count changes a bit.
It is the reference family, TRAK's own (Park et al. 2023, section 3.2); `sjlt` is far faster.
"""

import numpy as np
from torch import Tensor

from traklens.engine.projection.definition import Layout, projection_key
from traklens.engine.projection.inputs import as_rows, as_weights, for_each_part, number_of
from traklens.engine.projection.rows import WIDTH, add_two_rows, put_two_rows
from traklens.engine.projection.signs import fill_signs
from traklens.stores.compiled import compiled
from traklens.stores.errors import UsageError
from traklens.stores.specs import ProjectionSpec

GROUP = 128  # columns whose signs one Philox counter gives
BLOCK = 8192  # coordinates summed apart before they join the total: keeps rounding errors small for large tensors


@compiled()
def _fill_sums(table, low, high, values, first):
    """table [256, 16]: row m is the sum over i < 8 of values[first + i] [16], negated where bit i of m is 1."""
    for m in range(16):
        for b in range(WIDTH):
            x = y = np.float32(0)
            for i in range(4):
                a, c = values[first + i, b], values[first + 4 + i, b]
                negative = (m >> i) & 1
                x += -a if negative else a
                y += -c if negative else c
            low[m, b], high[m, b] = x, y
    for m in range(256):
        put_two_rows(table, np.int64(m), low, np.int64(m & 15), high, np.int64(m >> 4))  # pyright: ignore[reportCallIssue]


@compiled()
def _accumulate(gradients, out, tensor, begin, end, scale, k0, k1):
    """Add the projection of gradients [b, numel] onto columns begin … end − 1 to out [b, k]; begin is 128·integer.

    Sixteen samples and sixteen coordinates at a time: two tables of 16 KiB stay in the first cache, and every sum is read
    and written once for sixteen coordinates.
    """
    batch, numel = gradients.shape
    lots, columns = (batch + WIDTH - 1) // WIDTH, end - begin
    groups = (columns + GROUP - 1) // GROUP
    codes = np.empty(groups * GROUP, dtype=np.uint16)
    values = np.zeros((WIDTH, WIDTH), dtype=np.float32)
    low, high = np.empty((16, WIDTH), dtype=np.float32), np.empty((16, WIDTH), dtype=np.float32)
    one, other = np.empty((256, WIDTH), dtype=np.float32), np.empty((256, WIDTH), dtype=np.float32)
    sums = np.empty((lots, columns, WIDTH), dtype=np.float32)
    for block in range(0, numel, BLOCK):
        sums[:] = 0
        for first in range(block, min(block + BLOCK, numel), 16):
            count = min(16, numel - first)
            for group in range(groups):
                fill_signs(  # pyright: ignore[reportCallIssue]
                    codes, np.int64(group * GROUP), np.uint64(first), np.uint64(tensor), np.uint64(begin // GROUP + group),
                    k0, k1,
                )  # fmt: skip
            for lot in range(lots):
                values[:] = 0
                for b in range(min(WIDTH, batch - lot * WIDTH)):
                    for i in range(count):
                        values[i, b] = gradients[lot * WIDTH + b, first + i]
                _fill_sums(one, low, high, values, 0)
                _fill_sums(other, low, high, values, 8)
                into = sums[lot]
                for j in range(columns):
                    code = np.int64(codes[j])
                    add_two_rows(into, j, one, code & 255, other, code >> 8)  # pyright: ignore[reportCallIssue]
        for b in range(batch):
            for j in range(columns):
                out[b, begin + j] += scale * sums[b // WIDTH, j, b % WIDTH]


@compiled()
def _spread(weights, out, tensor, scale, k0, k1):
    """out[i] = Σ_j P[i, j]·weights[j] for the coordinates of one tensor; weights [k], out [numel]."""
    columns = weights.size
    groups = (columns + GROUP - 1) // GROUP
    codes = np.empty(groups * GROUP, dtype=np.uint16)
    for first in range(0, out.size, 16):
        for group in range(groups):
            fill_signs(  # pyright: ignore[reportCallIssue]
                codes, np.int64(group * GROUP), np.uint64(first), np.uint64(tensor), np.uint64(group), k0, k1
            )
        for i in range(min(16, out.size - first)):
            total = np.float32(0)
            for j in range(columns):
                total += -weights[j] if (codes[j] >> i) & 1 else weights[j]
            out[first + i] = scale * total


class RademacherProjector:
    """See `traklens.engine.projection.Projector`; the matrix is `definition.rademacher_matrix`."""

    def __init__(self, spec: ProjectionSpec, layout: Layout, checkpoint: int) -> None:
        if spec.dim < 1:
            raise UsageError("dim", str(spec.dim), "1 or more", "Try 2048.")
        self.spec, self.layout = spec, layout
        self._number = number_of(layout)
        self._scale = np.float32(1.0 / np.sqrt(spec.dim))
        k0, k1 = projection_key(spec, layout, checkpoint)
        self._key = np.uint64(k0), np.uint64(k1)

    def accumulate(self, name: str, gradients: Tensor | np.ndarray, out: np.ndarray) -> None:
        """Add the projection of [B, numel] to out float32 [B, k]. UsageError where shapes do not fit."""
        number, numel = self._number[name]
        values = as_rows(gradients, name, numel, out, self.spec.dim)

        def work(groups: slice) -> None:
            begin, end = groups.start * GROUP, min(groups.stop * GROUP, self.spec.dim)
            _accumulate(values, out, number, begin, end, self._scale, *self._key)

        # Threads share the columns: each makes its own signs, nobody makes them twice.
        for_each_part(work, -(-self.spec.dim // GROUP), values.size * 8)

    def spread(self, name: str, weights: np.ndarray) -> np.ndarray:
        """See `Projector.spread`."""
        number, numel = self._number[name]
        out = np.empty(numel, dtype=np.float32)
        _spread(as_weights(weights, self.spec.dim), out, number, self._scale, *self._key)
        return out
