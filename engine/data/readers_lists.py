"""Lists with a row per pair: metadata files, open_clip lists, tables of any columns, Flickr's lists."""

import re
from collections.abc import Iterator
from pathlib import Path

from traklens.engine.data.example import Problem
from traklens.engine.data.images import IMAGE_SUFFIXES
from traklens.engine.data.rows import IMAGE_COLUMNS, SPLITS, Options, Row, caption_of, split_named, without_caption
from traklens.engine.data.survey import Survey
from traklens.engine.data.tables import PEEKED, Record, decoded, delimited, header_of, json_lines
from traklens.stores.errors import DataError

METADATA = re.compile(r"metadata.*\.(csv|jsonl)", re.IGNORECASE)
DELIMITED = {".csv", ".tsv", ".txt"}
PICTURE = rf"[^\t|]+({'|'.join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))})"
FLICKR_LINE = re.compile(
    rf'{PICTURE}(#\d+)?\t\s*\S|{PICTURE}\s*\|\s*\d+\s*\|\s*\S|"?{PICTURE}"?,\s*\S', re.IGNORECASE
)


def records(file: Path) -> Iterator[Record | Problem]:
    """Rows of a delimited or a JSON-lines file."""
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        return json_lines(file)
    return delimited(file, header_of(file)[0])


def names_in(file: Path) -> list[str]:
    """Column names of a list: those of its heading, or of its first object."""
    try:
        if file.suffix.lower() not in (".jsonl", ".ndjson"):
            return header_of(file)[1]
        first = next((record for record in json_lines(file) if isinstance(record, Record)), None)
        return list(first.columns) if first else []
    except DataError:
        return []


# metadata.jsonl or metadata.csv beside the pictures, in any folder


def metadata_files(survey: Survey) -> list[Path]:
    """metadata.csv and metadata.jsonl; lists called metadata-something only where there is none of these."""
    named = [f for f in survey.lists if METADATA.fullmatch(f.name) and (_exact(f) or "file_name" in names_in(f))]
    exact = [file for file in named if _exact(file)]
    order = {name: place for place, name in enumerate((".", *SPLITS))}
    place = lambda file: order.get(file.parent.relative_to(survey.root).as_posix(), len(order))  # noqa: E731
    kind = lambda file: file.suffix.lower() != ".jsonl"  # noqa: E731
    return sorted(exact or named, key=lambda file: (place(file), str(file.parent), kind(file), file.name))


def _exact(file: Path) -> bool:
    return file.name in ("metadata.csv", "metadata.jsonl")


def metadata_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    yield from _rows(survey, files, options, ("file_name",))


# open_clip lists, and tables of any columns


def open_clip_files(survey: Survey) -> list[Path]:
    wanted = (".csv", ".tsv")
    return [f for f in survey.lists if f.suffix.lower() in wanted and "filepath" in names_in(f)]


def table_files(survey: Survey) -> list[Path]:
    """Delimited or JSON-lines files with a column of pictures that are there, and one of captions."""
    found = []
    for file in survey.lists:
        if file.suffix.lower() in (*DELIMITED, ".jsonl", ".ndjson") and not METADATA.fullmatch(file.name):
            names = names_in(file)
            column = next((name for name in IMAGE_COLUMNS if name in names), None)
            if column is not None and len(names) > 1 and _names_pictures(survey, file, column):
                found.append(file)
    return found


def _names_pictures(survey: Survey, file: Path, column: str) -> bool:
    for number, record in enumerate(records(file)):
        name = record.columns.get(column) if isinstance(record, Record) else None
        if isinstance(name, str) and survey._is_file(survey.root / survey.locate(file.parent, name)):
            return True
        if number > 20:
            break
    return False


def table_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    yield from _rows(survey, files, options, ("filepath", *IMAGE_COLUMNS))


def _rows(survey: Survey, files: list[Path], options: Options, image: tuple[str, ...]) -> Iterator[Row | Problem]:
    """Rows of several lists; a list without the caption column is left out if another one has it."""
    captioned, lacking = 0, None
    for file in files:
        named = file.stem if len(files) > 1 else ""  # a list that stands alone is not only test data
        folder = split_named(file.parent.name if file.parent != survey.root else named)
        for record in records(file):
            if isinstance(record, Problem):
                yield record
                continue
            columns = record.columns
            column = next((name for name in image if name in columns), "")
            name = columns.get(column)
            if not isinstance(name, str) or not name.strip():
                yield Problem("row without a picture", record.where, f"no {' or '.join(image[:2])}")
                continue
            place = survey.locate(file.parent, name.strip())
            try:
                caption = caption_of(columns, options, str(file))
            except DataError as error:
                lacking = lacking or error
                yield Problem("no caption column", place, "other columns")
                continue
            captioned += 1
            split = split_named(columns.get("split")) or folder
            yield Row(place, caption, split, without_caption(columns, options, column))
    if lacking is not None and not captioned:
        raise lacking


# Flickr8k and Flickr30k, as their archives unpack


def flickr_files(survey: Survey) -> list[Path]:
    """captions.txt, Flickr8k.token.txt, results.csv and lists of their forms; Flickr8k.lemma.txt is the same again."""
    found = [f for f in survey.lists if f.suffix.lower() in (*DELIMITED, ".token") and _is_flickr(f)]
    whole = [file for file in found if "lemma" not in file.name.lower()]
    return whole or found


def _is_flickr(file: Path) -> bool:
    try:
        lines = [line for line in decoded(file, PEEKED).splitlines() if line.strip()][:5]
    except DataError:
        return False
    if not lines:
        return False
    head = re.sub(r"[\s\"]", "", lines[0]).lower()
    if head.startswith(("image,caption", "image_name|comment_number|comment", "image_name,comment_number,comment")):
        return True
    return all(FLICKR_LINE.match(line) for line in lines)


def flickr_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    del options
    for file in files:
        for number, line in enumerate(re.split(r"\r\n|\n|\r", decoded(file)), start=1):
            if not line.strip() or (number == 1 and re.match(r'"?image(_name)?"?\s*[,|]', line.strip())):
                continue
            found = _flickr_line(line)
            if found is None:
                yield Problem("row of another length", f"line {number} of {file.name}", line[:60])
            else:
                yield Row(survey.locate(file.parent, found[0]), found[1], None, {})


def _flickr_line(line: str) -> tuple[str, str] | None:
    """Picture and caption; a caption's own commas need no quotation marks in these lists."""
    if "\t" in line:
        name, caption = line.split("\t", 1)
    elif "|" in line:
        parts = line.split("|", 2)
        if len(parts) < 3:
            return None
        name, caption = parts[0], parts[2]
    else:
        quoted = re.match(r'\s*"((?:[^"]|"")*)"\s*,(.*)', line, re.DOTALL)
        name, caption = quoted.groups() if quoted else line.split(",", 1) if "," in line else ("", "")
        name = name.replace('""', '"')
    caption = caption.strip()
    if len(caption) > 1 and caption[0] == caption[-1] == '"':
        caption = caption[1:-1].replace('""', '"')
    name = re.sub(r"#\d+$", "", name.strip())
    return (name, caption) if name else None
