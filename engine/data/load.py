"""Read a data set once: every picture decoded and hashed, whatever cannot be used reported and left out."""

import hashlib
import io
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from traklens.engine.data.example import Account, Dataset, Example, Problem, ProblemReport, shortened
from traklens.engine.data.images import OversizedImageError, open_image
from traklens.engine.data.packed import read_image
from traklens.engine.data.readers import ALIASES, READERS
from traklens.engine.data.rows import NO_TEXT, Options, Row, captions_of, fields_of, plain
from traklens.engine.data.survey import Survey, survey
from traklens.engine.progress import Report, silent
from traklens.engine.streams import STREAMS, generator
from traklens.stores.errors import DataError, UsageError
from traklens.stores.specs import DatasetSpec

MAX_CAPTION = 10_000
MAX_COLUMN = 10_000  # characters of a further column that are kept
WORKERS = 4
CLASSES = "class_folders"


def load_dataset(
    path: Path | str,
    *,
    reader: str | None = None,
    text_column: str | None = None,
    caption_template: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    streams: int = STREAMS,
    report: Report = silent,
) -> Dataset:
    """Read image–caption pairs; the reader is detected unless named.

    Unusable rows are collected in `Dataset.problems` and left out. `sample` keeps that many rows, drawn with `seed`;
    `streams` is the version of the random streams, an older one for a data set drawn before (engine/streams.py).
    Raises DataError when nothing there is a known form or no pair can be used, UsageError for an unknown reader.
    """
    path = Path(path)
    if sample is not None and sample < 1:
        raise UsageError("sample", str(sample), "1 or more pairs", "Leave it out to take all.")
    if caption_template is not None:
        fields_of(caption_template)
    named = ALIASES.get(reader or "", reader)
    there, name, files = _detect(path, named)
    rows, problems = _rows(READERS[name].rows(there, files, Options(text_column, caption_template)))
    if sample is not None and sample < len(rows):
        draw = generator("sample of a data set", seed, version=streams)
        rows = [rows[i] for i in np.sort(draw.choice(len(rows), size=sample, replace=False))]
    examples, unusable = _check(there.root, rows, report)
    problems += unusable
    lists = tuple(_name(there, file) for file in files)
    account = Account(
        reader=name,
        lists=lists,
        passed_over=_passed_over(there, name, files),
        pairs=len(examples),
        images=len({example.image_id for example in examples}),
        left_out=ProblemReport(tuple(problems)).counts(),
        samples=tuple((examples[i].image, examples[i].caption) for i in _spread(len(examples))),
    )
    if not examples:
        raise _nothing(path, there, account, problems)
    spec = DatasetSpec(
        root=str(there.root.resolve()),
        reader=name,
        text_column=text_column,
        caption_template=caption_template,
        sample=sample,
        seed=seed,
        n_examples=len(examples),
        fingerprint=hashlib.sha256("\n".join(sorted(example.id for example in examples)).encode()).hexdigest(),
        streams=streams,
    )
    return Dataset(there.root, tuple(examples), ProblemReport(tuple(problems)), spec, account)


def load_again(root: Path, spec: DatasetSpec, report: Report = silent) -> Dataset:
    """Read a data set as it was read before, from where it is now. Raises DataError as `load_dataset`."""
    return load_dataset(
        root,
        reader=spec.reader,
        text_column=spec.text_column,
        caption_template=spec.caption_template,
        sample=spec.sample,
        seed=spec.seed,
        streams=spec.streams,
        report=report,
    )


def _spread(count: int) -> list[int]:
    """The first, the middle and the last of so many."""
    return sorted({0, count // 2, count - 1}) if count else []


def _nothing(path: Path, there: Survey, account: Account, problems: list[Problem]) -> DataError:
    kinds = ", ".join(f"{count} {kind}" for kind, count in account.left_out.items()) or "no rows"
    read = f" in {shortened(account.lists, 3)}" if account.lists else ""
    first = f" (the first: {problems[0].item}: {problems[0].detail})" if problems else ""
    if any("://" in problem.item for problem in problems):
        remedy = "The list gives addresses and no files: fetch them with img2dataset first."
    else:
        remedy = f"Pictures were looked for below {there.root}; check the folder, or name another --reader."
    return DataError(f"data set {path}", f"{kinds}{read}{first}", "at least one usable pair", remedy)


def _detect(path: Path, reader: str | None) -> tuple[Survey, str, list[Path]]:
    if reader is not None and reader not in READERS:
        raise UsageError("reader", repr(reader), " or ".join(READERS), "Choose one, or leave it out.")
    if not path.exists():
        raise DataError(f"data set {path}", "nothing there", "a folder or a list of pairs", "Check the path.")
    if not (path.is_dir() or path.is_file()):
        raise DataError(f"data set {path}", "no regular file", "a folder or a list of pairs", "Check the path.")
    there = survey(path)
    if path.parent.name == "annotations" and path.is_file():
        there = Survey(path, path.parent.parent, survey(path.parent.parent).pictures, [path])
    for name in [reader] if reader is not None else READERS:
        if name == CLASSES and reader is None and there.lists:
            break
        files = READERS[name].find(there)
        if files:
            return there, name, files
    raise _unknown(path, there, reader)


def _unknown(path: Path, there: Survey, reader: str | None) -> DataError:
    lists = [_name(there, file) for file in there.lists]
    if reader is not None:
        return DataError(f"data set {path}", "no such form", READERS[reader].form, "Name another --reader.")
    if lists and any("://" in line for file in there.lists[:4] for line in _head(file)):
        return DataError(
            f"data set {path}",
            f"{shortened(lists, 4)}: addresses, and no pictures of these names",
            "pictures beside their list",
            "Fetch them with img2dataset first.",
        )
    if lists and READERS[CLASSES].find(there):
        return DataError(
            f"data set {path}",
            f"{shortened(lists, 4)}, which may be a list of captions but is of no form known here",
            "a list of a known form (see `traklens data --help` and the README)",
            "Correct the list; or, to make captions of the folders' names, say --reader class_folders.",
        )
    held = lists or sorted(item.name for item in path.iterdir())[:8] if path.is_dir() else [path.name]
    forms = "; ".join(reader.form for reader in READERS.values())
    return DataError(
        f"data set {path}", shortened(held, 8) or "an empty folder", forms, "See the README for the forms."
    )


def _head(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            return opened.read(4096).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _name(there: Survey, file: Path) -> str:
    return file.relative_to(there.root).as_posix() if file.is_relative_to(there.root) else str(file)


def _passed_over(there: Survey, name: str, files: list[Path]) -> tuple[str, ...]:
    """Lists that were not read, and hidden files; caption files beside pictures and shards' companions are many."""
    if name == CLASSES:
        files = []
    sidecar = {".txt", ".caption", ".json"} if name == "sidecar" else set()
    lists = [_name(there, f) for f in there.lists if f not in files and f.suffix.lower() not in sidecar]
    return (*lists, *(f"{name} (hidden)" for name in there.hidden))


def _rows(found) -> tuple[list[Row], list[Problem]]:
    """Rows with one caption each, and what has none."""
    rows, problems = [], []
    for row in found:
        captions = row if isinstance(row, Problem) else captions_of(row)
        if isinstance(row, Problem) or isinstance(captions, Problem):
            problems.append(captions)
        else:
            rows += [Row(row.image, caption, row.split, row.attributes) for caption in captions]
    return rows, problems


def _check(root: Path, rows: list[Row], report: Report) -> tuple[list[Example], list[Problem]]:
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
            if number % 64 == 0 or number == len(rows):
                report("checking pairs", number, len(rows), "")
    return examples, problems


def _read(root: Path, row: Row) -> Example | Problem:
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
    return Example(id_, image_id, row.image, caption, row.split, kept)


def _readable(name: str) -> str:
    """A file name as it can be printed: bytes that are no text as \\x.."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if _is_escaped(name) else name


def _is_escaped(name: str) -> bool:
    return any(0xDC80 <= ord(character) <= 0xDCFF for character in name)


def _mended(text: str) -> str:
    """A further column as text that can be stored: what is none becomes U+FFFD, what is endless is cut with a sign."""
    text = NO_TEXT.sub("\ufffd", text)
    return text if len(text) <= MAX_COLUMN else f"{text[: MAX_COLUMN - 1]}…"
