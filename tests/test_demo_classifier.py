"""The demo of a classifier, small, from drawn plates to a store; and what the commands say about labelled pictures."""

from PIL import Image
from typer.testing import CliRunner

from traklens.engine.cli.demo import prepare_classifier
from traklens.engine.cli.main import app
from traklens.engine.label_errors.ground_truth import truth_columns, wrong_pairs
from traklens.engine.progress import silent
from traklens.stores.store import open_store


def test_the_demo_of_a_classifier_goes_on_and_knows_its_truth(tmp_path):
    path = prepare_classifier(tmp_path, silent, examples=60, checkpoints=1)
    store = open_store(path)
    assert (store.task.name, store.n) == ("image_classifier", 60)
    assert truth_columns(store) == ["true_label"]
    assert 0 < wrong_pairs(store, "true_label").sum() < 10
    made = (path / "manifest.json").read_bytes()
    assert prepare_classifier(tmp_path, silent) == path
    assert (path / "manifest.json").read_bytes() == made


def test_options_of_the_demo_that_do_not_go_together_are_refused(tmp_path):
    for arguments in (["--task", "clip", "--data", str(tmp_path)], ["--task", "image_classifier", "--stamps"]):
        done = CliRunner().invoke(app, ["demo", "--no-app", *arguments])
        assert done.exit_code != 0
        assert "Leave one out" in str(done.exception)


def test_a_data_set_is_described_by_its_classes(tmp_path):
    for name in ("cat", "dog"):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (4, 4), "red" if name == "cat" else "blue").save(folder / "1.png")
    done = CliRunner().invoke(app, ["data", str(tmp_path), "--task", "image_classifier", "--json"])
    assert done.exit_code == 0, done.output
    assert '"classes": ["cat", "dog"]' in done.stdout
