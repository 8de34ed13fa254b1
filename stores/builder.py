"""Everything that writes a store: beside it, stage by stage, put in place when it is complete.

A killed build is continued by the next one with the same specification and ends with the same bytes: a chunk or a
stage is marked done only after its bytes are in place, and whatever is not marked is written again.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr

from traklens.stores.atomic import read_json, write_json
from traklens.stores.checksums import write_checksums
from traklens.stores.errors import StoreError
from traklens.stores.examples import ExampleRow, write_examples
from traklens.stores.features import FeatureWriter
from traklens.stores.index import IndexWriter
from traklens.stores.layout import FEATURES, MAGIC, MANIFEST, PROGRESS, THUMBNAILS, building_path
from traklens.stores.locks import writing
from traklens.stores.placing import clean, commit, is_peoples, put_in_place, remove
from traklens.stores.specs import Manifest, differences, placeless, to_dict
from traklens.stores.store import read_manifest
from traklens.stores.thumbnails import ThumbnailWriter

# Not part of the specification: they may differ between the tries of one build.
NOT_COMPARED = ("state", "created", "libraries", "options", "recall", "context")


class StoreBuilder:
    """Builds the store at `path` under `path`.building. Use as a context manager: it holds the store's lock."""

    def __init__(self, path: Path, manifest: Manifest, *, overwrite: bool = False, restart: bool = False) -> None:
        """Open or continue a build.

        Raises StoreError when `path` holds something else, when an unfinished build has another specification
        (unless `restart`), or when another process is building the same store.
        """
        self.path, self.building = path, building_path(path)
        with ExitStack() as held:
            held.enter_context(writing(path, "store"))
            put_in_place(path)  # a whole build that was cut at its very end
            self.finished = self._finished(manifest, overwrite)
            self.manifest = read_manifest(path) if self.finished else self._begin(manifest, restart)
            self._held = held.pop_all()

    def _begin(self, manifest: Manifest, restart: bool) -> Manifest:
        """Make the folder, or take up the one that is there; what a killed process left unfinished goes."""
        if restart and self.building.exists():
            remove(self.building)
        self.building.mkdir(parents=True, exist_ok=True)
        clean(self.building)
        self.manifest = self._continue(manifest) if (self.building / MANIFEST).is_file() else manifest
        self._write_manifest()
        self._progress = self._read_progress()
        self._features = FeatureWriter(self.building / FEATURES)
        return self.manifest

    def _finished(self, manifest: Manifest, overwrite: bool) -> bool:
        if not self.path.exists():
            return False
        is_store = (self.path / MANIFEST).is_file()
        if not self.path.is_dir() or not (is_store or all(is_peoples(entry.name) for entry in self.path.iterdir())):
            raise StoreError(f"store {self.path}", "something else there", "a new name", "Choose another --store.")
        if overwrite or not is_store:
            return False
        there = read_manifest(self.path)
        found = _spec_differences(there, replace(manifest, schema=there.schema))
        if found:
            raise StoreError(
                f"store {self.path}",
                "a finished store of another specification (" + "; ".join(found) + ")",
                "the same specification",
                "Choose another --store, or replace it with --overwrite.",
            )
        return True

    def _continue(self, manifest: Manifest) -> Manifest:
        found = read_manifest(self.building)
        other = _spec_differences(found, manifest)
        if other:
            raise StoreError(
                f"unfinished build {self.building}",
                "; ".join(other),
                "the specification it was started with",
                "Repeat the first command, or begin anew with --restart.",
            )
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    # Progress: stages done, and chunks done within a stage.

    def _read_progress(self) -> dict[str, Any]:
        file = self.building / PROGRESS
        if not file.is_file():
            return {"stages": [], "chunks": {}}
        return read_json(file, "how far the build is", "Begin anew with --restart.")

    def _write_progress(self) -> None:
        write_json(self.building / PROGRESS, self._progress)

    def is_done(self, stage: str) -> bool:
        return stage in self._progress["stages"]

    def mark_done(self, stage: str) -> None:
        """A stage's bytes are all in place."""
        self._progress["stages"].append(stage)
        self._progress["chunks"].pop(stage, None)
        self._write_progress()

    def chunks_done(self, stage: str) -> set[int]:
        """Which chunks of a stage that is under way are in place."""
        return set(self._progress["chunks"].get(stage, []))

    def mark_chunk(self, stage: str, chunk: int) -> None:
        self._progress["chunks"].setdefault(stage, []).append(chunk)
        self._write_progress()

    # What is written.

    def write_examples(self, rows: Iterable[ExampleRow]) -> None:
        write_examples(self.building, self.manifest.task, rows)

    def thumbnail_writer(self) -> ThumbnailWriter:
        return ThumbnailWriter(self.building / THUMBNAILS)

    def create(self, checkpoint: int, name: str, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self._features.create(checkpoint, name, shape, dtype)

    def write(self, checkpoint: int, name: str, start: int, values: np.ndarray) -> None:
        """Rows of an array from `start`. StoreError for NaN or infinity."""
        self._features.write(checkpoint, name, start, values)

    def array(self, checkpoint: int, name: str) -> zarr.Array:
        return self._features.array(checkpoint, name)

    def index_writer(self, name: str, dim: int, scale: float) -> IndexWriter:
        return IndexWriter(self.building, name, dim, scale)

    def record(
        self,
        *,
        options: dict[str, Any] | None = None,
        recall: dict[str, Any] | None = None,
        context: tuple[str, ...] | None = None,
    ) -> None:
        """Add to the manifest what was chosen, measured or found while building."""
        self.manifest = replace(
            self.manifest,
            context=self.manifest.context if context is None else context,
            options=self.manifest.options | (options or {}),
            recall=self.manifest.recall | (recall or {}),
        )
        self._write_manifest()

    def _write_manifest(self) -> None:
        write_json(self.building / MANIFEST, {"magic": MAGIC} | to_dict(self.manifest))

    def finish(self) -> None:
        """Checksums, then into place; the reviews and retrained models of an older store there stay where they are."""
        self.manifest = replace(self.manifest, state="complete")
        self._write_manifest()
        write_checksums(self.building)
        commit(self.building)
        put_in_place(self.path)


def _spec_differences(found: Manifest, wanted: Manifest) -> list[str]:
    def kept(manifest: Manifest) -> dict[str, Any]:
        return placeless({key: value for key, value in to_dict(manifest).items() if key not in NOT_COMPARED})

    return differences(kept(found), kept(wanted))
