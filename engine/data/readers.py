"""Readers: from a folder or file to rows (image path, caption, split, further columns). Registered by name.

Detection tries them in the order of `READERS`; the first that recognises the path is used.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stores.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SPLITS = {"train": "train", "test": "heldout", "val": "heldout", "validation": "heldout", "heldout": "heldout"}
CAPTION_COLUMNS = ("text", "caption", "title")


@dataclass(frozen=True)
class Row:
    """One raw row: image relative to `root`, its caption, a split if the data set names one, other columns.

    caption is None where this part of the data set lacks the columns that the other parts make captions of.
    """

    image: str
    caption: str | None
    split: str | None
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Options:
    """How captions are made: a column, or a template of columns."""

    text_column: str | None = None
    caption_template: str | None = None


@dataclass(frozen=True)
class Reader:
    """`root` gives the folder images are relative to, or None when the path is not of this form."""

    root: Callable[[Path], Path | None]
    rows: Callable[[Path, Options], Iterator[Row]]


def _caption(columns: Mapping[str, str], options: Options, where: str) -> str:
    if options.caption_template is not None:
        try:
            return options.caption_template.format_map(columns)
        except (KeyError, ValueError, IndexError) as error:
            raise DataError(
                f"caption template {options.caption_template!r}",
                f"{error} in {where}",
                "columns among " + ", ".join(columns),
                "Correct --caption-template.",
            ) from error
    names = (options.text_column,) if options.text_column else CAPTION_COLUMNS
    for name in names:
        if name in columns:
            return columns[name]
    raise DataError(
        where,
        "columns " + ", ".join(columns),
        f"a caption column ({', '.join(names)})",
        "Name it with --text-column, or make captions with --caption-template 'a photo of a {column}'.",
    )


# imagefolder: metadata.jsonl or metadata.csv beside the images, possibly in train/ and test/


def _metadata_files(path: Path) -> list[tuple[Path, str | None]]:
    folders: list[tuple[Path, str | None]] = [(path, None)]
    folders += [(path / name, split) for name, split in SPLITS.items()]
    names = ("metadata.jsonl", "metadata.csv")
    return [(folder / name, split) for folder, split in folders for name in names if (folder / name).is_file()]


def _imagefolder_rows(path: Path, options: Options) -> Iterator[Row]:
    captioned, lacking = 0, None
    for file, split in _metadata_files(path):
        for columns in _records(file):
            image = (file.parent / columns.pop("file_name", "")).relative_to(path).as_posix()
            named = SPLITS.get(columns.get("split", ""), split)
            try:
                caption = _caption(columns, options, str(file))
                captioned += 1
            except DataError as error:
                caption, lacking = None, lacking or error
            yield Row(image, caption, named, _without_caption(columns, options))
    if lacking is not None and not captioned:
        raise lacking


def _records(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        if file.suffix == ".jsonl":
            records: Iterator[dict] = (_json_line(line, file) for line in lines if line.strip())
        else:
            records = csv.DictReader(lines)
        for record in records:
            yield {str(k): "" if v is None else str(v) for k, v in record.items() if k is not None}


def _json_line(line: str, file: Path) -> dict:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{file}", f"a line that is no JSON ({line[:60]!r})", "one object per line", "Fix it."
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{file}", f"a line that is no object ({line[:60]!r})", "one object per line", "Fix it.")
    return record


def _without_caption(columns: dict[str, str], options: Options) -> dict[str, str]:
    if options.caption_template is not None:
        return columns
    names = (options.text_column,) if options.text_column else CAPTION_COLUMNS
    used = next((name for name in names if name in columns), None)
    return {name: value for name, value in columns.items() if name != used}


# open_clip: a tab-separated list with filepath and title


def _list_file(path: Path) -> Path | None:
    files = [path] if path.is_file() else sorted([*path.glob("*.csv"), *path.glob("*.tsv")])
    for file in files:
        if file.suffix in (".csv", ".tsv") and file.name != "metadata.csv":
            head = file.open(encoding="utf-8", errors="replace").readline()
            if "filepath" in head:
                return file
    return None


def _open_clip_rows(path: Path, options: Options) -> Iterator[Row]:
    file = _list_file(path)
    assert file is not None  # the caller has asked root()
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        delimiter = "\t" if "\t" in lines.readline() else ","
        lines.seek(0)
        for record in csv.DictReader(lines, delimiter=delimiter):
            columns = {str(k): "" if v is None else str(v) for k, v in record.items() if k is not None}
            image = columns.pop("filepath", "")
            yield Row(image, _caption(columns, options, str(file)), None, _without_caption(columns, options))


# COCO captions


def _coco_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".json" else []
    return sorted((path / "annotations").glob("captions_*.json"))


def _coco_rows(path: Path, options: Options) -> Iterator[Row]:
    del options
    root = _coco_root(path)
    assert root is not None
    for file in _coco_files(path):
        folder = file.stem.removeprefix("captions_")
        split = "heldout" if folder.startswith(("val", "test")) else "train"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            names = {image["id"]: image["file_name"] for image in found["images"]}
            annotations = [(str(a["image_id"]), names[a["image_id"]], a["caption"]) for a in found["annotations"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}", f"not COCO captions ({error})", "images and annotations", "Check it."
            ) from error
        for number, name, caption in annotations:
            yield Row(f"{folder}/{name}" if folder else name, caption, split, {"coco_image_id": number})


def _coco_root(path: Path) -> Path | None:
    files = _coco_files(path)
    if not files or (path.is_file() and not path.stem.startswith("captions_")):
        return None
    return files[0].parent.parent


# Flickr8k


def _flickr_file(path: Path) -> Path | None:
    for file in (path, path / "captions.txt", path / "Flickr8k.token.txt"):
        if file.is_file() and file.suffix == ".txt":
            return file
    return None


def _flickr_rows(path: Path, options: Options) -> Iterator[Row]:
    del options
    file = _flickr_file(path)
    assert file is not None
    folder = next((name for name in ("Images", "images", "Flicker8k_Dataset") if (file.parent / name).is_dir()), "")
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        for number, line in enumerate(lines):
            line = line.rstrip("\r\n")
            if not line or (number == 0 and line.replace(" ", "") == "image,caption"):
                continue
            if "\t" in line:
                name, caption = line.split("\t", 1)
                name = name.rsplit("#", 1)[0]
            else:
                name, caption = next(csv.reader([line]), ["", ""])[0], line.split(",", 1)[-1]
                caption = caption[1:-1].replace('""', '"') if caption[:1] == '"' == caption[-1:] else caption
            yield Row(f"{folder}/{name}" if folder else name, caption, None, {})


# A folder per class


def _class_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [
        f
        for f in sorted(path.iterdir())
        if f.is_dir() and any(i.suffix.lower() in IMAGE_SUFFIXES for i in f.iterdir())
    ]


def _class_rows(path: Path, options: Options) -> Iterator[Row]:
    template = Options(caption_template=options.caption_template or "a photo of a {label}")
    for folder in _class_folders(path):
        columns = {"label": folder.name.replace("_", " ")}
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                yield Row(f"{folder.name}/{file.name}", _caption(columns, template, str(folder)), None, columns)


READERS: Mapping[str, Reader] = {
    "imagefolder": Reader(lambda path: path if path.is_dir() and _metadata_files(path) else None, _imagefolder_rows),
    "open_clip_csv": Reader(lambda path: f.parent if (f := _list_file(path)) else None, _open_clip_rows),
    "coco": Reader(_coco_root, _coco_rows),
    "flickr8k": Reader(lambda path: f.parent if (f := _flickr_file(path)) else None, _flickr_rows),
    "class_folders": Reader(lambda path: path if _class_folders(path) else None, _class_rows),
}
