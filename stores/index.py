"""Exact inner-product search over float16 rows: a FAISS `IndexScalarQuantizer` (QT_fp16) written row by row.

`search(q)` finds the largest products, `search(−q)` the smallest. Rows are stored times a
power of two (`scale`) so that they use the range of float16; scores are divided by it again.
"""

import json
import struct
from functools import cached_property
from pathlib import Path

import numpy as np

from traklens.stores.atomic import write_json
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.verified import VerifiedFiles

try:
    import faiss
except ModuleNotFoundError as error:
    raise UsageError(
        "FAISS",
        "nothing installed",
        "one of faiss-cpu and faiss-gpu",
        'Install "traklens[cpu]", or "[gpu]" with an NVIDIA GPU.',
    ) from error

COUNT_OFFSET = 8  # of `ntotal`, int64, in the serialised index
BLOCK_NUMBERS = 1 << 22  # float16 numbers copied at a time when some rows are wanted
LARGEST = 65504.0  # of float16


def scale_for(largest: float) -> float:
    """The power of two that brings the largest magnitude of the rows to between 2¹³ and 2¹⁴."""
    if not np.isfinite(largest) or largest <= 0:
        return 1.0
    return float(2.0 ** (14 - np.ceil(np.log2(largest))))


def _empty_index(dim: int) -> bytes:
    index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    return faiss.serialize_index(index).tobytes()


class IndexWriter:
    """Writes NAME.faiss and NAME.json; memory does not grow with the number of rows."""

    def __init__(self, directory: Path, name: str, dim: int, scale: float) -> None:
        self.path, self.facts = directory / f"{name}.faiss", directory / f"{name}.json"
        self.dim, self.scale, self.count = dim, scale, 0
        self._header = _empty_index(dim)
        self._file = self.path.open("wb")
        self._file.write(self._header)

    def append(self, rows: np.ndarray) -> None:
        """Add rows float32 [b, dim]. StoreError when one does not fit float16 or is not finite."""
        scaled = rows * np.float32(self.scale)
        if not np.isfinite(scaled).all() or np.abs(scaled).max(initial=0) > LARGEST:
            raise StoreError(
                f"{self.path.name}",
                f"a row near {self.count} that is not finite or too large",
                f"magnitudes up to {LARGEST / self.scale:.3g}",
                "Look at the features of those pairs.",
            )
        self._file.write(scaled.astype("<f2").tobytes())
        self.count += len(rows)

    def close(self) -> None:
        """Fill in the counts that the header lacks."""
        self._file.seek(COUNT_OFFSET)
        self._file.write(struct.pack("<q", self.count))
        self._file.seek(len(self._header) - 8)
        self._file.write(struct.pack("<q", self.count * self.dim * 2))
        self._file.close()
        write_json(
            self.facts,
            {
                "dim": self.dim,
                "count": self.count,
                "scale": self.scale,
                "metric": "inner product",
                "type": "fp16",
            },
        )


class VectorIndex:
    """An index opened read only; the rows stay in the file and are mapped into memory."""

    def __init__(self, directory: Path, name: str, verified: VerifiedFiles | None = None) -> None:
        """`verified` compares what is read with the store's checksums; None for an index that is still being built.

        Raises StoreError for a missing, truncated, damaged or foreign index.
        """
        self.path, self._verified = directory / f"{name}.faiss", verified
        try:
            if verified is not None:
                verified.file(f"{name}.json")
            facts = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
            self.dim, self.count, self.scale = int(facts["dim"]), int(facts["count"]), float(facts["scale"])
            self._header_bytes = len(_empty_index(self.dim))
            expected, found = self._header_bytes + 2 * self.dim * self.count, self.path.stat().st_size
            if found != expected:
                raise StoreError(f"{self.path}", f"{found} bytes", f"{expected} bytes", "Build the store again.")
            self._verify(0, self._header_bytes)
            self._index = faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP_IFC)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError) as error:
            raise StoreError(
                f"{self.path}", f"unreadable ({error})", "a FAISS index", "Build the store again."
            ) from error

    def search(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """The `top` largest inner products: queries [q, dim] → scores float32, rows int64, each [q, min(top, n)]."""
        self._check(queries)
        self._verify_rows(0, self.count)
        scores, rows = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), min(top, self.count))
        return scores / np.float32(self.scale), rows

    def extremes(self, query: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Largest and smallest inner products: (scores, rows) descending, (scores, rows) ascending; ties by row.

        The rankings of `search(q)` and `search(−q)` from one pass over the rows.
        """
        scores = self.scores(query)
        best, worst = _first(-scores, top), _first(scores, top)
        return scores[best], best, scores[worst], worst

    @cached_property
    def _codes(self) -> np.ndarray:
        if not self.count:
            return np.zeros((0, self.dim), dtype="<f2")
        return np.memmap(self.path, "<f2", mode="r", offset=self._header_bytes, shape=(self.count, self.dim))

    def rows(self, which: slice | np.ndarray) -> np.ndarray:
        """Some rows as they were given, up to float16 rounding: float32 [b, dim]."""
        self._verify_some(np.arange(self.count)[which])
        return self._codes[which].astype(np.float32) / np.float32(self.scale)

    def scores(self, query: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Inner products with every row, or with the given ones: query [dim] → float32 [n]."""
        self._check(query[None])
        from traklens.stores.inner_products import products

        if rows is None:
            self._verify_rows(0, self.count)
            return products(self._codes, query) / np.float32(self.scale)
        self._verify_some(rows)
        found = np.empty(len(rows), dtype=np.float32)
        block = max(1, BLOCK_NUMBERS // self.dim)
        for start in range(0, len(rows), block):
            found[start : start + block] = products(self._codes[rows[start : start + block]], query)
        return found / np.float32(self.scale)

    def _verify(self, start: int, stop: int) -> None:
        if self._verified is not None:
            self._verified.part(self.path.name, start, stop)

    def _verify_rows(self, start: int, stop: int) -> None:
        row = 2 * self.dim
        self._verify(self._header_bytes + start * row, self._header_bytes + stop * row)

    def _verify_some(self, rows: np.ndarray) -> None:
        if self._verified is not None:
            for row in rows:
                self._verify_rows(int(row), int(row) + 1)

    def _check(self, queries: np.ndarray) -> None:
        if queries.shape[-1] != self.dim:
            raise StoreError(
                f"{self.path}",
                f"a query of {queries.shape[-1]} numbers",
                f"{self.dim}",
                "Query the store it came from.",
            )


def _first(values: np.ndarray, top: int) -> np.ndarray:
    """Positions of the `top` smallest values, ascending; equal values in order of position."""
    top = min(top, len(values))
    if top == 0:
        return np.zeros(0, dtype=np.int64)
    limit = np.partition(values, top - 1)[top - 1]
    chosen = np.flatnonzero(values <= limit)
    return chosen[np.argsort(values[chosen], kind="stable")][:top]


def recall_against(index: VectorIndex, exact: np.ndarray, queries: np.ndarray, top: int = 10) -> dict[str, float]:
    """Share of the true top rows that the index finds, in both directions.

    exact [q, n] are the inner products in float64, queries [q, dim] → {"proponents": share, "opponents": share}.
    """
    top = min(top, exact.shape[1])
    found = {}
    for name, sign in (("proponents", 1.0), ("opponents", -1.0)):
        _, got = index.search(sign * queries, top)
        want = np.argsort(-sign * exact, axis=1)[:, :top]
        found[name] = float(
            np.mean([len({*a} & {*b}) / top for a, b in zip(got.tolist(), want.tolist(), strict=True)])
        )
    return found
