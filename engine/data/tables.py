"""Text files with rows: decoded by what they are, split row by row, so that one bad row never condemns the rest."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traklens.engine.data.example import Problem
from traklens.stores.errors import DataError

MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
DELIMITERS = "\t,;|"
LINES_IN_A_FIELD = 50  # a quoted field may go over this many lines
PEEKED = 1 << 16
csv.field_size_limit(2**31 - 1)  # a long column is no reason to lose a row


@dataclass(frozen=True)
class Record:
    """One row as columns; `where` names its line and file."""

    columns: dict[str, Any]
    where: str


def decoded(file: Path, most: int = -1) -> str:
    """The text of a file, whatever its byte order mark says; bytes that are no UTF-8 become lone surrogates.

    `most` reads only so many bytes. DataError when it cannot be read.
    """
    try:
        if not file.is_file():
            raise DataError(f"{file}", "no regular file", "a list of pairs", "Check it.")
        with file.open("rb") as opened:
            content = opened.read(most)
    except OSError as error:
        raise DataError(f"{file}", str(error.strerror), "a list that can be read", "Check it.") from error
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace" if encoding != "utf-8" else "surrogateescape")
    if len(content) > 3 and content[1:200:2].count(0) > len(content[1:200:2]) // 2:
        return content.decode("utf-16-le", "replace")
    return content.decode("utf-8", "surrogateescape")


def header_of(file: Path) -> tuple[str, list[str]]:
    """Delimiter and column names of a delimited file, from its first line."""
    text = decoded(file, PEEKED)
    line = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
    delimiter = "\t" if "\t" in line else max(DELIMITERS, key=line.count)
    return delimiter, [name.strip() for name in _fields(line, delimiter)]


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def delimited(file: Path, delimiter: str, names: list[str] | None = None) -> Iterator[Record | Problem]:
    """Rows of a delimited file: by its heading, or by `names` where it has none. Ragged rows are Problems.

    A row that has the right number of fields as it stands is taken as it stands: an unclosed quotation mark is text.
    """
    lines = re.split(r"\r\n|\n|\r", decoded(file))
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if names is None:
        names = [name.strip() for name in _fields(lines[first], delimiter)] if lines else []
        first += 1
    at = first
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        if not line.strip():
            continue
        values, used = _row(lines, at - 1, delimiter, len(names))
        at += used - 1
        where = f"line {number} of {file.name}"
        if values is None:
            fields = line.split(delimiter)
            item = f"{fields[0].strip()[:100]} ({where})"
            yield Problem("row of another length", item, f"{len(fields)} fields, {len(names)} expected")
        else:
            yield Record(dict(zip(names, values, strict=True)), where)


def _row(lines: list[str], at: int, delimiter: str, count: int) -> tuple[list[str] | None, int]:
    """Fields of the row that begins at a line, and how many lines it takes; None when nothing fits."""
    line = lines[at]
    plain = line.split(delimiter)
    if len(plain) == count and not _is_open(plain[-1]):
        return [_unquoted(field) for field in plain], 1
    joined = line
    if _closes(line) and len(fields := _fields(line, delimiter)) == count:
        return fields, 1
    for more, following in enumerate(lines[at + 1 : at + LINES_IN_A_FIELD] if _is_open_line(line) else [], start=2):
        if len(following.split(delimiter)) == count and not following.rstrip().endswith('"'):
            break  # a row of its own: the mark above was only text
        joined += "\n" + following
        if _closes(joined):
            fields = _quoted(joined, delimiter)
            if len(fields) == count:
                return fields, more
            break
    return ([_unquoted(field) for field in plain], 1) if len(plain) == count else (None, 1)


def _is_open(field: str) -> bool:
    field = field.strip()
    return field.startswith('"') and (len(field) == 1 or not field.endswith('"'))


def _is_open_line(line: str) -> bool:
    return line.count('"') % 2 == 1


def _closes(text: str) -> bool:
    return text.count('"') % 2 == 0


def _quoted(text: str, delimiter: str) -> list[str]:
    rows = list(csv.reader(text.splitlines(keepends=True), delimiter=delimiter))
    return rows[0] if len(rows) == 1 else []


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if len(field) > 1 and field[0] == field[-1] == '"' else field


def json_lines(file: Path) -> Iterator[Record | Problem]:
    """Objects of a JSON-lines file; a line that is none is a Problem."""
    for number, line in enumerate(decoded(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {file.name}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield Problem("line that is no JSON", where, line[:60])
            continue
        if isinstance(record, dict):
            yield Record(record, where)
        else:
            yield Problem("line that is no JSON object", where, line[:60])


def json_of(file: Path) -> Any:
    """The content of a JSON file; None when it is none."""
    try:
        return json.loads(decoded(file))
    except (ValueError, RecursionError, DataError):
        return None
