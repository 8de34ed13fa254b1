"""Which form a data set is of, what of it is not read, and what to say where it is of none."""

from pathlib import Path

from traklens.engine.data.example import Account, Problem, shortened
from traklens.engine.data.readers import READERS
from traklens.engine.data.survey import Survey, survey
from traklens.stores.errors import DataError, UsageError

CLASSES = "class_folders"


def detect(path: Path, reader: str | None, labels: bool = False) -> tuple[Survey, str, list[Path]]:
    """What lies there, the name of its reader, and the files of its form; `labels` takes folders for classes beside lists.

    Raises DataError where nothing is of a known form, UsageError for an unknown reader.
    """
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
        if name == CLASSES and reader is None and there.lists and not labels:
            break
        files = READERS[name].find(there)
        if files:
            return there, name, files
    raise _unknown(path, there, reader)


def _unknown(path: Path, there: Survey, reader: str | None) -> DataError:
    lists = [name_in(there, file) for file in there.lists]
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


def name_in(there: Survey, file: Path) -> str:
    """A file as it is named: relative to the data set where it lies in it."""
    return file.relative_to(there.root).as_posix() if file.is_relative_to(there.root) else str(file)


def passed_over(there: Survey, name: str, files: list[Path]) -> tuple[str, ...]:
    """Lists that were not read, and hidden files; caption files beside pictures and shards' companions are many."""
    if name == CLASSES:
        files = []
    sidecar = {".txt", ".caption", ".json"} if name == "sidecar" else set()
    lists = [name_in(there, f) for f in there.lists if f not in files and f.suffix.lower() not in sidecar]
    return (*lists, *(f"{name} (hidden)" for name in there.hidden))


def nothing_usable(path: Path, there: Survey, account: Account, problems: list[Problem]) -> DataError:
    """The error for a data set that was read and of which nothing can be used."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in account.left_out.items()) or "no rows"
    read = f" in {shortened(account.lists, 3)}" if account.lists else ""
    first = f" (the first: {problems[0].item}: {problems[0].detail})" if problems else ""
    if any("://" in problem.item for problem in problems):
        remedy = "The list gives addresses and no files: fetch them with img2dataset first."
    else:
        remedy = f"Pictures were looked for below {there.root}; check the folder, or name another --reader."
    return DataError(f"data set {path}", f"{kinds}{read}{first}", "at least one usable pair", remedy)
