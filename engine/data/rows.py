"""One raw row of a data set, and how captions and labels are made of its columns."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from traklens.engine.data.example import Problem
from traklens.stores.errors import DataError, UsageError

SPLITS = {"train": "train", "test": "heldout", "val": "heldout", "validation": "heldout", "heldout": "heldout"}
CAPTION_COLUMNS = ("text", "caption", "title", "captions")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "fine_label", "target")
IMAGE_COLUMNS = (
    "file_name",
    "filepath",
    "image",
    "image_path",
    "filename",
    "image_name",
    "path",
    "file",
    "img",
    "url",
)
NO_TEXT = re.compile("[\ud800-\udfff\0]")


@dataclass(frozen=True)
class Row:
    """A picture relative to the root, its caption (or label) as the list has it, a split if the data set names one, other
    columns."""

    image: str
    caption: Any
    split: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """How captions are made: a column, or a template of columns; with `labels`, the column holds labels instead."""

    text_column: str | None = None
    caption_template: str | None = None
    labels: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names a caption (label) column may have."""
        if self.text_column:
            return (self.text_column,)
        return LABEL_COLUMNS if self.labels else CAPTION_COLUMNS

    def column_of(self, names: Iterable[str]) -> str | None:
        """The caption column among these names; None when there is none, or a template makes the captions."""
        there = set(names)
        return next((name for name in self.columns if name in there), None) if self.caption_template is None else None

    def fits(self, names: Iterable[str]) -> bool:
        """Whether captions can be made of columns of these names."""
        there = set(names)
        if self.caption_template is None:
            return self.column_of(there) is not None
        return fields_of(self.caption_template) <= there


def fields_of(template: str) -> set[str]:
    """Names of the columns in a caption template. UsageError for anything but plain {names}."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise _no_template(template, str(error)) from error
    for _, name, spec, conversion in parts:
        if name == "" or spec or conversion:
            raise _no_template(template, "a format or an empty name in braces")
    return {name for _, name, _, _ in parts if name is not None}


def _no_template(template: str, found: str) -> UsageError:
    return UsageError(
        "caption_template", f"{template!r} ({found})", "text with {column} in it", "Correct --caption-template."
    )


def caption_of(columns: Mapping[str, Any], options: Options, where: str) -> Any:
    """The caption of a row, as it stands in its column or made by the template. DataError when a column is missing."""
    if options.caption_template is None:
        name = options.column_of(columns)
        if name is not None:
            return columns[name]
        what, remedy = (
            ("label", "Name it with --label-column.")
            if options.labels
            else (
                "caption",
                "Name it with --text-column, or make captions with --caption-template 'a photo of a {column}'.",
            )
        )
        raise DataError(
            where, "columns " + ", ".join(columns), f"a {what} column ({', '.join(options.columns)})", remedy
        )
    made = ""
    for text, name, _, _ in Formatter().parse(options.caption_template):
        made += text
        if name is not None and name not in columns:
            raise DataError(
                f"caption template {options.caption_template!r}",
                f"no column {name!r} in {where}",
                "columns among " + ", ".join(columns),
                "Correct --caption-template.",
            )
        value = plain(columns[name]) if name is not None else ""
        if value is None or (name is not None and not value.strip()):
            return None
        made += value
    return made


def without_caption(columns: Mapping[str, Any], options: Options, image: str = "") -> dict[str, Any]:
    """The columns that are kept beside the caption and the picture."""
    used = {options.column_of(columns), image}
    return {name: value for name, value in columns.items() if name not in used}


def plain(value: Any) -> str | None:
    """A cell as text: numbers as they are written, lists and objects as JSON; None for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return json.dumps(value, ensure_ascii=False, default=str)


def label_of(row: Row) -> list[str] | Problem:
    """The label of a row: a text, or a whole number as it is written. Anything else is a Problem."""
    value = row.caption
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | str) and str(value).strip():
        return [str(value).strip()]
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return Problem("no label", row.image, "an empty cell")
    return Problem("label that is no text", row.image, str(plain(value))[:60])


def captions_of(row: Row) -> list[str] | Problem:
    """The captions of a row: a text, or a list of texts. Anything else is a Problem that says what it is."""
    value = row.caption
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return list(value)
    missing = value is None or value == [] or (isinstance(value, float) and math.isnan(value))
    if missing:
        return Problem("empty caption", row.image, "no words")
    kind = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a mixed list"}
    said = f"{kind.get(type(value), type(value).__name__)}: {str(plain(value))[:60]}"
    return Problem("caption that is no text", row.image, said)


def split_named(value: Any) -> str | None:
    """The split that a cell or a folder names, if it is one we know."""
    return SPLITS.get(value.strip().lower()) if isinstance(value, str) else None
