"""`traklens relocate`: a store whose data or run were moved is told where they are now."""

from dataclasses import replace
from pathlib import Path

from traklens.engine.data import load_again
from traklens.engine.data.load import OF_THE_TASK, Read
from traklens.engine.models.weights import weights_digest
from traklens.engine.tasks.registry import reading_of, task_of
from traklens.engine.training.run_directory import open_run
from traklens.stores.atomic import write_json
from traklens.stores.checksums import renew_checksum
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.layout import MAGIC, MANIFEST, building_path, relative_path
from traklens.stores.locks import writing
from traklens.stores.placing import commit_part, put_in_place
from traklens.stores.specs import DatasetSpec, Manifest, seen_from, to_dict
from traklens.stores.store import open_store


def relocate(path: Path, *, data: Path | None = None, run: Path | None = None, targets: Path | None = None) -> None:
    """Change where a store looks for its data, its run's checkpoints and its further targets; nothing else changes.

    Raises UsageError when nothing is named, StoreError when what lies there is not what the store was built from.
    """
    if data is None and run is None and targets is None:
        raise UsageError("relocate", "nothing", "--data, --run or --targets", "Say what was moved, and where to.")
    store = open_store(path)
    manifest = store.manifest
    of_task = manifest.dataset.reader == OF_THE_TASK
    read = reading_of(task_of(manifest.task)) if of_task else None
    if data is not None:
        manifest = replace(manifest, dataset=_same(path, data, manifest.dataset, store.n, read))
    if targets is not None and manifest.targets is not None:
        manifest = replace(
            manifest, targets=_same(path, targets, manifest.targets, manifest.targets.n_examples, read)
        )
    if run is not None:
        manifest = replace(manifest, checkpoints=_checkpoints(path, run, manifest))
    with writing(path, "store"):
        building = building_path(path)
        building.mkdir(exist_ok=True)
        write_json(building / MANIFEST, {"magic": MAGIC} | to_dict(manifest))
        renew_checksum(path, building, MANIFEST)
        commit_part(path)
        put_in_place(path)


def _same(store: Path, data: Path, spec: DatasetSpec, pairs: int, read: Read | None) -> DatasetSpec:
    found = load_again(data, spec, read=read)
    if found.spec.fingerprint != spec.fingerprint:
        raise StoreError(
            f"data set {data}",
            f"{len(found.examples)} pairs that are not those of the store",
            f"the {pairs} pairs it was built from, unchanged",
            "Name the folder with the same pictures and captions.",
        )
    return seen_from(
        store,
        replace(
            spec,
            root=str(data if data.is_dir() or spec.reader == OF_THE_TASK else found.root),
            file=spec.file if data.is_dir() else found.spec.file,
        ),
    )


def _checkpoints(store: Path, run: Path, manifest: Manifest) -> tuple:
    opened, moved = open_run(run), []
    for m, checkpoint in enumerate(manifest.checkpoints):
        file = opened.checkpoint(m)
        if not file.is_file() or weights_digest(file) != checkpoint.sha256:
            raise StoreError(
                f"run {run}", f"other weights in {file.name}", "the store's own", "Name its run directory."
            )
        moved.append(replace(checkpoint, path=relative_path(file, store)))
    return tuple(moved)
