"""Real data sets, each through the whole pipeline, as a user would: train, build, query."""

import json

import pytest
from typer.testing import CliRunner

from traklens.engine.cli.main import app
from traklens.engine.data import load_dataset
from traklens.stores.store import open_store

pytestmark = pytest.mark.realdata


def _run(*arguments) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stamps", ["--sample", 120]),
        ("cifar10n", ["--sample", 120, "--caption-template", "a photo of a {random_label1}"]),
        ("tiny_coco", []),
    ],
)
def test_train_build_query(real_data, tmp_path, name, options):
    data, run, store = real_data / name, tmp_path / "run", tmp_path / "store"
    _run("train", data, "--out", run, "--checkpoints", 1, "--epochs", 1, "--batch-size", 32, *options)
    _run("build", data, "--run", run, "--store", store, "--proj-dim", 64, "--references", 64, *options)
    opened = open_store(store)
    assert opened.verify() == []
    assert opened.n_heldout > 0
    found = json.loads(_run("query", store, "--id", opened.examples.id[0], "--json"))  # is its own proponent at least
    assert all(pair["score"] > 0 for pair in found["proponents"])
    assert all(pair["score"] < 0 for pair in found["opponents"])
    assert (data / found["proponents"][0]["image"]).is_file()


def test_every_real_pair_is_read(real_data):
    assert len(load_dataset(real_data / "stamps").examples) == 785 - _left_out(real_data / "stamps")
    coco = load_dataset(real_data / "tiny_coco")
    assert len({example.group for example in coco.examples}) == 100 - coco.problems.counts().get("missing image", 0)


def _left_out(folder) -> int:
    return sum(load_dataset(folder).problems.counts().values())
