"""`traklens export` and the lists of `traklens hunt`: decisions of people applied, suspects written out.

Cells of spreadsheets that begin like a formula get an apostrophe before them. A training list does not: its captions must
reach the training unchanged, and it is written for programs.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traklens.engine.label_errors.decisions import lines
from traklens.engine.label_errors.suspects import Suspects
from traklens.stores.atomic import write_bytes
from traklens.stores.errors import UsageError
from traklens.stores.examples import content_fields
from traklens.stores.reviews import Review
from traklens.stores.store import Store

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe_cell(value: object) -> str:
    """A value for a spreadsheet: never a formula. Numbers stay numbers."""
    text = "" if value is None or (isinstance(value, float) and value != value) else str(value)
    if isinstance(value, str) and text.startswith(FORMULA):
        return "'" + text
    return text


def table(
    header: Sequence[str], rows: Iterator[Sequence[object]], *, delimiter: str = ",", verbatim: bool = False
) -> bytes:
    """CSV in UTF-8. Unless `verbatim`, no cell can be taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([value if verbatim else safe_cell(value) for value in row] for row in rows)
    return out.getvalue().encode("utf-8", errors="surrogateescape")


def open_clip_list(store: Store, suspects: Suspects, decisions: Mapping[str, Review]) -> bytes:
    """Tab-separated filepath and title of the pairs to train on, as open_clip's training reads it."""
    kept = ((line.image, line.caption) for line in lines(store, decisions) if line.kept)
    return table(("filepath", "title"), kept, delimiter="\t", verbatim=True)


def webdataset_keys(store: Store, suspects: Suspects, decisions: Mapping[str, Review]) -> bytes:
    """Keys of the samples to keep, one per line: the image's path up to the first dot of its name, as webdataset has it."""
    kept = (_key(str(store.examples.image[line.row])) for line in lines(store, decisions) if line.kept)
    return "".join(f"{key}\n" for key in kept).encode("utf-8", errors="surrogateescape")


def _key(image: str) -> str:
    """`a/b.small.png` → `a/b`; of a picture in a shard the key within it."""
    inside = image.split(".tar/", 1)[-1]
    folder, _, name = inside.rpartition("/")
    return f"{folder}/{name.split('.', 1)[0]}" if folder else name.split(".", 1)[0]


def cleanlab_table(store: Store, suspects: Suspects, decisions: Mapping[str, Review]) -> bytes:
    """The frame cleanlab users know: label_quality (lower = worse), is_label_issue, given_label, predicted_label."""
    rows = (
        (
            line.row,
            line.id,
            f"{1 - suspects.probability[line.row]:.6f}",
            line.decision == "wrong",
            line.given,
            line.caption,
        )
        for line in lines(store, decisions)
    )
    return table(("index", "id", "label_quality", "is_label_issue", "given_label", "predicted_label"), rows)


def fiftyone_table(store: Store, suspects: Suspects, decisions: Mapping[str, Review]) -> bytes:
    """A CSV that FiftyOne reads as fields of samples: filepath, caption, mistakenness, decision."""
    rows = (
        (line.image, line.caption, f"{suspects.probability[line.row]:.6f}", line.decision or "none", line.id)
        for line in lines(store, decisions)
    )
    return table(("filepath", "caption", "mistakenness", "decision", "pair_id"), rows)


def parquet_table(store: Store, suspects: Suspects, decisions: Mapping[str, Review]) -> bytes:
    """Every training pair with decision, corrected caption, suspicion and signals."""
    return _parquet(store, suspects, decisions, np.arange(store.n_train))


def records(store: Store, suspects: Suspects, decisions: Mapping[str, Review]) -> bytes:
    """JSON lines of the examples to train on, every field by its name, as the readers of tables read them."""
    names = [field.name for field in store.task.fields if field.kind != "tensor"]
    out = []
    for line in lines(store, decisions):
        if line.kept:
            row = {name: store.examples.field(name)[line.row] for name in names} | {store.task.title: line.caption}
            out.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(out).encode("utf-8", errors="replace")


FORMATS: dict[str, Callable[[Store, Suspects, Mapping[str, Review]], bytes]] = {
    "open_clip": open_clip_list,
    "webdataset-keys": webdataset_keys,
    "cleanlab": cleanlab_table,
    "fiftyone": fiftyone_table,
    "parquet": parquet_table,
    "records": records,
}
SUFFIXES = {
    "open_clip": ".tsv",
    "webdataset-keys": ".txt",
    "cleanlab": ".csv",
    "fiftyone": ".csv",
    "parquet": ".parquet",
    "records": ".jsonl",
}


def formats_of(store: Store) -> list[str]:
    """The forms that a store's examples can be written in, the plainest first: of texts none that names picture files."""
    if store.task.first("image"):
        return list(FORMATS)
    return ["records", "cleanlab", "parquet"]


def export(store: Store, suspects: Suspects, decisions: Mapping[str, Review], format: str) -> bytes:
    """The training examples with the decisions applied. Raises UsageError for an unknown format."""
    if format not in FORMATS:
        raise UsageError("format", repr(format), ", ".join(FORMATS), "Choose one of them.")
    return FORMATS[format](store, suspects, decisions)


def suspects_table(
    store: Store, suspects: Suspects, decisions: Mapping[str, Review], rows: np.ndarray, suffix: str
) -> bytes:
    """The suspects `rows`, worst first, as .csv, .parquet or .jsonl. Raises UsageError for another suffix."""
    if suffix == ".parquet":
        return _parquet(store, suspects, decisions, rows)
    if suffix == ".jsonl":
        out = io.BytesIO()
        found = _frame(store, suspects, decisions, rows).to_pandas()
        found.to_json(out, orient="records", lines=True, force_ascii=False)
        return out.getvalue()
    if suffix == ".csv":
        frame = _frame(store, suspects, decisions, rows)
        return table(frame.column_names, zip(*(column.to_pylist() for column in frame.columns), strict=True))
    raise UsageError("out", repr(suffix), ".csv, .parquet or .jsonl", "Choose one of them.")


def _frame(store: Store, suspects: Suspects, decisions: Mapping[str, Review], rows: np.ndarray) -> pa.Table:
    ids = [str(store.examples.id[row]) for row in rows]
    columns: dict[str, Any] = {
        "rank": suspects.place[rows] + 1,
        "id": ids,
        "image": [str(store.examples.image[row]) for row in rows],
        **{name: [str(store.examples.field(name)[row]) for row in rows] for name in content_fields(store.task)},
        "caption": [str(store.examples.words[row]) for row in rows],
        "probability_wrong": _numbers(suspects.probability[rows]),
        "decision": [decisions[id].decision if id in decisions else "" for id in ids],
        "corrected_caption": [(decisions[id].caption or "") if id in decisions else "" for id in ids],
    }
    return pa.table(columns | {name: _numbers(values[rows]) for name, values in suspects.signals.items()})


def _numbers(values: np.ndarray) -> pa.Array:
    """A column in which what is not known is empty, and no NaN."""
    return pa.array(values, from_pandas=True)


def _parquet(store: Store, suspects: Suspects, decisions: Mapping[str, Review], rows: np.ndarray) -> bytes:
    out = io.BytesIO()
    pq.write_table(_frame(store, suspects, decisions, rows), out, compression="zstd")
    return out.getvalue()


def save(content: bytes, path: Path) -> None:
    """Write an export whole or not at all. Raises UsageError when its folder does not exist."""
    if not path.parent.is_dir():
        raise UsageError("out", f"no folder {path.parent}", "a folder that exists", "Make it, or choose another.")
    write_bytes(path, content)
