"""`traklens info`: what a store was built from, how healthy it is, how large."""

from pathlib import Path
from typing import Any

from traklens.engine.explore.health import health_of
from traklens.engine.explore.reproduce import commands
from traklens.stores.checksums import files_of
from traklens.stores.specs import Manifest, to_dict
from traklens.stores.store import Store, open_store


def describe(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """Facts about a store; with `verify`, `problems` lists every file whose bytes are not as written.

    Raises StoreError when the store cannot be opened.
    """
    store = open_store(path)
    manifest = store.manifest
    found: dict[str, Any] = {
        store.noun: {"training": store.n_train, "held-out": store.n_heldout},
        "task": f"{manifest.task.name} {manifest.task.version}",
        "model": manifest.model.name,
        "checkpoints": [f"{c.path} ({c.subset or 'training set unknown'})" for c in manifest.checkpoints],
        "projection": f"{manifest.projection.kind}, k = {manifest.projection.dim}, seed {manifest.projection.seed}",
        "damping": manifest.score.damping,
        "model_output": output_in_words(manifest),
        "health": [found.in_words() for found in health_of(store)],
        "commands": commands(store),
        "index": {"type": manifest.score.index} | manifest.recall,
        "data": {"root": str(store.data_root)} | manifest.options.get("data", {}),
        "created": manifest.created,
        "libraries": manifest.libraries,
        "megabytes": round(sum((path / name).stat().st_size for name in files_of(path)) / 1e6, 1),
        "manifest": to_dict(manifest),
    }
    if verify:
        found["problems"] = store.verify()
    return found


def output_in_words(manifest: Manifest) -> str:
    spec = manifest.model_output
    if manifest.task.name != "clip":
        return spec.output
    return f"{spec.output}, temperature {spec.temperature}, {spec.n_reference} reference pairs"


def disk_use(store: Store) -> dict[str, int]:
    """Bytes by part of the store, the largest first; what came after the build (reviews, retrained models, …) included."""
    found: dict[str, int] = {}
    for path in store.path.rglob("*"):
        if path.is_file():
            part = path.relative_to(store.path).parts[0]
            found[part] = found.get(part, 0) + path.stat().st_size
    return dict(sorted(found.items(), key=lambda item: -item[1]))
