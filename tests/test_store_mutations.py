"""Damage to any file of a store is noticed by whatever reads it: one message, never a traceback, never a wrong answer."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from traklens.engine.attribution.scores import rank, stored_target
from traklens.engine.evaluation.evaluate import kept_evaluation
from traklens.engine.explore.health import health_of
from traklens.engine.explore.info import describe
from traklens.engine.removal.effect import remove
from traklens.stores.errors import TrakLensError
from traklens.stores.retrained import Retrained
from traklens.stores.store import open_store


def everything_that_is_read(path: Path) -> None:
    """What `query`, `remove`, `info` and the pages read, for two pairs."""
    store = open_store(path)
    for id in (store.examples.id[0], store.examples.id[-1]):
        target = stored_target(store, id)
        for method in ("trak", "clip"):
            rank(store, target, method=method)
        remove(store, np.arange(3))
    for m in range(store.n_checkpoints):
        for name in ("phi", "f", "p", "q", "image_embedding", "text_embedding", "preconditioned"):
            np.asarray(store.array(m, name)[:])
    for row in range(0, store.n, 7):
        for size in ("small", "large"):
            store.thumbnail(row, size)
    store.influence.rows(np.arange(store.n_train))
    health_of(store)
    describe(path)


def message_of(read) -> str | None:
    """What a reader says; None when it noticed nothing. Anything but an error of ours fails the test."""
    try:
        read()
    except TrakLensError as error:
        return str(error)
    return None


@pytest.fixture
def copy(tiny_store, tmp_path) -> Path:
    """The store with its large files linked, not copied: a mutation writes a new file."""
    shutil.copytree(tiny_store, tmp_path / "store")
    return tmp_path / "store"


BYTES = {
    "zeroed": lambda content, draw: bytes(len(content)),
    "one bit": lambda content, draw: _flipped(content, draw.randrange(len(content)), 1 << draw.randrange(8)),
    "a byte in the middle": lambda content, draw: _flipped(content, len(content) // 2, 0xFF),
    "cut short": lambda content, draw: content[: len(content) // 2],
    "emptied": lambda content, draw: b"",
    "lengthened": lambda content, draw: content + b"\0" * 64,
}


def _flipped(content: bytes, at: int, bits: int) -> bytes:
    return content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :]


def _read_files(store: Path) -> list[str]:
    """Files that answers come from: one chunk of each array, indices, tables, descriptions."""
    arrays = ("phi", "f", "p", "q", "image_embedding", "text_embedding", "preconditioned")
    chunks = [next((store / f"features.zarr/checkpoint_1/{name}/c").rglob("0*")) for name in arrays]
    files = [chunk if chunk.is_file() else chunk / "0" for chunk in chunks]
    names = [file.relative_to(store).as_posix() for file in files]
    names += ["influence.faiss", "similarity.faiss", "influence.json", "similarity.json", "examples.parquet"]
    names += [
        "manifest.json",
        "checksums.json",
        "thumbnails/small.bin",
        "thumbnails/large.bin",
        "thumbnails/small.npy",
    ]
    return [*names, "features.zarr/zarr.json", "features.zarr/checkpoint_0/phi/zarr.json"]


def test_every_damage_to_bytes_is_noticed_by_what_reads_them(copy, tiny_store):
    draw = random.Random(7)
    everything_that_is_read(copy)
    missed = []
    for name in _read_files(copy):
        whole = (copy / name).read_bytes()
        for kind, change in BYTES.items():
            (copy / name).write_bytes(change(whole, draw))
            said = message_of(lambda: everything_that_is_read(copy))
            if said is None or not any(part in said for part in (name, Path(name).stem)):
                missed.append(f"{name} {kind}: {said}")
        (copy / name).unlink()
        with pytest.raises(TrakLensError):
            everything_that_is_read(copy)
        (copy / name).write_bytes(whole)
    assert missed == []
    everything_that_is_read(copy)


VALUES = (None, True, -1, 1.5, 10**30, "x", "\ud800", "../../../../etc/passwd", [], {}, [[["deep"]]])


def _places(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


def _with(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("sealed", [True, False], ids=["as written by us", "as written by version 0.1"])
def test_descriptions_of_another_shape_are_one_message(copy, sealed):
    """Unsealed: checksums that fit the damaged file, so that only its shape can tell."""
    from traklens.stores.checksums import write_checksums

    draw = random.Random(11)
    names = ["manifest.json", "checksums.json", "influence.json", "similarity.json", "features.zarr/zarr.json"]
    for name in names:
        whole = (copy / name).read_bytes()
        found = json.loads(whole)
        places = list(_places(found))
        for _ in range(40):
            place = draw.choice(places)
            (copy / name).write_text(json.dumps(_with(found, place, draw.choice(VALUES))))
            if not sealed:
                (copy / "checksums.sha256").unlink(missing_ok=True)
                if name != "checksums.json":
                    write_checksums(copy)
            message_of(lambda: everything_that_is_read(copy))
        (copy / name).write_text("[" * 100_000)
        with pytest.raises(TrakLensError):
            everything_that_is_read(copy)
        (copy / name).write_bytes(whole)
        write_checksums(copy)


def test_a_damaged_evaluation_or_measurement_is_one_message(copy):
    for content in (b"", b"[]", b"{}", b'{"made": 1}', b'{"lds": {"trak": 3}}', b"[" * 100_000, b"\xff\xfe"):
        (copy / "evaluation.json").write_bytes(content)
        with pytest.raises(TrakLensError, match="evaluation"):
            kept_evaluation(open_store(copy))
        for path in ("models/a.npz", "jobs/1/request.json", "jobs/1/status.json"):
            (copy / "retrained" / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / "retrained" / path).write_bytes(content)
        kept = Retrained(copy)
        for read, name in ((kept.read, "a"), (kept.request, "1"), (kept.status, "1")):
            with pytest.raises(TrakLensError):
                read(name)
