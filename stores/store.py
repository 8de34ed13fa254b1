"""Open a finished store, read only."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr

from traklens.stores.atomic import read_json
from traklens.stores.checksums import check_sizes, verify_files
from traklens.stores.errors import StoreError
from traklens.stores.examples import ExampleTable
from traklens.stores.features import open_array, open_features
from traklens.stores.index import VectorIndex
from traklens.stores.layout import (
    CONTEXT,
    FEATURES,
    INFLUENCE,
    MAGIC,
    MANIFEST,
    SCHEMA,
    SIMILARITY,
    THUMBNAILS,
    building_path,
    checkpoint_group,
    located,
)
from traklens.stores.locks import writing
from traklens.stores.placing import is_half_placed, put_in_place
from traklens.stores.specs import PAIR, Manifest, from_dict
from traklens.stores.thumbnails import ThumbnailPack
from traklens.stores.verified import VerifiedFiles

FURTHER_PART = re.compile(r"\.\d{5}\.(faiss|bin)$")  # of FORMAT.md, which no version writes yet
BUILD_AGAIN = "Build it with `traklens build`."


def read_manifest(path: Path) -> Manifest:
    """The manifest of a store or of a build under way. StoreError: missing, damaged, foreign or newer."""
    file = path / MANIFEST
    if not path.is_dir():
        raise StoreError(f"store {path}", "no such folder", "a store", BUILD_AGAIN)
    if not file.is_file():
        raise StoreError(f"store {path}", f"a folder without {MANIFEST}", "a store", BUILD_AGAIN)
    found = read_json(file, "a manifest", BUILD_AGAIN)
    if not isinstance(found, dict) or found.get("magic") != MAGIC:
        raise StoreError(f"{file}", "the manifest of something else", f'"magic": "{MAGIC}"', "Check the path.")
    schema = found.get("schema")
    if not isinstance(schema, int):
        raise StoreError(f"{file}", f"schema {schema!r}", "a number", BUILD_AGAIN)
    if schema > SCHEMA:
        writer = found.get("libraries", {}).get("traklens", "of unknown version")
        raise StoreError(
            f"store {path}",
            f"schema {schema}, written by traklens {writer}",
            f"schema {SCHEMA} or older",
            "Update TrakLens to read it.",
        )
    try:
        return from_dict(Manifest, found)
    except StoreError as error:
        raise StoreError(f"{file}, {error.item}", error.found, error.expected, error.remedy) from error


def open_store(path: Path | str) -> "Store":
    """Open a finished store; quick, since arrays are read on demand.

    Raises StoreError, in one line, for a store that is missing, half-written, damaged, truncated, foreign or newer.
    """
    path = Path(path)
    if is_half_placed(path):
        _finish_placing(path)
    if not path.is_dir() and building_path(path).is_dir():
        raise StoreError(
            f"store {path}",
            "a build that is not finished",
            "a finished store",
            "Run the same `traklens build` again.",
        )
    manifest = read_manifest(path)
    if manifest.state != "complete":
        raise StoreError(f"store {path}", f"state {manifest.state!r}", "a finished store", BUILD_AGAIN)
    store = Store(path, manifest)
    check_sizes(path, store.verified.facts)
    further = [name for name in store.verified.facts if FURTHER_PART.search(name)]
    if further:
        raise StoreError(
            f"store {path}",
            f"an index or pictures in several parts ({further[0]})",
            "one part each, all that this version reads",
            "Update TrakLens to read it.",
        )
    store.verified.file(MANIFEST)
    return store


def _finish_placing(path: Path) -> None:
    """Go on where putting a build in place was cut.

    Raises StoreError when another process is at it, or where nothing can be written.
    """
    try:
        with writing(path, "store"):
            put_in_place(path)
    except OSError as error:
        raise StoreError(
            f"store {path}",
            f"a build that was cut while it was put in place ({error.strerror})",
            "a finished store",
            "Open it once as a user who may write there.",
        ) from error


class Store:
    """A finished store. Nothing here writes; every part is opened on first use."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest, self.task = path, manifest, manifest.task
        self.n_train, self.n_heldout = manifest.n_train, manifest.n_heldout
        self.n = manifest.n_train + manifest.n_heldout
        self.n_checkpoints = len(manifest.checkpoints)
        self.verified = VerifiedFiles(path)

    @cached_property
    def examples(self) -> ExampleTable:
        table = ExampleTable(self.path, self.task, self.verified)
        if len(table) != self.n:
            raise StoreError(f"{table.path}", f"{len(table)} examples", f"{self.n}", BUILD_AGAIN)
        return table

    @cached_property
    def distinct(self) -> tuple[int, int]:
        """How many different words (captions, labels) and groups (images) the training examples have."""
        return len(set(self.examples.words[: self.n_train])), len(set(self.examples.group[: self.n_train]))

    @cached_property
    def _features(self) -> zarr.Group:
        return open_features(self.path / FEATURES, self.verified)

    @cached_property
    def _arrays(self) -> dict[tuple[int, str], zarr.Array]:
        return {}

    def array(self, checkpoint: int, name: str) -> zarr.Array:
        """One array of one checkpoint: phi, preconditioned, f, q, those of the task's embeddings, … (FORMAT.md)."""
        key = (checkpoint, name)
        if key not in self._arrays:
            self._arrays[key] = open_array(self._features, checkpoint, name)
        return self._arrays[key]

    def has(self, name: str) -> bool:
        """Whether the checkpoints have an array of this name."""
        return f"{checkpoint_group(0)}/{name}" in self._features

    def embeddings(self, checkpoint: int, row: int) -> dict[str, np.ndarray]:
        """The unit vectors [e] of an example by name; none where the task has none."""
        return {name: self.row(checkpoint, name, row) for name in self.task.embeddings}

    def context(self, checkpoint: int) -> dict[str, np.ndarray]:
        """What f needs beside the example under a checkpoint, by name."""
        names = self.manifest.context
        return {name: np.asarray(self.array(checkpoint, f"{CONTEXT}{name}")[...]) for name in names}

    def row(self, checkpoint: int, name: str, row: int) -> np.ndarray:
        """One row of an array, read without the rest of its chunk."""
        array = self.array(checkpoint, name)
        per_chunk = array.chunks[0]
        place = "/".join(["c", str(row // per_chunk), *("0" for _ in array.chunks[1:])])
        shape = array.chunks[1:]
        count = int(np.prod(shape, dtype=np.int64))
        offset = (row % per_chunk) * count * array.dtype.itemsize
        file = self.verified.file(f"{FEATURES}/{array.path}/{place}")
        return np.fromfile(file, dtype=array.dtype, count=count, offset=offset).reshape(shape)

    @cached_property
    def influence(self) -> VectorIndex:
        return VectorIndex(self.path, INFLUENCE, self.verified)

    @cached_property
    def similarity(self) -> VectorIndex:
        return VectorIndex(self.path, SIMILARITY, self.verified)

    @cached_property
    def _thumbnails(self) -> dict[str, ThumbnailPack]:
        return {size: ThumbnailPack(self.path / THUMBNAILS, size, self.verified) for size in ("small", "large")}

    @property
    def noun(self) -> str:
        """What people call its examples."""
        return "pairs" if self.task.fields == PAIR else "examples"

    @cached_property
    def has_pictures(self) -> bool:
        """Whether its examples can be looked at as pictures."""
        return f"{THUMBNAILS}/small.bin" in self.verified.facts

    def thumbnail(self, row: int, size: str = "small") -> bytes:
        """An example's picture as WebP: `small` up to 128 pixels, `large` up to 512. StoreError where there is none."""
        return self._thumbnails[size].read(row)

    def image_path(self, row: int) -> Path:
        """Where the original image of a pair was when the store was built."""
        root, image = self.image_place(row)
        return root / image

    def image_place(self, row: int) -> tuple[Path, str]:
        """The data set's folder and the name of a pair's image in it (which may lie inside a shard or a table)."""
        of_targets = self.examples.source[row] == "targets" and self.manifest.targets is not None
        spec = self.manifest.targets if of_targets else self.manifest.dataset
        return spec.seen_from(self.path), str(self.examples.image[row])  # type: ignore[union-attr]

    @property
    def data_root(self) -> Path:
        """Where the data set is."""
        return self.manifest.dataset.seen_from(self.path)

    def checkpoint_path(self, m: int) -> Path:
        """Where the weights of checkpoint m are."""
        return located(self.path, self.manifest.checkpoints[m].path)

    def verify(self) -> list[str]:
        """Read every file: one line per problem, none when every checksum holds."""
        return verify_files(self.path)
