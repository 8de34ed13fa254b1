"""Forms without a list: a caption file beside each picture, or a folder per class.

Folders are classes by their names; words for WordNet ids (ImageNet's folders) come from a list beside them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from traklens.engine.data.example import Problem
from traklens.engine.data.rows import Options, Row, caption_of, split_named
from traklens.engine.data.survey import Survey
from traklens.engine.data.tables import decoded, json_of
from traklens.stores.errors import DataError

SIDECARS = (".txt", ".caption")
SYNSETS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "synsets.txt")
WORDNET = re.compile(r"n\d{8}")


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
    """The folder that names the class."""
    parts = PurePosixPath(folder).parts
    split = split_named(parts[0])
    below = parts[1:] if split else parts
    return below[-1] if below else None


def class_names(survey: Survey, files: list[Path]) -> list[str]:
    """The classes in the order of their folders' names, as torchvision's ImageFolder numbers them."""
    del files
    folders = sorted({label for folder in survey.folders if folder != "." and (label := _label(folder))})
    words = _synsets(survey, folders)
    return [words.get(folder, folder) for folder in folders]


def _synsets(survey: Survey, folders: list[str]) -> dict[str, str]:
    """Words for folders called by WordNet ids, from a list that says "n01440764 tench, Tinca tinca"."""
    if not folders or not all(WORDNET.fullmatch(folder) for folder in folders):
        return {}
    found: dict[str, str] = {}
    for file in (survey.root / name for name in SYNSETS):
        if file.is_file():
            pairs = (line.strip().split(maxsplit=1) for line in decoded(file).splitlines())
            found |= {pair[0]: pair[1].split(",")[0].strip() for pair in pairs if len(pair) == 2}
    named = {folder: found[folder] for folder in folders if folder in found}
    twice = {word for word, count in Counter(named.values()).items() if count > 1}  # "crane" is a bird and a machine
    return {folder: f"{word} ({folder})" if word in twice else word for folder, word in named.items()}


def class_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    template = Options(caption_template=options.caption_template or "a photo of a {label}")
    names = dict(zip(sorted({str(_label(f)) for f in survey.folders if f != "." and _label(f)}),
                     class_names(survey, files), strict=True))  # fmt: skip
    for picture in survey.pictures:
        folder = PurePosixPath(picture).parent
        label = _label(str(folder)) if str(folder) != "." else None
        if label is None:
            yield Problem("picture outside the class folders", picture, "no folder names its class")
            continue
        word = names[label] if options.labels else names[label].replace("_", " ")
        columns = {"label": word}
        caption = word if options.labels else caption_of(columns, template, str(folder))
        yield Row(picture, caption, split_named(folder.parts[0]) if len(folder.parts) > 1 else None, columns)
