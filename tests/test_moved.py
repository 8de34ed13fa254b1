"""Data, run and store can be moved: together without a word, alone with `traklens relocate`."""

import shutil

import pytest
from typer.testing import CliRunner

from traklens.engine.attribution.new_target import LiveModels, question_about
from traklens.engine.build.relocate import relocate
from traklens.engine.cli.main import app
from traklens.engine.data import load_dataset
from traklens.engine.data.demo import write_demo_dataset
from traklens.engine.retraining.jobs import retraining_method
from traklens.engine.training.train import train
from traklens.stores.errors import DataError, StoreError, UsageError
from traklens.stores.reviews import Reviews
from traklens.stores.store import open_store


@pytest.fixture
def moved(tiny_demo, tmp_path):
    """Everything of the tiny demo in another place; the old one is out of reach."""
    for name in ("data", "run", "store"):
        ignore = shutil.ignore_patterns("reviews*", "retrained")
        shutil.copytree(tiny_demo / name, tmp_path / "new" / name, ignore=ignore)
    return tmp_path / "new"


def test_moved_together_everything_goes_on(moved, tiny_demo):
    store = open_store(moved / "store")
    assert store.data_root == moved / "data"
    assert store.image_path(0).is_file()
    assert retraining_method(store).digest == retraining_method(open_store(tiny_demo / "store")).digest
    run = train(load_dataset(moved / "data"), moved / "run", checkpoints=2, epochs=2, batch_size=16, heldout=0.2)
    assert set(run.quality) == {"0", "1"}  # recognised: nothing was trained again


def test_what_was_moved_alone_is_named_and_relocated(moved, tmp_path):
    Reviews(moved / "store").decide(["a pair"], "wrong")
    for name in ("data", "run"):
        shutil.move(moved / name, tmp_path / f"elsewhere-{name}")
    path = moved / "store"
    store = open_store(path)
    object.__setattr__(store.manifest.dataset, "origin", "")  # the place it was built in is gone, too
    with pytest.raises((DataError, StoreError), match="relocate"):
        retraining_method(store)
    relocate(path, run=tmp_path / "elsewhere-run", data=tmp_path / "elsewhere-data")
    store = open_store(path)
    assert store.data_root == tmp_path / "elsewhere-data"
    assert store.verify() == []
    assert retraining_method(store).run is not None
    assert len(Reviews(path).current()) == 1
    models = LiveModels(store)
    id = str(store.examples.id[0])
    assert question_about(models, id, None, None).words == store.examples.words[0]


def test_other_data_or_weights_are_refused(moved, tmp_path):
    other = write_demo_dataset(tmp_path / "other", n=30, seed=9)
    with pytest.raises(StoreError, match="not those of the store"):
        relocate(moved / "store", data=other)
    (moved / "run/checkpoint_1.safetensors").write_bytes(b"other weights")
    with pytest.raises(StoreError, match="checkpoint_1"):
        relocate(moved / "store", run=moved / "run")
    with pytest.raises(UsageError, match="--data"):
        relocate(moved / "store")
    assert open_store(moved / "store").verify() == []


def test_the_command_says_what_it_did(moved):
    done = CliRunner().invoke(app, ["relocate", str(moved / "store"), "--data", str(moved / "data")])
    assert done.exit_code == 0
    assert "places renewed" in done.output
