"""examples.parquet: one row per pair, training pairs first. Row numbers are the rows of every array."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traklens.stores.errors import StoreError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image_id", pa.string()),
        ("image", pa.string()),
        ("source", pa.string()),
        ("caption", pa.string()),
        ("split", pa.string()),
        ("attributes", pa.string()),
    ]
)


@dataclass(frozen=True)
class ExampleRow:
    """One pair as stored. `image` is relative to the root of `source` ("dataset" or "targets"), POSIX."""

    id: str
    image_id: str
    image: str
    source: str
    caption: str
    split: str
    attributes: Mapping[str, str]


def write_examples(path: Path, rows: Iterable[ExampleRow], block: int = 10_000) -> None:
    """Write the table block by block; the same rows give the same bytes."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", store_schema=False, write_page_checksum=True) as writer:
        pending: list[ExampleRow] = []

        def flush() -> None:
            columns = {name: [getattr(row, name) for row in pending] for name in SCHEMA.names if name != "attributes"}
            columns["attributes"] = [
                json.dumps(dict(row.attributes), sort_keys=True, ensure_ascii=False) for row in pending
            ]
            writer.write_table(pa.table(columns, schema=SCHEMA))
            pending.clear()

        for row in rows:
            pending.append(row)
            if len(pending) == block:
                flush()
        if pending:
            flush()


class ExampleTable:
    """The table, read only. Columns are object arrays of str [n]; conversions happen on first use."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError when the file is missing, damaged or lacks a column."""
        try:
            self._table = pq.read_table(path, schema=SCHEMA, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{path}", f"unreadable ({error})", "a readable table of pairs", "Build the store again."
            ) from error
        self.path = path

    def __len__(self) -> int:
        return self._table.num_rows

    def _column(self, name: str) -> np.ndarray:
        values = self._table[name].to_numpy(zero_copy_only=False)
        values.flags.writeable = False
        return values

    @cached_property
    def id(self) -> np.ndarray:
        return self._column("id")

    @cached_property
    def image_id(self) -> np.ndarray:
        return self._column("image_id")

    @cached_property
    def image(self) -> np.ndarray:
        return self._column("image")

    @cached_property
    def source(self) -> np.ndarray:
        return self._column("source")

    @cached_property
    def caption(self) -> np.ndarray:
        return self._column("caption")

    @cached_property
    def split(self) -> np.ndarray:
        return self._column("split")

    def attributes(self, row: int) -> dict[str, str]:
        """Further columns of the data set's metadata for one pair."""
        return json.loads(self._table["attributes"][row].as_py())

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {id_: row for row, id_ in enumerate(self.id)}

    def find(self, id_: str) -> int | None:
        """Row of an example id; None when there is none."""
        return self._rows.get(id_)

    def row_of(self, id_: str) -> int:
        """Row of an example id. Raises StoreError when there is none."""
        try:
            return self._rows[id_]
        except KeyError:
            raise StoreError(
                f"pair {id_!r}",
                "no such id in this store",
                "one of its ids",
                "List them with `traklens query` or the app.",
            ) from None
