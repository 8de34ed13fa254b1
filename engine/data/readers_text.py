"""Examples made of text: tables with a column for each field, one file or a file for each split, in any common form.

Forms: .tsv, .csv, .jsonl, .ndjson, .json (a list of objects), .parquet, .arrow, and folders that Hugging Face's `datasets`
saved to disk.
"""

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from traklens.engine.data.example import Problem, shortened
from traklens.engine.data.packed import arrow_table
from traklens.engine.data.readers_packed import label_names, named
from traklens.engine.data.rows import LABEL_COLUMNS, NO_TEXT, SPLITS, plain, split_named
from traklens.engine.data.survey import Survey, survey
from traklens.engine.data.tables import Record, delimited, header_of, json_lines, json_of
from traklens.stores.errors import DataError
from traklens.stores.specs import FieldSpec

USUAL = {  # the names that a field's column usually has
    "text": ("text", "sentence", "content", "review", "document", "body"),
    "label": LABEL_COLUMNS,
    "input": ("input", "source", "question", "prompt", "instruction", "text"),
    "target": ("target", "answer", "output", "completion", "response", "summary"),
}
LONGEST = 100_000  # characters of one text
LINES, PACKED = (".jsonl", ".ndjson"), (".parquet", ".arrow")
FORMS = "a .tsv, .csv, .jsonl, .json, .parquet or .arrow table, or a folder saved by Hugging Face's datasets"


def text_tables(path: Path) -> tuple[Survey, list[Path]]:
    """The tables of a data set: those named as splits where there are any, else all. DataError where there is none."""
    if not path.exists():
        raise DataError(f"data set {path}", "nothing there", FORMS, "Check the path.")
    there = survey(path)
    tables = [file for file in there.lists if file.suffix.lower() in (".tsv", ".csv", ".json", *LINES, *PACKED)]
    tables = [file for file in tables if not _is_about_a_table(file)]
    if not tables:
        held = [file.name for file in there.lists] or (
            sorted(f.name for f in path.iterdir()) if path.is_dir() else []
        )
        raise DataError(f"data set {path}", shortened(held, 6) or "an empty folder", FORMS, "Name the file.")
    of_splits = [file for file in tables if split_of(file) is not None]
    return there, of_splits or tables


def _is_about_a_table(file: Path) -> bool:
    """Whether a file is one that `datasets` writes beside its tables."""
    return file.name in ("dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json")


def split_of(file: Path) -> str | None:
    """The split that a file's name (train.tsv, test-00000-of-00001.parquet) or its folder says."""
    stem = file.stem.lower()
    named_so = next((split for split in SPLITS if stem == split or stem.startswith((f"{split}-", f"{split}_"))), None)
    return split_named(named_so or file.parent.name)


def columns_of(names: Sequence[str], fields: Sequence[FieldSpec]) -> dict[str, str]:
    """The column of each field among these names; a field that has none is missing."""
    found = {}
    for field in fields:
        usual = (field.column,) if field.column else (field.name, *USUAL.get(field.name, ()))
        column = next((name for name in usual if name in names), None)
        if column is not None:
            found[field.name] = column
    return found


def text_rows(
    there: Survey, files: Sequence[Path], fields: Sequence[FieldSpec]
) -> Iterator[Mapping[str, Any] | Problem]:
    """One mapping per row: a value for each field, "split" where one is named, further columns as they are.

    A table that lacks a column is left out where another has it. Raises DataError where none has.
    """
    lacking: DataError | None = None
    read = 0
    for file in files:
        names = _names(file)
        columns = columns_of(names, fields)
        missing = [field for field in fields if field.name not in columns]
        if missing:
            lacking = lacking or _lacks(file, names, missing[0])
            yield Problem(
                "table without the columns", _name(there, file), f"no {missing[0].column or missing[0].name}"
            )
            continue
        read += 1
        split = split_of(file) if len(files) > 1 else None
        for record in _records(file, fields):
            if isinstance(record, Problem):
                yield record
                continue
            row = dict(record.columns)
            values = {field.name: _words(row.pop(columns[field.name]), field) for field in fields}
            problem = next((p for field in fields if (p := _unusable(values[field.name], field, record.where))), None)
            if problem is not None:
                yield problem
                continue
            split_here = row.pop("split", None)
            further = {f"{name} (column)" if name in values else name: value for name, value in row.items()}
            yield {**further, **values, "split": split_here or split}
    if lacking is not None and not read:
        raise lacking


def _words(value: Any, field: FieldSpec) -> Any:
    """A text in composed characters without the space around it; a label as it is written."""
    if field.kind == "label" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if field.kind == "label" and isinstance(value, int):
        value = str(value)
    return unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else value


def _unusable(value: Any, field: FieldSpec, where: str) -> Problem | None:
    """Why a value is no text to work with."""
    if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value)):
        return Problem(f"no {field.name}", where, "an empty cell")
    if field.kind == "tensor":
        return None
    if not isinstance(value, str):
        return Problem(f"{field.name} that is no text", where, str(plain(value))[:60])
    if NO_TEXT.search(value):
        return Problem("not text", where, f"bytes that are no UTF-8, or a zero byte, in {field.name}")
    if len(value) > LONGEST:
        return Problem(f"overlong {field.name}", where, f"{len(value):,} characters, at most {LONGEST:,}")
    return None


def _lacks(file: Path, names: Sequence[str], field: FieldSpec) -> DataError:
    what = field.column or " or ".join((field.name, *USUAL.get(field.name, ())))
    option = {"label": "--label-column", "input": "--input-column", "target": "--target-column"}
    return DataError(
        f"{file}",
        "columns " + shortened(list(names), 12),
        f"a {field.name} column ({what})",
        f"Name it with {option.get(field.name, '--text-column')}.",
    )


def _name(there: Survey, file: Path) -> str:
    return file.relative_to(there.root).as_posix() if file.is_relative_to(there.root) else str(file)


def _names(file: Path) -> list[str]:
    """Column names of a table; none where it cannot be read."""
    kind = file.suffix.lower()
    try:
        if kind in PACKED:
            return _schema(file).names
        if kind == ".json":
            return list(next((row for row in json_of(file) or [] if isinstance(row, dict)), {}))
        if kind in LINES:
            first = next((record for record in json_lines(file) if isinstance(record, Record)), None)
            return list(first.columns) if first else []
        return header_of(file)[1]
    except (DataError, OSError, TypeError, pa.ArrowException):
        return []


def _schema(file: Path) -> pa.Schema:
    if file.suffix.lower() == ".parquet":
        return pq.read_schema(file)
    return arrow_table(file, file.stat().st_mtime_ns).schema


def _records(file: Path, fields: Sequence[FieldSpec]) -> Iterator[Record | Problem]:
    kind = file.suffix.lower()
    if kind in PACKED:
        labelled = any(field.kind == "label" for field in fields)
        try:
            names = label_names(_schema(file)) if labelled else {}
            table = pq.read_table(file) if kind == ".parquet" else arrow_table(file, file.stat().st_mtime_ns)
            for row, columns in enumerate(table.to_pylist()):
                yield Record(named(columns, names), f"row {row} of {file.name}")
        except (OSError, pa.ArrowException) as error:
            yield Problem("damaged table", file.name, str(error))
    elif kind == ".json":
        rows = json_of(file)
        for number, row in enumerate(rows if isinstance(rows, list) else [], start=1):
            place = f"object {number} of {file.name}"
            yield Record(row, place) if isinstance(row, dict) else Problem("no object", place, str(row)[:60])
    elif kind in LINES:
        yield from json_lines(file)
    else:
        yield from delimited(file, header_of(file)[0])
