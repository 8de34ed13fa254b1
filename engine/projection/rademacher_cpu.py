"""The dense ±1/√k projection on the CPU by table lookup: faster than multiplying by a ready matrix.

For eight coordinates there are 256 sums ±g₀ ±g₁ … ±g₇ per sample; they are tabulated once, and every output column
adds the one that its eight sign bits name. So p·k/8 additions instead of p·k, and no sign matrix at any time.
Every output number is summed by one thread in a fixed order: neither batch size nor thread count changes a bit.
It is the reference family, TRAK's own (Park et al. 2023, section 3.2); `sjlt` is far faster.
"""

import numpy as np
from torch import Tensor

from engine.projection.definition import Layout, projection_key
from engine.projection.inputs import as_rows, for_each_part, number_of
from engine.projection.philox import philox_words
from stores.compiled import compiled
from stores.errors import UsageError
from stores.specs import ProjectionSpec

GROUP = 128  # columns whose signs one Philox counter gives
BLOCK = 8192  # coordinates summed apart before they join the total: keeps rounding errors small for large tensors


@compiled()
def _fill_codes(codes, words, first, tensor, first_group, k0, k1):
    """codes uint8 [columns]: bit i is the sign bit of coordinate first + i, columns from 128·first_group on.

    words is scratch, uint32 [4, 8]. Both inner loops are written so that the compiler vectorises them.
    """
    one = np.uint32(1)
    for group in range((codes.size + GROUP - 1) // GROUP):
        for i in range(8):
            w0, w1, w2, w3 = philox_words(
                np.uint64(first + i), np.uint64(tensor), np.uint64(first_group + group), np.uint64(0), k0, k1
            )
            words[0, i], words[1, i], words[2, i], words[3, i] = w0, w1, w2, w3
        for w in range(4):
            start = group * GROUP + w * 32
            part = codes[start : start + 32]
            a, b, c, d = words[w, 0], words[w, 1], words[w, 2], words[w, 3]
            e, f, g, h = words[w, 4], words[w, 5], words[w, 6], words[w, 7]
            for bit in range(part.size):
                s = np.uint32(bit)
                low = (
                    (a >> s & one)
                    | (b >> s & one) << one
                    | (c >> s & one) << np.uint32(2)
                    | (d >> s & one) << np.uint32(3)
                )
                high = (
                    (e >> s & one)
                    | (f >> s & one) << one
                    | (g >> s & one) << np.uint32(2)
                    | (h >> s & one) << np.uint32(3)
                )
                part[bit] = np.uint8(low | high << np.uint32(4))


@compiled()
def _fill_sums(table, low, high, values):
    """table [256, b]: row m is the sum over i of values[i] [b], negated where bit i of m is 1."""
    for m in range(16):
        for b in range(values.shape[1]):
            low[m, b] = high[m, b] = np.float32(0)
        for i in range(4):
            negative = (m >> i) & 1
            x, y, a, c = low[m], high[m], values[i], values[4 + i]
            for b in range(x.size):
                x[b] += -a[b] if negative else a[b]
            for b in range(y.size):
                y[b] += -c[b] if negative else c[b]
    for m in range(256):
        row, x, y = table[m], low[m & 15], high[m >> 4]
        for b in range(row.size):
            row[b] = x[b] + y[b]


@compiled()
def _accumulate(gradients, out, tensor, begin, end, scale, k0, k1):
    """Add the projection of gradients [b, numel] onto columns begin … end − 1 to out [b, k]; begin is 128·integer."""
    batch, numel = gradients.shape
    codes, words = np.empty(end - begin, dtype=np.uint8), np.empty((4, 8), dtype=np.uint32)
    values = np.zeros((8, batch), dtype=np.float32)
    low, high = np.empty((16, batch), dtype=np.float32), np.empty((16, batch), dtype=np.float32)
    table = np.empty((256, batch), dtype=np.float32)
    sums = np.empty((end - begin, batch), dtype=np.float32)
    for block in range(0, numel, BLOCK):
        sums[:] = 0
        for first in range(block, min(block + BLOCK, numel), 8):
            count = min(8, numel - first)
            for i in range(count):
                for b in range(batch):
                    values[i, b] = gradients[b, first + i]
            values[count:] = 0
            _fill_sums(table, low, high, values)
            _fill_codes(codes, words, first, tensor, begin // GROUP, k0, k1)
            for j in range(codes.size):
                target, row = sums[j], table[codes[j]]
                for b in range(target.size):
                    target[b] += row[b]
        for b in range(batch):
            for j in range(codes.size):
                out[b, begin + j] += scale * sums[j, b]


class RademacherProjector:
    """See `engine.projection.Projector`; the matrix is `definition.rademacher_matrix`."""

    def __init__(self, spec: ProjectionSpec, layout: Layout, checkpoint: int) -> None:
        if spec.dim < 1:
            raise UsageError("--proj-dim", str(spec.dim), "1 or more", "Try 2048.")
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
