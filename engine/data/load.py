"""Read a data set once: every picture decoded and hashed, whatever cannot be used reported and left out."""

import hashlib
import io
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from traklens.engine.data.detect import detect, name_in, nothing_usable, passed_over
from traklens.engine.data.example import Account, Dataset, Problem, ProblemReport
from traklens.engine.data.facts import STATED, masked
from traklens.engine.data.images import OversizedImageError, open_image
from traklens.engine.data.packed import read_image
from traklens.engine.data.readers import ALIASES, READERS
from traklens.engine.data.readers_text import text_rows, text_tables
from traklens.engine.data.rows import NO_TEXT, Options, Row, captions_of, fields_of, label_of, plain
from traklens.engine.data.survey import Survey
from traklens.engine.data.values import ARRAYS, examples_of, read_values
from traklens.engine.progress import Report, silent
from traklens.engine.streams import STREAMS, generator
from traklens.stores.errors import DataError, UsageError
from traklens.stores.examples import Example
from traklens.stores.specs import PAIR, DatasetSpec, FieldSpec

MAX_CAPTION = 10_000
MAX_COLUMN = 10_000  # characters of a further column that are kept
WORKERS = 4
OF_THE_TASK, TEXT, MASKED = "of the task", "text", "masked_facts"
Read = Callable[[Path], Iterable[Any]]


def load_dataset(
    path: Path | str,
    *,
    reader: str | None = None,
    text_column: str | None = None,
    caption_template: str | None = None,
    label_column: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    streams: int = STREAMS,
    fields: Sequence[FieldSpec] = PAIR,
    read: Read | None = None,
    report: Report = silent,
) -> Dataset:
    """Read examples of these `fields`, image–caption pairs if not given; the reader is detected unless named.

    Pictures with a text or a label are read in every form of READERS, texts and labels from tables; other fields by
    `read(path)`, which gives one mapping per example, or from a table or arrays with a column for each. Unusable rows are
    collected in `Dataset.problems` and left out. `sample` keeps that many rows, drawn with `seed`; `streams` is the version
    of the random streams, an older one for a data set drawn before (engine/streams.py).
    Raises DataError when nothing there is a known form or no example can be used, UsageError for an unknown reader.
    """
    path, fields = Path(path), tuple(fields)
    if sample is not None and sample < 1:
        raise UsageError("sample", str(sample), "1 or more pairs", "Leave it out to take all.")
    if caption_template is not None:
        fields_of(caption_template)
    kinds = [field.kind for field in fields]
    labels = kinds == ["image", "label"]
    classes: list[str] | None = None
    if read is None and (labels or kinds == ["image", "text"]):
        if label_column is not None and not labels:
            raise UsageError("label_column", label_column, "a task with labels", "Name the task with --task.")
        if labels and (text_column or caption_template):
            raise UsageError(
                "text_column and caption_template",
                "given for a task with labels",
                "label_column",
                "Use --label-column.",
            )
        there, name, files = detect(path, ALIASES.get(reader or "", reader), labels)
        options = Options(label_column if labels else text_column, caption_template, labels)
        rows, problems = _rows(READERS[name].rows(there, files, options), label_of if labels else captions_of)
        rows = _sampled(rows, sample, seed, streams)
        examples, unusable = _check(there.root, rows, fields, report)
        problems, root = problems + unusable, there.root
        lists, over = tuple(name_in(there, file) for file in files), passed_over(there, name, files)
        finder = READERS[name].classes
        classes = finder(there, files) if labels and finder is not None else None
    elif read is None and set(kinds) <= {"text", "label"} and path.suffix not in ARRAYS:
        there, files = text_tables(path)
        root, lists = there.root, tuple(name_in(there, file) for file in files)
        over = passed_over(there, TEXT, files)
        name = MASKED if reader == MASKED else TEXT
        found = list(text_rows(there, files, STATED if reader == MASKED else fields))
        rows = _sampled([row for row in found if not isinstance(row, Problem)], sample, seed, streams)
        examples, problems = examples_of(masked(rows) if reader == MASKED else rows, root, fields)
        problems = [row for row in found if isinstance(row, Problem)] + problems
    else:
        name, root, lists, over = OF_THE_TASK, path if path.is_dir() else path.parent, (path.name,), ()
        found = list(read(path) if read is not None else read_values(path, fields))
        examples, problems = examples_of(_sampled(found, sample, seed, streams), root, fields)
        there = Survey(path, root)
    account = Account(
        reader=name,
        lists=lists,
        passed_over=over,
        pairs=len(examples),
        images=len({example.group for example in examples}),
        left_out=ProblemReport(tuple(problems)).counts(),
        samples=tuple(_shown(examples[i], fields) for i in _spread(len(examples))),
        classes=_classes(examples, fields, classes),
        noun="pairs" if fields == PAIR else "examples",
    )
    if not examples:
        raise nothing_usable(path, there, account, problems)
    spec = DatasetSpec(
        root=str((path if name == OF_THE_TASK else root).resolve()),
        reader=name,
        text_column=text_column,
        caption_template=caption_template,
        sample=sample,
        seed=seed,
        n_examples=len(examples),
        fingerprint=hashlib.sha256("\n".join(sorted(example.id for example in examples)).encode()).hexdigest(),
        streams=streams,
        fields=fields,
        label_column=label_column,
        file=_within(path, root) if path.is_file() and name != OF_THE_TASK else "",
    )
    return Dataset(root, tuple(examples), ProblemReport(tuple(problems)), spec, account)


def _within(path: Path, root: Path) -> str:
    """Where a file lies below the folder that its pictures are named from; empty where it is elsewhere."""
    path, root = path.resolve(), root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""


def _sampled(rows: list, sample: int | None, seed: int, streams: int) -> list:
    """So many of the rows, in their order; all if None."""
    if sample is None or sample >= len(rows):
        return rows
    draw = generator("sample of a data set", seed, version=streams)
    return [rows[i] for i in np.sort(draw.choice(len(rows), size=sample, replace=False))]


def _shown(example: Example, fields: Sequence[FieldSpec]) -> tuple[str, str]:
    """A picture's name, or the id, and what else an example says, in a few words."""
    values = [str(example.fields[field.name])[:300] for field in fields if field.kind not in ("image", "tensor")]
    image = next((example.fields[field.name] for field in fields if field.kind == "image"), None)
    return (image if isinstance(image, str) else example.id), ", ".join(values)


def _classes(examples: list[Example], fields: Sequence[FieldSpec], named: list[str] | None) -> tuple[str, ...]:
    """The labels in the order in which models number them: as the form of the data has it, whole numbers by size, else by
    their letters. Empty where no field is a label."""
    field = next((field.name for field in fields if field.kind == "label"), None)
    if field is None:
        return ()
    there = {str(example.fields[field]) for example in examples}
    if named is not None and there <= set(named):
        return tuple(named)
    numbers = all(label.lstrip("-").isdecimal() for label in there)
    return tuple(sorted(there, key=int if numbers else str))


def load_again(root: Path, spec: DatasetSpec, report: Report = silent, *, read: Read | None = None) -> Dataset:
    """Read a data set as it was read before, from where it is now. Raises DataError as `load_dataset`.

    root: its folder, of which the file is read that was read before; or a file.
    """
    root = root / spec.file if root.is_dir() else root
    if spec.reader == OF_THE_TASK:
        return load_dataset(
            root,
            sample=spec.sample,
            seed=spec.seed,
            streams=spec.streams,
            fields=spec.fields,
            read=read,
            report=report,
        )
    return load_dataset(
        root,
        reader=spec.reader,
        text_column=spec.text_column,
        caption_template=spec.caption_template,
        label_column=spec.label_column,
        sample=spec.sample,
        seed=spec.seed,
        streams=spec.streams,
        fields=spec.fields,
        report=report,
    )


def _spread(count: int) -> list[int]:
    """The first, the middle and the last of so many."""
    return sorted({0, count // 2, count - 1}) if count else []


def _rows(found, words_of: Callable[[Row], list[str] | Problem]) -> tuple[list[Row], list[Problem]]:
    """Rows with one caption (label) each, and what has none."""
    rows, problems = [], []
    for row in found:
        captions = row if isinstance(row, Problem) else words_of(row)
        if isinstance(row, Problem) or isinstance(captions, Problem):
            problems.append(captions)
        else:
            rows += [Row(row.image, caption, row.split, row.attributes) for caption in captions]
    return rows, problems


def _check(
    root: Path, rows: list[Row], fields: Sequence[FieldSpec], report: Report
) -> tuple[list[Example], list[Problem]]:
    """The examples of rows that can be used: every picture decoded and hashed."""
    noun = "pair" if tuple(fields) == PAIR else "example"
    examples: list[Example] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for number, found in enumerate(pool.map(lambda row: _read(root, row, fields), rows, chunksize=16), start=1):
            if isinstance(found, Problem):
                problems.append(found)
            elif found.id in seen:
                image = str(found.fields[fields[0].name])
                what = f"same picture and {fields[1].name} as {seen[found.id]}"
                problems.append(Problem(f"duplicate {noun}", image, what))
            else:
                seen[found.id] = str(found.fields[fields[0].name])
                examples.append(found)
            if number % 64 == 0 or number == len(rows):
                report(f"checking {noun}s", number, len(rows), "")
    return examples, problems


def _read(root: Path, row: Row, fields: Sequence[FieldSpec]) -> Example | Problem:
    image = _readable(row.image)
    caption = unicodedata.normalize("NFC", row.caption).strip()
    if not caption:
        return Problem("empty caption", image, "no words")
    if len(caption) > MAX_CAPTION:
        return Problem("overlong caption", image, f"{len(caption):,} characters, at most {MAX_CAPTION:,}")
    if NO_TEXT.search(caption):
        return Problem("not text", image, "bytes that are no UTF-8, or a zero byte, in the caption")
    if NO_TEXT.search(row.image):
        return Problem("file name that is no text", image, "bytes that are no UTF-8: rename the file")
    if "://" in row.image:
        return Problem("address without a file", image, "fetch it with img2dataset first")
    try:
        content = read_image(root, row.image)
    except DataError as error:
        outside = error.found.startswith("a path outside")
        return Problem(
            "path outside the data set" if outside else "missing image", image, f"{error.found} ({error.item})"
        )
    try:
        open_image(io.BytesIO(content))
    except OversizedImageError as error:
        return Problem("oversized image", image, error.found)
    except DataError as error:
        return Problem("unreadable image", image, error.found)
    image_id = hashlib.sha256(content).hexdigest()[:16]
    id_ = hashlib.sha256(content + b"\0" + caption.encode()).hexdigest()[:16]
    kept = {_mended(str(name)): _mended(plain(value) or "") for name, value in row.attributes.items()}
    return Example(id_, image_id, {fields[0].name: row.image, fields[1].name: caption}, row.split, kept)


def _readable(name: str) -> str:
    """A file name as it can be printed: bytes that are no text as \\x.."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if _is_escaped(name) else name


def _is_escaped(name: str) -> bool:
    return any(0xDC80 <= ord(character) <= 0xDCFF for character in name)


def _mended(text: str) -> str:
    """A further column as text that can be stored: what is none becomes U+FFFD, what is endless is cut with a sign."""
    text = NO_TEXT.sub("\ufffd", text)
    return text if len(text) <= MAX_COLUMN else f"{text[: MAX_COLUMN - 1]}…"
