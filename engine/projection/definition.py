"""What the projection matrices are: slow, obvious NumPy. Every fast path is tested against this file.

The specification in words is cuda/README.md.
"""

import hashlib
import json
import math

import numpy as np

from traklens.engine.projection.philox import philox
from traklens.stores.errors import UsageError
from traklens.stores.specs import ProjectionSpec

VERSION = 1  # of the definition; another matrix for the same numbers needs another version
Layout = tuple[tuple[str, int], ...]  # (parameter name, number of coordinates), in order


def projection_key(spec: ProjectionSpec, layout: Layout, checkpoint: int) -> tuple[int, int]:
    """The Philox key: the first eight bytes (two little-endian words) of a SHA-256 over everything P depends on."""
    text = json.dumps(
        {
            "checkpoint": checkpoint,
            "dim": spec.dim,
            "kind": spec.kind,
            "layout": [[name, size] for name, size in layout],
            "nonzeros": spec.nonzeros if spec.kind == "sjlt" else None,
            "seed": spec.seed,
            "version": spec.version,
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], dtype="<u4")
    return int(words[0]), int(words[1])


def tile_size(spec: ProjectionSpec) -> int:
    """T = k / s of the sparse family. UsageError when k is not a multiple of s."""
    if spec.dim < 1 or spec.nonzeros < 1:
        raise UsageError(
            "projection", f"k = {spec.dim}, s = {spec.nonzeros}", "both at least 1", "Try k = 2048, s = 4."
        )
    if spec.dim % spec.nonzeros:
        below = max(spec.dim - spec.dim % spec.nonzeros, spec.nonzeros)
        raise UsageError(
            "dim",
            str(spec.dim),
            f"a multiple of {spec.nonzeros}, the nonzeros per coordinate",
            f"Try {below} or {below + spec.nonzeros}.",
        )
    return spec.dim // spec.nonzeros


def tile_permutation(key: tuple[int, int], tensor: int, tile: int, block: int, size: int) -> np.ndarray:
    """Which coordinate of the tile output j of the block takes: (a·j + c) mod T, int64 [T], a permutation."""
    words = philox(np.array([tile, tensor, block, 0]), key)
    a, c = int(words[0]) % size, int(words[1]) % size
    while math.gcd(a, size) != 1:
        a = (a + 1) % size
    return (a * np.arange(size, dtype=np.int64) + c) % size


def tile_signs(key: tuple[int, int], tensor: int, tile: int, block: int, size: int) -> np.ndarray:
    """The sign of output j of the block: +1 where bit j of the words is 0, −1 where it is 1; float64 [T]."""
    groups = np.arange(-(-size // 128))
    counters = np.stack(
        [np.full_like(groups, tile), np.full_like(groups, tensor), np.full_like(groups, block), 1 + groups],
        axis=-1,
    )
    return _signs(philox(counters, key))[:size]


def _signs(words: np.ndarray) -> np.ndarray:
    """uint32 [..., 4] → float64 [..., 128] flattened: bit b of word w is output 32·w + b."""
    bits = (words[..., None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return 1.0 - 2.0 * bits.reshape(-1).astype(np.float64)


def sjlt_matrix(spec: ProjectionSpec, layout: Layout, checkpoint: int) -> np.ndarray:
    """The sparse P, float64 [p, k]: s nonzeros ±1/√s per coordinate, one per block of T = k/s outputs."""
    key, size = projection_key(spec, layout, checkpoint), tile_size(spec)
    parts = []
    for tensor, (_, numel) in enumerate(layout):
        tiles = -(-numel // size)
        part = np.zeros((tiles * size, spec.dim))
        for tile in range(tiles):
            for block in range(spec.nonzeros):
                rows = tile * size + tile_permutation(key, tensor, tile, block, size)
                columns = block * size + np.arange(size)
                part[rows, columns] = tile_signs(key, tensor, tile, block, size) / math.sqrt(spec.nonzeros)
        parts.append(part[:numel])
    return np.concatenate(parts)


def rademacher_matrix(spec: ProjectionSpec, layout: Layout, checkpoint: int) -> np.ndarray:
    """The dense P, float64 [p, k]: entries ±1/√k."""
    key = projection_key(spec, layout, checkpoint)
    groups = np.arange(-(-spec.dim // 128))
    rows = []
    for tensor, (_, numel) in enumerate(layout):
        for i in range(numel):
            counters = np.stack(
                [np.full_like(groups, i), np.full_like(groups, tensor), groups, np.zeros_like(groups)],
                axis=-1,
            )
            rows.append(_signs(philox(counters, key))[: spec.dim])
    return np.stack(rows) / math.sqrt(spec.dim)


def reference_projection(spec: ProjectionSpec, layout: Layout, checkpoint: int, gradients: np.ndarray) -> np.ndarray:
    """Whole flat gradients [B, p] times P in float64, [B, k]. For tests and small p: P is built in full."""
    matrix = sjlt_matrix if spec.kind == "sjlt" else rademacher_matrix
    return gradients.astype(np.float64) @ matrix(spec, layout, checkpoint)
