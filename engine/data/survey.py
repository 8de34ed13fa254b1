"""What lies in a data folder: pictures, lists and what is passed over, found in one walk."""

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from traklens.engine.data.images import IMAGE_SUFFIXES

LIST_SUFFIXES = {
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".parquet",
    ".arrow",
    ".txt",
    ".token",
    ".tar",
    ".caption",
}
NO_LISTS = (
    "readme",
    "license",
    "licence",
    "copying",
    "notice",
    "requirements",
    "changelog",
    "checksums",
    "md5",
    "sha256",
)
CLASS_NAMES = ("classes", "labels", "class_names", "categories", "synsets", "wnids", "words", "names")


def is_list(path: Path) -> bool:
    """Whether a file may be a list of captions, by its name."""
    stem = path.stem.lower()
    words = stem.startswith(NO_LISTS) or (path.suffix.lower() == ".txt" and stem in CLASS_NAMES)
    return path.suffix.lower() in LIST_SUFFIXES and not words


@dataclass
class Survey:
    """The files below `root` in sorted order, without hidden ones; `path` is what the user named."""

    path: Path
    root: Path
    pictures: list[str] = field(default_factory=list)  # relative, POSIX
    lists: list[Path] = field(default_factory=list)
    arrays: list[Path] = field(default_factory=list)  # files of records: .bin, IDX
    hidden: list[str] = field(default_factory=list)

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Pictures by the last part of their name."""
        found = defaultdict(list)
        for picture in self.pictures:
            found[picture.rsplit("/", 1)[-1]].append(picture)
        return found

    @cached_property
    def folders(self) -> Counter[str]:
        """How many pictures each folder holds, by its relative path ("." for the root)."""
        return Counter(str(PurePosixPath(picture).parent) for picture in self.pictures)

    def locate(self, base: Path, name: str) -> str:
        """Where a picture lies that a list in the folder `base` names: relative to the root, POSIX.

        Beside the list, below the root, or anywhere below it if its name is there only once; addresses go by their last
        part. A name that is nowhere comes back as if it were beside the list.
        """
        if "://" in name:
            return self._only(urlsplit(name).path.rsplit("/", 1)[-1]) or name
        if "/" not in name and "\\" in name:
            name = name.replace("\\", "/")
        for folder in (base, self.root):
            if self._is_file(folder / name):
                return self._relative(folder / name)
        found = self._only(name.rsplit("/", 1)[-1]) if not name.startswith("/") else None
        return found or self._relative(base / name)

    def _only(self, name: str) -> str | None:
        places = self.by_name.get(name, [])
        return places[0] if len(places) == 1 else None

    @staticmethod
    def _is_file(path: Path) -> bool:
        try:
            return path.is_file()
        except (OSError, ValueError):
            return False

    def _relative(self, path: Path) -> str:
        normal = Path(os.path.normpath(path))
        if path.is_absolute() and not self.root.is_absolute() and normal.is_relative_to(self.root.resolve()):
            return normal.relative_to(self.root.resolve()).as_posix()
        return normal.relative_to(self.root).as_posix() if normal.is_relative_to(self.root) else path.as_posix()


def survey(path: Path) -> Survey:
    """Walk a folder, or the folder of a list; hidden files and folders are passed over and named."""
    root = path if path.is_dir() else path.parent
    found = Survey(path, root)
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in [n for n in (*folders, *files) if _is_hidden(n)]:
            found.hidden.append((here / name).relative_to(root).as_posix())
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(name for name in files if not _is_hidden(name)):
            place = here / name
            if place.suffix.lower() in IMAGE_SUFFIXES:
                found.pictures.append(place.relative_to(root).as_posix())
            elif place.suffix == ".bin" or "ubyte" in name:
                found.arrays.append(place)
            elif path.is_dir() and is_list(place):
                found.lists.append(place)
    if not path.is_dir():
        found.lists.append(path)
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
