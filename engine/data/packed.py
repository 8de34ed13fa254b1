"""The bytes of one picture: a file of its own, a member of a tar shard, a cell of a Parquet or Arrow table, or a record.

`image` names it relative to the data set's root: `a/b.jpg`, `shard.tar/a/b.jpg`, `part.parquet/COLUMN/ROW`, or
`data_batch_1.bin/ROW`.
"""

import io
import tarfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from PIL import Image

from traklens.engine.data.images import IMAGE_SUFFIXES, open_image
from traklens.engine.data.readers_arrays import record
from traklens.stores.errors import DataError

RECORDS = (".bin", "-ubyte", "-ubyte.gz")
PACKED = (".tar", ".parquet", ".arrow", *RECORDS)


def read_image(root: Path, image: str) -> bytes:
    """The content of a picture. DataError when it is missing, outside the root, or no regular file.

    Lists of absolute paths are open_clip's usual form, and people link their picture folders: both are followed to regular
    files, absolute paths only to names of pictures. A device or a pipe is never opened.
    """
    name = PurePosixPath(image)
    elsewhere = name.is_absolute() and name.suffix.lower() not in IMAGE_SUFFIXES
    if elsewhere or ".." in name.parts:
        raise DataError(f"image {image}", "a path outside the data set", "a path below its folder", "Correct it.")
    for end, part in enumerate(name.parts, start=1):
        if part.endswith(PACKED) and end < len(name.parts):
            file = root.joinpath(*name.parts[:end])
            if file.is_file():
                return _member(file, "/".join(name.parts[end:]), image)
    file = root / image
    try:
        if not file.is_file():
            exists = file.exists()
            found = "no regular file" if exists else "no such file"
            raise DataError(f"image {file}", found, "a picture", "Check the path.")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"image {image}", f"{error}", "a picture that can be read", "Check the path.") from error


def open_stored(root: Path, image: str) -> Image.Image:
    """Decode a picture of a data set to RGB. DataError as `read_image` and `open_image`, naming the picture."""
    content = read_image(root, image)
    try:
        return open_image(io.BytesIO(content))
    except DataError as error:
        raise type(error)(f"image {root / image}", error.found, error.expected, error.remedy) from error


def _member(file: Path, inside: str, image: str) -> bytes:
    try:
        if file.suffix == ".tar":
            start, size = _members(file, file.stat().st_mtime_ns)[inside]
            with file.open("rb") as opened:
                opened.seek(start)
                return opened.read(size)
        if file.name.endswith(RECORDS):
            return record(file, int(inside))
        column, row = inside.rsplit("/", 1)
        return bytes_of(cell(file, column, int(row)))
    except (KeyError, OSError, ValueError, IndexError, TypeError, pa.ArrowException) as error:
        raise DataError(f"image {image}", f"not in {file.name} ({error})", "a picture", "Check the file.") from error


@lru_cache(maxsize=512)
def _members(file: Path, changed: int) -> dict[str, tuple[int, int]]:
    """Where each member of a shard begins, and its size; `changed` is the file's time, so that another file is read anew."""
    with tarfile.open(file, "r:") as shard:
        return {member.name: (member.offset_data, member.size) for member in shard if member.isreg()}


def cell(file: Path, column: str, row: int) -> Any:
    """One value of a table. IndexError when there is no such row."""
    start, values = _block(file, column, row, file.stat().st_mtime_ns)
    return values[row - start].as_py()


@lru_cache(maxsize=4)
def _starts(file: Path, changed: int) -> list[int]:
    facts, total, starts = pq.read_metadata(file), 0, []
    for group in range(facts.num_row_groups):
        starts.append(total)
        total += facts.row_group(group).num_rows
    return starts


def _block(file: Path, column: str, row: int, changed: int) -> tuple[int, Any]:
    if file.suffix == ".arrow":
        return 0, arrow_table(file, changed)[column]
    starts = _starts(file, changed)
    group = max(i for i, start in enumerate(starts) if start <= row)
    return starts[group], _group(file, column, group, changed)


@lru_cache(maxsize=4)
def _group(file: Path, column: str, group: int, changed: int) -> Any:
    with pq.ParquetFile(file) as opened:
        return opened.read_row_group(group, columns=[column])[column]


@lru_cache(maxsize=4)
def arrow_table(file: Path, changed: int) -> pa.Table:
    """A memory-mapped table as Hugging Face's `datasets` saves it (a stream), or Arrow's file form."""
    source = pa.memory_map(str(file))
    try:
        return pyarrow.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pyarrow.ipc.open_file(source).read_all()


def bytes_of(value: Any) -> bytes:
    """A picture in a cell: bytes, or Hugging Face's {"bytes", "path"}. TypeError for anything else."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise TypeError("no picture in this row")
    return value
