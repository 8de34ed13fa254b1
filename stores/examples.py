"""examples.parquet, in parts where they are many: one row per example. Row numbers are the rows of every array."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traklens.stores.errors import StoreError
from traklens.stores.layout import EXAMPLES, part_name
from traklens.stores.specs import TaskSpec
from traklens.stores.verified import VerifiedFiles

COMMON = ("id", "group", "source", "split", "attributes")
OF_SCHEMA_1 = {"group": "image_id"}  # as a column was called before
ROWS_PER_PART = 65_536
BLOCK = 10_000
WORDS = "words"  # the title of examples that have no field in words: made by the task


@dataclass(frozen=True)
class Example:
    """One example. `fields` by the task's names: pictures as paths relative to the data set's root (POSIX), texts and
    labels as str, numbers as float, tensors as arrays.

    `group`: examples of one group, such as the captions of one image, never stand on both sides of a split. `split` is
    "train" or "heldout" where the data set says so; `attributes` are further columns.
    """

    id: str
    group: str
    fields: Mapping[str, Any]
    split: str | None
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class ExampleRow(Example):
    """An example as stored: which data set it is from ("dataset" or "targets")."""

    source: str = "dataset"


def columns_of(task: TaskSpec) -> tuple[str, ...]:
    """The fields that stand in the table: all but tensors, and the words where no field is the title."""
    kept = [field.name for field in task.fields if field.kind != "tensor"]
    return (*kept, *([WORDS] if task.title == WORDS else []))


def content_fields(task: TaskSpec) -> list[str]:
    """Names of the texts that the title of an example is about."""
    return [field.name for field in task.fields if field.kind == "text" and field.name != task.title]


def schema_of(task: TaskSpec) -> pa.Schema:
    numbers = {field.name for field in task.fields if field.kind == "number"}
    names = (*COMMON, *columns_of(task))
    return pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in names])


def write_examples(store: Path, task: TaskSpec, rows: Iterable[ExampleRow], *, per_part: int = ROWS_PER_PART) -> None:
    """Write the table part by part; the same rows give the same bytes."""
    schema = schema_of(task)
    for number, part in enumerate(_blocks(iter(rows), per_part)):
        file = store / part_name(EXAMPLES, number)
        with pq.ParquetWriter(
            file, schema, compression="zstd", store_schema=False, write_page_checksum=True
        ) as writer:
            for block in _blocks(iter(part), BLOCK):
                columns = {name: [row.fields.get(name) for row in block] for name in columns_of(task)}
                columns |= {name: [getattr(row, name) for row in block] for name in COMMON if name != "attributes"}
                columns["attributes"] = [
                    json.dumps(dict(row.attributes), sort_keys=True, ensure_ascii=False) for row in block
                ]
                writer.write_table(pa.table(columns, schema=schema))


def _blocks(rows: Iterator[ExampleRow], size: int) -> Iterator[list[ExampleRow]]:
    """Lists of at most `size` rows; an empty one where there are no rows at all."""
    block: list[ExampleRow] = []
    written = False
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block, written = [], True
    if block or not written:
        yield block


class ExampleTable:
    """The table, read only. Columns are object arrays [n]; conversions happen on first use."""

    def __init__(self, store: Path, task: TaskSpec, verified: VerifiedFiles) -> None:
        """Raises StoreError when a file is missing, damaged or lacks a column."""
        self.path, self.task = store / EXAMPLES, task
        numbers = itertools.takewhile(lambda n: part_name(EXAMPLES, n) in verified.facts, itertools.count())
        files = [part_name(EXAMPLES, number) for number in numbers]
        try:
            self._old = OF_SCHEMA_1["group"] in pq.read_schema(verified.file(files[0])).names
            schema = pa.schema([(self._named(field.name), field.type) for field in schema_of(task)])
            parts = [
                pq.read_table(verified.file(name), schema=schema, page_checksum_verification=True) for name in files
            ]
            self._table = pa.concat_tables(parts)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{store / files[0]}",
                f"unreadable ({error})",
                "a readable table of examples",
                "Build the store again.",
            ) from error

    def __len__(self) -> int:
        return self._table.num_rows

    def _named(self, name: str) -> str:
        """How this store calls a column."""
        return OF_SCHEMA_1.get(name, name) if self._old else name

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {}

    def field(self, name: str) -> np.ndarray:
        """A column by its name: objects [n], read only. KeyError when there is none."""
        if name not in self._columns:
            values = self._table[self._named(name)].to_numpy(zero_copy_only=False)
            values.flags.writeable = False
            self._columns[name] = values
        return self._columns[name]

    @property
    def id(self) -> np.ndarray:
        return self.field("id")

    @property
    def group(self) -> np.ndarray:
        """What belongs together: the content of the picture, where there is one."""
        return self.field("group")

    @property
    def source(self) -> np.ndarray:
        return self.field("source")

    @property
    def split(self) -> np.ndarray:
        return self.field("split")

    @property
    def words(self) -> np.ndarray:
        """What people know an example by: its caption, its label, or words that the task made."""
        return self.field(self.task.title)

    def content(self, row: int) -> str:
        """The texts of an example that its words are about, a line each; empty where it is a picture, or words alone."""
        return "\n".join(str(self.field(name)[row]) for name in content_fields(self.task))

    @property
    def image(self) -> np.ndarray:
        """Paths of the pictures; the ids where an example has no picture."""
        name = self.task.first("image")
        return self.id if name is None else self.field(name)

    def attributes(self, row: int) -> dict[str, str]:
        """Further columns of the data set's metadata for one example."""
        return json.loads(self._table["attributes"][row].as_py())

    def example(self, row: int) -> ExampleRow:
        """One row whole; tensors, which are not stored, are missing."""
        fields = {name: self.field(name)[row] for name in columns_of(self.task)}
        return ExampleRow(
            id=str(self.id[row]),
            group=str(self.group[row]),
            fields=fields,
            split=str(self.split[row]),
            attributes=self.attributes(row),
            source=str(self.source[row]),
        )

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
