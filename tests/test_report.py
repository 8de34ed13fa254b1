"""A report is one file: pictures inside, nothing fetched, nobody's caption interpreted, the numbers those of the pages."""

import re
import shutil

import pytest
from typer.testing import CliRunner

from traklens.engine.attribution.scores import rank, stored_target
from traklens.engine.cli.main import app
from traklens.engine.explore.report import report
from traklens.engine.removal.simulation import choose, prediction_of
from traklens.stores.store import open_store


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_store(tiny_store)


@pytest.fixture
def target(store):
    return stored_target(store, str(store.examples.id[store.n - 1]))


def test_a_report_fetches_nothing_and_runs_nothing(store, target):
    page = report(store, target)
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "://" not in page
    assert all(source.startswith("data:image/webp;base64,") for source in re.findall(r'src="([^"]*)"', page))
    found = rank(store, target, top=10)
    assert page.count("<img") == 1 + len(found.proponents) + len(found.opponents)
    assert all(pair.id in page for pair in found.proponents)


def test_a_hostile_caption_is_text_in_a_report(store, target):
    hostile = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\u202e<b>"
    page = report(store, type(target)(**{**vars(target), "words": hostile, "contrast": hostile}))
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert page.count("&lt;script&gt;alert(1)") == 3  # the title, the heading, the other caption


def test_the_removal_in_a_report_is_the_predicted_one(store, target):
    rows = choose(store, target, "trak", 5)
    prediction = prediction_of(store, target, rows)
    page = report(store, target, removed=list(rank(store, target, top=5).proponents), prediction=prediction)
    assert "Change of f without 5 training pairs" in page
    assert f"{prediction.group:+.3f}" in page
    assert "Change of f without" not in report(store, target)


def test_the_command_writes_the_report(store, target, tmp_path):
    out = tmp_path / "page.html"
    arguments = ["report", str(store.path), "--id", target.id, "--out", str(out), "--without", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Change of f without 4 training pairs" in out.read_text(encoding="utf-8")


def test_an_unknown_id_writes_no_report(store, tmp_path):
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(store.path), "--id", "nobody", "--out", str(out)])
    assert result.exit_code != 0
    assert not out.exists()


def test_a_store_that_cannot_say_how_it_was_made_still_gives_a_report(store, target, tmp_path):
    shutil.copytree(store.path, tmp_path / "alone")
    assert "traklens build" in report(open_store(tmp_path / "alone"), target)
