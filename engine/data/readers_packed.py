"""Pictures inside larger files: webdataset shards, Parquet, and `datasets` saved to disk. Nothing is unpacked."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from traklens.engine.data.example import Problem
from traklens.engine.data.images import IMAGE_SUFFIXES
from traklens.engine.data.packed import arrow_table
from traklens.engine.data.rows import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    Options,
    Row,
    caption_of,
    split_named,
    without_caption,
)
from traklens.engine.data.survey import Survey
from traklens.stores.errors import DataError

IMAGE_CELLS = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "bytes")


def shards(survey: Survey) -> list[Path]:
    return [file for file in survey.lists if file.suffix.lower() == ".tar"]


def shard_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    """Members of one key (the name up to its first dot) are one example: a picture, and .txt, .caption or .json."""
    for file in files:
        name = file.relative_to(survey.root).as_posix()
        try:
            with tarfile.open(file, "r:") as shard:
                yield from _examples(shard, name, file, options)
        except (tarfile.TarError, OSError, EOFError) as error:
            yield Problem("damaged shard", name, str(error))


def _examples(shard: tarfile.TarFile, name: str, file: Path, options: Options) -> Iterator[Row | Problem]:
    key, held = None, {}
    for member in shard:
        if not member.isreg() or Path(member.name).name.startswith((".", "._")):
            continue
        folder, _, base = member.name.rpartition("/")
        of, _, kind = base.partition(".")
        if (folder, of) != key:
            yield from _example(held, name, file, options)
            key, held = (folder, of), {}
        suffix = f".{kind.lower().rsplit('.', 1)[-1]}"
        if suffix in IMAGE_SUFFIXES:
            held["image"] = member.name
        elif kind in ("txt", "caption", "json") and (opened := shard.extractfile(member)):
            held[kind] = opened.read()
    yield from _example(held, name, file, options)


def _example(held: dict[str, Any], shard: str, file: Path, options: Options) -> Iterator[Row | Problem]:
    if "image" not in held:
        if held:
            yield Problem("captions without a picture", f"a key of {shard}", ", ".join(held))
        return
    place = f"{shard}/{held['image']}"
    facts: dict[str, Any] = {}
    try:
        found = json.loads(held.get("json", b"{}"))
        facts = found if isinstance(found, dict) else {}
    except (ValueError, RecursionError):
        pass
    text = held.get("txt", held.get("caption"))
    columns = facts | ({"text": text.decode("utf-8-sig", "surrogateescape")} if text is not None else {})
    try:
        caption = caption_of(columns, options, shard)
    except DataError:
        yield Problem("no caption", place, "no .txt, .caption or caption in its .json")
        return
    kept = {k: v for k, v in without_caption(columns, options).items() if k not in CAPTION_COLUMNS}
    yield Row(place, caption, split_named(file.parent.name), kept)


def tables(survey: Survey) -> list[Path]:
    """Parquet and Arrow tables that hold pictures, or name some that are there."""
    wanted = [file for file in survey.lists if file.suffix.lower() in (".parquet", ".arrow")]
    return [file for file in wanted if _image_column(survey, file) is not None]


def _schema(file: Path) -> pa.Schema | None:
    try:
        if file.suffix.lower() == ".parquet":
            return pq.read_schema(file)
        return arrow_table(file, file.stat().st_mtime_ns).schema
    except (OSError, pa.ArrowException):
        return None


def label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of numbered labels by column, as Hugging Face's `datasets` keeps them (ClassLabel)."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {
        column: [str(name) for name in feature["names"]]
        for column, feature in features.items()
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


def named(columns: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """A row with the names of its numbered labels; numbers without a name, as −1 that stands for none, become None."""
    found = dict(columns)
    for column, words in names.items():
        number = found.get(column)
        if isinstance(number, int):
            found[column] = words[number] if 0 <= number < len(words) else None
    return found


def _image_column(survey: Survey, file: Path) -> str | None:
    schema = _schema(file)
    if schema is None:
        return None
    for name in schema.names:
        kind = schema.field(name).type
        holds = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if holds or ((pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and name.lower() in IMAGE_CELLS):
            return name
    for name in IMAGE_COLUMNS:
        if name in schema.names and pa.types.is_string(schema.field(name).type):
            first = next((v for v in next(_batches(file, [name]))[name].to_pylist() if v), None)
            if first and (survey.root / survey.locate(file.parent, first)).is_file():
                return name
    return None


def _batches(file: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    if file.suffix.lower() == ".parquet":
        with pq.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                yield opened.read_row_group(group, columns=columns)
    else:
        table = arrow_table(file, file.stat().st_mtime_ns)
        yield table.select(columns) if columns else table


def table_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    for file in files:
        name, column = file.relative_to(survey.root).as_posix(), _image_column(survey, file)
        schema = _schema(file)
        assert column is not None  # `tables` gave this file
        assert schema is not None
        packed = not pa.types.is_string(schema.field(column).type)
        others = [other for other in schema.names if other != column or not packed]
        if not options.fits(others):
            caption_of(dict.fromkeys(others), options, str(file))
        names = label_names(schema) if options.labels else {}
        split = split_named(file.stem.split("-")[0]) or split_named(file.parent.name)
        row = -1
        try:
            for part in _batches(file, others):
                for columns in (named(found, names) for found in part.to_pylist()):
                    row += 1
                    place = f"{name}/{column}/{row}" if packed else survey.locate(file.parent, str(columns[column]))
                    kept = without_caption(columns, options, column)
                    kept = {k: v for k, v in kept.items() if not isinstance(v, bytes | dict)}
                    yield Row(
                        place, caption_of(columns, options, name), split_named(columns.get("split")) or split, kept
                    )
        except (OSError, pa.ArrowException) as error:
            yield Problem("damaged table", name, str(error))


def table_classes(survey: Survey, files: list[Path]) -> list[str] | None:
    """The names of numbered labels in their order, where the first table has one column of them; else None."""
    del survey
    schema = _schema(files[0])
    names = label_names(schema) if schema is not None else {}
    return next(iter(names.values())) if len(names) == 1 else None
