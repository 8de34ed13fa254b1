"""The values of an example: what its fields hold, read from where they lie; and examples of a task's own making."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from traklens.engine.data.example import Problem
from traklens.engine.data.images import open_image
from traklens.engine.data.packed import open_stored, read_image
from traklens.engine.data.rows import plain, split_named
from traklens.engine.data.tables import Record, delimited, header_of, json_lines
from traklens.stores.errors import DataError, TrakLensError
from traklens.stores.examples import Example
from traklens.stores.specs import FieldSpec

GROUP = "\0group"  # no column is called so: what an example belongs with, as a reader says it
ARRAYS = (".npz", ".safetensors")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def values_of(root: Path, example: Example, fields: Sequence[FieldSpec]) -> dict[str, Any]:
    """An example read: pictures decoded (PIL, RGB), everything else as it is; and its "group".

    DataError names a picture that is missing or none.
    """
    found: dict[str, Any] = {"group": example.group}
    for field in fields:
        value = example.fields[field.name]
        found[field.name] = _picture(root, value) if field.kind == "image" else value
    return found


def _picture(root: Path, value: Any) -> Image.Image:
    if isinstance(value, str):
        return open_stored(root, value)
    if isinstance(value, bytes):
        return open_image(io.BytesIO(value))
    if isinstance(value, np.ndarray):
        return Image.fromarray(value).convert("RGB")
    return value.convert("RGB")


def read_values(path: Path, fields: Sequence[FieldSpec]) -> Iterator[Mapping[str, Any] | Problem]:
    """Examples of a table or of arrays whose columns are called as the fields; further columns come along.

    Forms: .npz and .safetensors with arrays of n rows each; .csv, .tsv, .jsonl, .parquet; a folder with one such file.
    Raises DataError for anything else and where a field has no column.
    """
    file = _one_file(path, fields)
    if file.suffix in ARRAYS:
        arrays = _arrays(file)
        _check_columns(file, list(arrays), fields)
        counts = {name: len(values) if values.ndim else 0 for name, values in arrays.items()}
        if len(set(counts.values())) != 1:
            raise DataError(f"{file}", f"rows {counts}", "arrays of equally many rows", "Correct the file.")
        for row in range(next(iter(counts.values()))):
            yield {name: values[row] for name, values in arrays.items()}
        return
    checked = False
    for record in _records(file):
        if isinstance(record, Record) and not checked:
            _check_columns(file, list(record.columns), fields)
            checked = True
        yield record.columns if isinstance(record, Record) else record


def _one_file(path: Path, fields: Sequence[FieldSpec]) -> Path:
    wanted = (*ARRAYS, *TABLES)
    names = ", ".join(field.name for field in fields)
    expected = f"one file with columns or arrays {names} ({', '.join(wanted)}), or a task with a method read(path)"
    if path.is_file() and path.suffix in wanted:
        return path
    if not path.exists():
        raise DataError(f"data set {path}", "nothing there", expected, "Check the path.")
    found = sorted(f for f in path.iterdir() if f.suffix in wanted) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    what = ", ".join(f.name for f in found[:6]) or "no such file"
    raise DataError(f"data set {path}", what, expected, "Name the file, or give the task a method read(path).")


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as opened:
                return {name: opened[name] for name in opened.files}
        from safetensors.numpy import load_file

        return load_file(file)
    except Exception as error:  # numpy, zipfile and safetensors each raise their own
        raise DataError(f"{file}", f"unreadable ({error})", "arrays without objects", "Check the file.") from error


def _records(file: Path) -> Iterator[Record | Problem]:
    if file.suffix == ".parquet":
        try:
            for number, columns in enumerate(pq.read_table(file).to_pylist(), start=1):
                yield Record(columns, f"row {number} of {file.name}")
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}", f"unreadable ({error})", "a Parquet table", "Check the file.") from error
    elif file.suffix in (".jsonl", ".ndjson"):
        yield from json_lines(file)
    else:
        yield from delimited(file, header_of(file)[0])


def _check_columns(file: Path, names: list[str], fields: Sequence[FieldSpec]) -> None:
    missing = [field.name for field in fields if field.name not in names]
    if missing:
        raise DataError(f"{file}", f"no {', '.join(missing)} among {', '.join(names)}", "a column for each field of "
                        "the task", "Rename a column, or correct `fields`.")  # fmt: skip


def example_of(number: int, found: Any, root: Path, fields: Sequence[FieldSpec]) -> Example | Problem:
    """One example made of what a task's `read`, or a table, gave: a mapping with every field, perhaps "split" and more.

    Its id is a digest of its fields, its group one of what stands under GROUP, else of the first field.
    """
    item = f"example {number}"
    if not isinstance(found, Mapping):
        return Problem("example that is no mapping", item, f"{type(found).__name__}, not field names with values")
    missing = [field.name for field in fields if found.get(field.name) is None]
    if missing:
        return Problem("missing value", item, f"no {', '.join(missing)}")
    try:
        values = {field.name: _converted(field, found[field.name]) for field in fields}
        contents = [_content(field, values[field.name], root) for field in fields]
    except (TrakLensError, TypeError, ValueError) as error:
        return Problem("unusable value", item, str(error))
    names = {field.name for field in fields} | {"split", GROUP}
    further = {str(k): plain(v) for k, v in found.items() if k not in names and _is_plain(v)}
    group = str(found[GROUP]).encode("utf-8", "replace") if GROUP in found else contents[0]
    return Example(
        id=hashlib.sha256(b"\0".join(contents)).hexdigest()[:16],
        group=hashlib.sha256(group).hexdigest()[:16],
        fields=values,
        split=split_named(found.get("split")),
        attributes={name: value for name, value in further.items() if value is not None},
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | list | dict)


def _converted(field: FieldSpec, value: Any) -> Any:
    """A value as the field's kind holds it. ValueError or TypeError when it cannot be."""
    if field.kind == "number":
        number = float(value)
        if not np.isfinite(number):
            raise ValueError(f"{field.name} = {number}")
        return number
    if field.kind == "tensor":
        array = np.asarray(json.loads(value) if isinstance(value, str) else value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{field.name} holds {array.dtype}, not numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"NaN or infinity in {field.name}")
        return array
    if field.kind == "image":
        return str(value) if isinstance(value, Path) else value
    return str(value.item() if isinstance(value, np.generic) else value)


def _content(field: FieldSpec, value: Any, root: Path) -> bytes:
    """What of a field decides the example's id."""
    if field.kind == "image":
        if isinstance(value, str):
            content = read_image(root, value)
            open_image(io.BytesIO(content))
            return content
        if isinstance(value, bytes):
            return value
        picture = np.asarray(_picture(root, value))
        return f"{picture.shape}".encode() + picture.tobytes()
    if field.kind == "tensor":
        return f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    return repr(value).encode() if field.kind == "number" else str(value).encode("utf-8", "replace")


def examples_of(found: Iterable[Any], root: Path, fields: Sequence[FieldSpec]) -> tuple[list[Example], list[Problem]]:
    """Usable examples, each once, and what cannot be used."""
    examples, problems, seen = [], [], set()
    for number, values in enumerate(found, start=1):
        made = values if isinstance(values, Problem) else example_of(number, values, root, fields)
        if isinstance(made, Problem):
            problems.append(made)
        elif made.id in seen:
            problems.append(Problem("duplicate example", f"example {number}", f"the same fields as {made.id}"))
        else:
            seen.add(made.id)
            examples.append(made)
    return examples, problems
