"""How the CUDA kernels are launched: pure arithmetic, tested without a GPU. The kernels are in cuda/projection.cu.

A tensor is cut into parts by its size alone, never by the device or the batch, so that the order of summation, and with it
every bit, is the same on every GPU.
"""

from dataclasses import dataclass

from traklens.stores.errors import UsageError

KINDS = {"float32": 0, "bfloat16": 1, "float16": 2}
MOST_PARTS = 128
TILES_PER_PART = 64  # at least: writing and reading the sums of a part costs as much as 2·s tiles
COORDINATES_PER_PART = 8_192
SHARED_WORDS = 56 * 1024  # 224 KiB: what a block of an H100 may ask for
STEP, SAMPLES, COLUMNS = 64, 64, 512  # of the dense kernel
# (most outputs, threads, outputs of a thread, samples of a block): as many sums as fit the registers, tile read once.
SJLT_SHAPES = ((2_048, 256, 8, 8), (4_096, 512, 8, 8), (8_192, 512, 16, 4), (16_384, 512, 32, 2))


@dataclass(frozen=True)
class Launch:
    """Template arguments, grid, block, dynamic shared memory in bytes, and how the coordinates are cut."""

    template: tuple[int, ...]
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    parts: int
    per_part: int


def sjlt_launch(kind: str, batch: int, numel: int, size: int, nonzeros: int) -> Launch:
    """The sparse kernel for gradients [batch, numel]; per_part counts tiles. UsageError for a tile that does not fit."""
    outputs = size * nonzeros
    _, threads, per_thread, rows = next((s for s in SJLT_SHAPES if outputs <= s[0]), SJLT_SHAPES[-1])
    per_word = 1 if kind == "float32" else 2
    words = 2 * (rows // per_word * size + nonzeros * (-(-size // 128) * 4 + 2))
    if words > SHARED_WORDS:
        raise UsageError(
            "dim",
            f"{outputs} with {nonzeros} nonzeros per coordinate: tiles of {size}",
            f"tiles that fit a GPU's shared memory ({SHARED_WORDS * 4 // 1024} KiB)",
            "Raise the nonzeros, lower the dimension, or project on the CPU.",
        )
    tiles = -(-numel // size)
    per_part = max(TILES_PER_PART, -(-tiles // MOST_PARTS))
    parts = -(-tiles // per_part)
    grid = (parts, -(-batch // rows), -(-outputs // (threads * per_thread)))
    return Launch((KINDS[kind], threads, per_thread, rows), grid, threads, 4 * words, parts, per_part)


def rademacher_launch(kind: str, batch: int, numel: int, dim: int) -> Launch:
    """The dense kernel for gradients [batch, numel]; per_part counts coordinates, a multiple of 64."""
    per_part = max(COORDINATES_PER_PART, -(-numel // (MOST_PARTS * STEP)) * STEP)
    parts = -(-numel // per_part)
    splits = 3 if kind == "float32" else 1
    words = splits * SAMPLES * (STEP // 2 + 4) + COLUMNS // 128 * STEP * 4
    grid = (parts, -(-dim // COLUMNS), -(-batch // SAMPLES))
    return Launch((KINDS[kind],), grid, 256, 4 * words, parts, per_part)
