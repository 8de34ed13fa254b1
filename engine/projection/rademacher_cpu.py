"""The dense ±1 projection on the CPU: signs are made for a block of coordinates at a time and multiplied by BLAS.

Memory is bounded by the block; the whole matrix never exists. It is the reference family, TRAK's own; `sjlt` is far
faster.
"""

import numba
import numpy as np
from torch import Tensor

from engine.projection.definition import Layout, projection_key
from engine.projection.philox import philox_words
from engine.projection.sjlt_cpu import as_rows, for_each_part
from stores.errors import UsageError
from stores.specs import ProjectionSpec

BLOCK = 512  # coordinates whose signs exist at a time


@numba.njit(nogil=True, cache=True)
def _fill_signs(signs, start, tensor, scale, k0, k1):
    """signs float32 [b, k] of coordinates start … start + b − 1 of a tensor."""
    rows, dim = signs.shape
    for i in range(rows):
        for group in range((dim + 127) // 128):
            words = philox_words(
                np.uint64(start + i), np.uint64(tensor), np.uint64(group), np.uint64(0), k0, k1
            )
            for w in range(4):
                word = words[w]
                first = group * 128 + w * 32
                for bit in range(min(32, dim - first)):
                    negative = (word >> np.uint64(bit)) & np.uint64(1)
                    signs[i, first + bit] = scale - np.float32(2.0) * scale * np.float32(negative)


class RademacherProjector:
    """See `engine.projection.Projector`; the matrix is `definition.rademacher_matrix`."""

    def __init__(self, spec: ProjectionSpec, layout: Layout, checkpoint: int) -> None:
        if spec.dim < 1:
            raise UsageError("--proj-dim", str(spec.dim), "1 or more", "Try 2048.")
        self.spec, self.layout = spec, layout
        self._number = {name: number for number, (name, _) in enumerate(layout)}
        self._scale = np.float32(1.0 / np.sqrt(spec.dim))
        k0, k1 = projection_key(spec, layout, checkpoint)
        self._key = np.uint64(k0), np.uint64(k1)

    def accumulate(self, name: str, gradients: Tensor | np.ndarray, out: np.ndarray) -> None:
        """Add the projection of float32 [B, numel] to out float32 [B, k]."""
        values = as_rows(gradients)
        numel = values.shape[1]
        signs = np.empty((min(BLOCK, numel), self.spec.dim), dtype=np.float32)
        for start in range(0, numel, BLOCK):
            count = min(BLOCK, numel - start)

            def fill(rows: slice, start: int = start) -> None:
                _fill_signs(signs[rows], start + rows.start, self._number[name], self._scale, *self._key)

            for_each_part(fill, count)
            out += values[:, start : start + count] @ signs[:count]
