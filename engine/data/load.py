"""Read a data set once: every image decoded and hashed, whatever cannot be used reported and left out."""

import hashlib
import io
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from engine.data.example import Dataset, Example, Problem, ProblemReport
from engine.data.images import OversizedImageError, open_image
from engine.data.readers import READERS, Options, Row
from stores.errors import DataError, UsageError
from stores.specs import DatasetSpec

MAX_CAPTION = 10_000
WORKERS = 4


def load_dataset(
    path: Path | str,
    *,
    reader: str | None = None,
    text_column: str | None = None,
    caption_template: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read image–caption pairs; the reader is detected unless named.

    Unusable rows are collected in `Dataset.problems` and left out. `sample` keeps that many rows, drawn with `seed`.
    Raises DataError when nothing there is a known form or no pair can be used, UsageError for an unknown reader.
    """
    path = Path(path)
    name, root = _detect(path, reader)
    found = list(READERS[name].rows(path, Options(text_column, caption_template)))
    rows = [row for row in found if row.caption is not None]
    problems = [Problem("no caption column", row.image, "other columns") for row in found if row.caption is None]
    if sample is not None and sample < len(rows):
        rows = [rows[i] for i in np.sort(np.random.default_rng(seed).choice(len(rows), size=sample, replace=False))]
    examples, unusable = _check(root, rows, progress)
    problems += unusable
    if not examples:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ProblemReport(tuple(problems)).counts().items())
        raise DataError(f"data set {path}", kinds or "no rows", "at least one usable pair", "Check the folder.")
    spec = DatasetSpec(
        root=str(root.resolve()),
        reader=name,
        text_column=text_column,
        caption_template=caption_template,
        sample=sample,
        seed=seed,
        n_examples=len(examples),
        fingerprint=hashlib.sha256("\n".join(sorted(example.id for example in examples)).encode()).hexdigest(),
    )
    return Dataset(root, tuple(examples), ProblemReport(tuple(problems)), spec)


def _detect(path: Path, reader: str | None) -> tuple[str, Path]:
    if reader is not None and reader not in READERS:
        raise UsageError("--reader", repr(reader), " or ".join(READERS), "Choose one, or leave it out.")
    if not path.exists():
        raise DataError(f"data set {path}", "nothing there", "a folder or a list of pairs", "Check the path.")
    for name in [reader] if reader is not None else READERS:
        root = READERS[name].root(path)
        if root is not None:
            return name, root
    held = sorted(item.name for item in path.iterdir())[:8] if path.is_dir() else [path.name]
    raise DataError(
        f"data set {path}",
        ", ".join(held) or "an empty folder",
        "metadata.jsonl or metadata.csv, an open_clip list, COCO captions, captions.txt or a folder per class",
        "See the README for the forms.",
    )


def _check(root: Path, rows: list[Row], progress) -> tuple[list[Example], list[Problem]]:
    examples: list[Example] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for number, found in enumerate(pool.map(lambda row: _read(root, row), rows, chunksize=16), start=1):
            if isinstance(found, Problem):
                problems.append(found)
            elif found.id in seen:
                problems.append(
                    Problem("duplicate pair", found.image, f"same picture and caption as {seen[found.id]}")
                )
            else:
                seen[found.id] = found.image
                examples.append(found)
            if progress is not None and (number % 64 == 0 or number == len(rows)):
                progress(number, len(rows))
    return examples, problems


def _read(root: Path, row: Row) -> Example | Problem:
    caption = unicodedata.normalize("NFC", row.caption or "").strip()
    if not caption:
        return Problem("empty caption", row.image, "no words")
    if len(caption) > MAX_CAPTION:
        return Problem("overlong caption", row.image, f"{len(caption):,} characters, at most {MAX_CAPTION:,}")
    if "\0" in caption or any(0xD800 <= ord(character) <= 0xDFFF for character in caption):
        return Problem("not text", row.image, "bytes that are no UTF-8, or a zero byte")
    if ".." in PurePosixPath(row.image).parts:
        return Problem("path outside the data set", row.image, "a path with ..")
    try:
        content = (root / row.image).read_bytes()
    except (OSError, ValueError) as error:
        return Problem("missing image", row.image, str(error))
    try:
        open_image(io.BytesIO(content))
    except OversizedImageError as error:
        return Problem("oversized image", row.image, error.found)
    except DataError as error:
        return Problem("unreadable image", row.image, error.found)
    image_id = hashlib.sha256(content).hexdigest()[:16]
    id_ = hashlib.sha256(content + b"\0" + caption.encode()).hexdigest()[:16]
    return Example(id_, image_id, row.image, caption, row.split, row.attributes)
