"""A finished build is put in place around what people wrote: cut at any operation, nothing of either is lost or mixed."""

import errno
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.killing import killed_before
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.evaluation.evaluate import evaluate
from traklens.engine.retraining.jobs import ModelToTrain, retraining_method
from traklens.engine.retraining.measurements import Measurements
from traklens.engine.retraining.worker import train_models
from traklens.stores import locks
from traklens.stores.checksums import files_of, verify_files, write_checksums
from traklens.stores.errors import StoreError
from traklens.stores.layout import HUNT, building_path, replaced_path
from traklens.stores.locks import lock_path, writing
from traklens.stores.placing import commit, is_half_placed, put_in_place
from traklens.stores.retrained import Retrained
from traklens.stores.reviews import Reviews
from traklens.stores.specs import ProjectionSpec
from traklens.stores.store import open_store

DECISIONS = 12
OF_VISITORS = shutil.ignore_patterns("hunt.npz", "predicted.json", "evaluation.json", "reviews*", "retrained")
NEW = "2030-01-01T00:00:00+00:00"


@pytest.fixture
def rebuilt(tiny_store, tmp_path) -> Path:
    """A store with decisions, a retrained model and an evaluation, and beside it a whole new build of it."""
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store, ignore=OF_VISITORS)
    decide(store, range(DECISIONS))
    (store / "retrained/models").mkdir(parents=True)
    (store / "retrained/models/a.npz").write_bytes(b"measured")
    (store / "hunt.npz").write_bytes(b"of the old features")
    building = building_path(store)
    shutil.copytree(tiny_store, building, ignore=OF_VISITORS)
    manifest = json.loads((building / "manifest.json").read_text())
    (building / "manifest.json").write_text(json.dumps(manifest | {"created": NEW}))
    write_checksums(building)
    (building / "progress.json").write_text("{}")
    return store


def decide(store: Path, numbers) -> None:
    for number in numbers:
        Reviews(store).decide([f"pair {number}"], "wrong", reviewer="a")


def assert_whole(store: Path, tiny_store: Path, decisions: int = DECISIONS) -> None:
    assert open_store(store).manifest.created == NEW
    assert verify_files(store) == []
    assert files_of(store) == files_of(tiny_store)
    assert len(Reviews(store).current()) == decisions
    assert (store / "retrained/models/a.npz").read_bytes() == b"measured"
    assert not (store / "hunt.npz").exists()
    assert sorted(p.name for p in store.parent.iterdir()) == ["store"]


@pytest.mark.parametrize("live", [False, True], ids=["closed log", "live write-ahead log"])
def test_killed_before_any_operation_nothing_is_lost_and_the_repetition_ends_the_same(
    rebuilt, tiny_store, tmp_path, live
):
    kills = 0
    for n in [*range(1, 40), *range(40, 400, 20)]:  # all of the moves, a sample of the removals that follow
        place = tmp_path / str(n)
        place.mkdir()
        store = place / "store"
        shutil.copytree(rebuilt, store)
        shutil.copytree(building_path(rebuilt), building_path(store))
        log = sqlite3.connect(store / "reviews.sqlite", isolation_level=None)
        if live:
            log.execute("INSERT INTO entries VALUES (100, 100, 0, 'b', 'wrong', 'pair 100', NULL, NULL)")
            assert (store / "reviews.sqlite-wal").stat().st_size
        died = killed_before(n, lambda store=store: (commit(building_path(store)), put_in_place(store)))
        assert len(Reviews(store).current()) == DECISIONS + live
        if not (building_path(store) / "placing.json").exists() and (store / "hunt.npz").exists():
            assert open_store(store).manifest.created != NEW  # not yet committed: the old store, whole
            commit(building_path(store))
        open_store(store)  # goes on by itself
        put_in_place(store)
        assert_whole(store, tiny_store, DECISIONS + live)
        log.close()
        shutil.rmtree(place)
        kills += died
        if not died:
            break
    assert kills > 30


def test_a_first_build_killed_while_it_is_put_in_place_is_finished_by_opening_it(rebuilt, tiny_store):
    shutil.rmtree(rebuilt)
    for n in (2, 5, 9):
        store = rebuilt.with_name(f"first-{n}")
        shutil.copytree(building_path(rebuilt), building_path(store))
        commit(building_path(store))
        assert killed_before(n, lambda store=store: put_in_place(store))
        assert is_half_placed(store)
        assert open_store(store).manifest.created == NEW
        assert verify_files(store) == []


def test_a_store_that_is_being_replaced_is_not_read_in_halves(rebuilt):
    commit(building_path(rebuilt))
    assert killed_before(4, lambda: put_in_place(rebuilt))
    with writing(rebuilt, "store"), pytest.raises(StoreError, match="another process"):
        open_store(rebuilt)
    open_store(rebuilt)


INTERRUPTED = {  # what version 0.1 left when its swap was cut, by what lay where
    "moved aside": {"replaced": ("reviews", "retrained"), "building": ()},
    "reviews moved": {"replaced": ("retrained",), "building": ("reviews",)},
    "both moved": {"replaced": (), "building": ("reviews", "retrained")},
}


@pytest.mark.parametrize("where", INTERRUPTED.values(), ids=INTERRUPTED)
@pytest.mark.parametrize("decided_since", [False, True])
def test_decisions_that_an_interrupted_swap_left_elsewhere_come_back(rebuilt, tiny_store, where, decided_since):
    aside, building = replaced_path(rebuilt), building_path(rebuilt)
    rebuilt.rename(aside)
    for name in where["building"]:
        for entry in aside.glob(f"{name}*"):
            entry.rename(building / entry.name)
    if decided_since:
        building.rename(rebuilt) if not where["building"] else None
        decide(rebuilt, range(20, 23)) if rebuilt.is_dir() else None
        if rebuilt.is_dir():
            shutil.copytree(rebuilt, building, ignore=shutil.ignore_patterns("reviews*"))
    extra = 3 if decided_since and not where["building"] else 0
    put_in_place(rebuilt)
    assert len(Reviews(rebuilt).current()) == DECISIONS + extra
    assert (rebuilt / "retrained/models/a.npz").read_bytes() == b"measured"
    commit(building)
    put_in_place(rebuilt)
    assert_whole(rebuilt, tiny_store, DECISIONS + extra)
    assert Reviews(rebuilt).undo("a")  # the numbering of acts still holds


def test_one_writer_at_a_time_and_no_lock_is_left(tmp_path):
    folder = tmp_path / "run"
    with writing(folder, "run"):
        with pytest.raises(StoreError, match="another process writing it"), writing(folder, "run"):
            pass
        with pytest.raises(StoreError), writing(folder, "run", shared=True):
            pass
    with writing(folder, "run", shared=True), writing(folder, "run", shared=True):
        pass
    assert not lock_path(folder).exists()


def test_a_dead_writer_holds_nothing(tmp_path):
    def die() -> None:
        import os

        with writing(tmp_path / "run", "run"):
            os.mkdir(tmp_path / "x")  # noqa: PTH102 - counted

    assert killed_before(2, die)
    with writing(tmp_path / "run", "run"):
        pass


def test_a_rebuild_keeps_what_was_retrained_and_decided_but_not_the_suspects(own_store, tiny_demo):
    store = open_store(own_store)
    train_models(store, [ModelToTrain(np.ones(store.n_train, dtype=bool), 0)])
    Reviews(store.path).decide([str(store.examples.id[3])], "wrong")
    (store.path / HUNT).write_bytes(b"of the build before")
    source = Source.open(tiny_demo / "data", run=store.path.parent / "run")
    manifest = store.manifest
    build_store(
        source,
        store.path,
        manifest.model_output,
        ProjectionSpec(dim=32),
        replace(manifest.score, damping=1.0),
        overwrite=True,
    )
    again = open_store(store.path)
    assert Measurements(again).model(np.ones(store.n_train, dtype=bool), 0) is not None
    assert list(Reviews(again.path).current()) == [str(store.examples.id[3])]
    assert not (again.path / HUNT).exists()
    assert again.verify() == []


def test_models_are_retrained_together_but_not_while_the_store_is_built(own_store):
    store = open_store(own_store)
    wanted = [ModelToTrain(np.ones(store.n_train, dtype=bool), 0)]
    with writing(own_store, "store"):
        with pytest.raises(StoreError, match="another process writing it"):
            train_models(store, wanted)
        with pytest.raises(StoreError, match="another process writing it"):
            evaluate(store, subsets=4, targets=2)
    assert not Retrained(own_store).all(retraining_method(store).digest)
    with writing(own_store, "store", shared=True):
        train_models(store, wanted)
        with pytest.raises(StoreError, match="or retraining its models"), writing(own_store, "store"):
            pass
    assert len(Retrained(own_store).all(retraining_method(store).digest)) == 1


def test_where_nobody_may_write_beside_a_store_its_models_need_no_lock(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks.os, "open", refused)
    with writing(tmp_path / "store", "store", shared=True):
        pass
    with pytest.raises(PermissionError), writing(tmp_path / "store", "store"):
        pass
