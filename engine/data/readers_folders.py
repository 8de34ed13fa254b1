"""Forms without a list: a caption file beside each picture, or a folder per class."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from traklens.engine.data.example import Problem
from traklens.engine.data.rows import Options, Row, caption_of, split_named
from traklens.engine.data.survey import Survey
from traklens.engine.data.tables import decoded, json_of
from traklens.stores.errors import DataError

SIDECARS = (".txt", ".caption")


def _sidecar(survey: Survey, picture: str) -> Path | None:
    beside = survey.root / picture
    for suffix in SIDECARS:
        for file in (beside.with_suffix(suffix), beside.with_name(beside.name + suffix)):
            if file.is_file():
                return file
    file = beside.with_suffix(".json")
    return file if file.is_file() and isinstance(_caption_in(file), str) else None


def _caption_in(file: Path) -> object:
    found = json_of(file)
    return found.get("caption") if isinstance(found, dict) else None


def captioned_folders(survey: Survey) -> list[Path]:
    """Folders in which a picture has a caption file of its name (img2dataset's `files` form, and others)."""
    stems = {file.with_suffix("") for file in survey.lists if file.suffix.lower() in (*SIDECARS, ".json")}
    stems |= {file.with_suffix("").with_suffix("") for file in survey.lists if file.suffix.lower() in SIDECARS}
    found = {(survey.root / p).parent for p in survey.pictures if (survey.root / p).with_suffix("") in stems}
    return sorted(folder for folder in found if _any_captioned(survey, folder))


def _any_captioned(survey: Survey, folder: Path) -> bool:
    return any(_sidecar(survey, p) for p in survey.pictures if (survey.root / p).parent == folder)


def sidecar_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    del options
    captioned = set(files)
    for picture in survey.pictures:
        file = _sidecar(survey, picture) if (survey.root / picture).parent in captioned else None
        if file is None:
            yield Problem("no caption file", picture, "no .txt or .caption of its name beside it")
            continue
        try:
            caption = _caption_in(file) if file.suffix == ".json" else decoded(file).strip()
        except DataError as error:
            yield Problem("unreadable caption file", picture, error.found)
            continue
        yield Row(picture, caption, split_named(PurePosixPath(picture).parts[0]), {})


def class_folders(survey: Survey) -> list[Path]:
    """Folders with pictures; in train/, val/ or test/ the classes are one level deeper."""
    return [survey.root / folder for folder in survey.folders if folder != "." and _label(folder) is not None]


def _label(folder: str) -> str | None:
    parts = PurePosixPath(folder).parts
    split = split_named(parts[0])
    below = parts[1:] if split else parts
    return " ".join(part.replace("_", " ") for part in below[-1:]) or None


def class_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    del files
    template = Options(caption_template=options.caption_template or "a photo of a {label}")
    for picture in survey.pictures:
        folder = PurePosixPath(picture).parent
        label = _label(str(folder)) if str(folder) != "." else None
        if label is None:
            yield Problem("picture outside the class folders", picture, "no folder names its class")
            continue
        columns = {"label": label}
        caption = caption_of(columns, template, str(folder))
        yield Row(picture, caption, split_named(folder.parts[0]) if len(folder.parts) > 1 else None, columns)
