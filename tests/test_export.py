"""Exports: decisions applied, read back by the engine's own reader, no formula in a spreadsheet, bad paths named."""

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from traklens.engine.cli.main import app
from traklens.engine.data import load_dataset
from traklens.engine.label_errors.decisions import confirmed_rows
from traklens.engine.label_errors.export import FORMATS, export, save, suspects_table
from traklens.engine.label_errors.suspects import find_suspects
from traklens.stores.errors import UsageError
from traklens.stores.reviews import Reviews
from traklens.stores.store import open_store

SUSPECTS = (".csv", ".parquet", ".jsonl")


@pytest.fixture
def store(tiny_demo, tmp_path):
    shutil.copytree(tiny_demo / "store", tmp_path / "store")
    return open_store(tmp_path / "store")


@pytest.fixture
def reviewed(store):
    ids = [str(id) for id in store.examples.id[:6]]
    reviews = Reviews(store.path)
    for id, decision, caption in zip(
        ids,
        ("wrong", "keep", "duplicate", "unsure", "wrong"),
        (None, None, None, None, "a better caption"),
        strict=False,
    ):
        reviews.decide([id], decision, caption=caption)
    return reviews.current()


def test_the_training_list_is_read_back_with_the_decisions_applied(store, reviewed, tmp_path):
    out = tmp_path / "clean.tsv"
    save(export(store, find_suspects(store), reviewed, "open_clip"), out)
    found = load_dataset(out, reader="open_clip_csv")
    captions = [str(caption) for caption in store.examples.words[: store.n_train]]
    expected = [captions[1], captions[3], "a better caption", *captions[5:]]
    assert [example.fields["caption"] for example in found.examples] == expected
    assert not found.problems.problems
    kept_ids = {example.id for example in found.examples}
    assert {str(store.examples.id[1]), str(store.examples.id[3])} <= kept_ids
    assert not {str(store.examples.id[0]), str(store.examples.id[2])} & kept_ids
    assert confirmed_rows(store, reviewed).tolist() == [0, 2]


def test_every_format_says_the_same(store, reviewed):
    suspects = find_suspects(store)
    files = {name: export(store, suspects, reviewed, name) for name in FORMATS}
    n = store.n_train
    assert len(files["webdataset-keys"].decode().splitlines()) == n - 2
    table = list(csv.DictReader(io.StringIO(files["cleanlab"].decode())))
    assert [row["is_label_issue"] for row in table[:5]] == ["True", "False", "False", "False", "True"]
    assert table[4]["predicted_label"] == "a better caption"
    assert table[4]["given_label"] == str(store.examples.words[4])
    quality = [float(row["label_quality"]) for row in table]
    assert quality[suspects.order[0]] == min(quality)  # lower is worse
    rows = list(csv.DictReader(io.StringIO(files["fiftyone"].decode())))
    assert [row["decision"] for row in rows[:6]] == ["wrong", "keep", "duplicate", "unsure", "wrong", "none"]
    frame = pq.read_table(io.BytesIO(files["parquet"])).to_pydict()
    assert frame["decision"][:6] == ["wrong", "keep", "duplicate", "unsure", "wrong", ""]
    assert sorted(frame["rank"]) == list(range(1, n + 1))
    with pytest.raises(UsageError, match="'xml'"):
        export(store, suspects, reviewed, "xml")


@pytest.mark.parametrize("suffix", SUSPECTS)
def test_suspects_are_written_worst_first(store, suffix, tmp_path):
    suspects = find_suspects(store)
    content = suspects_table(store, suspects, {}, suspects.order[:7], suffix)
    wanted = [str(store.examples.id[row]) for row in suspects.order[:7]]
    if suffix == ".csv":
        ids = [row["id"] for row in csv.DictReader(io.StringIO(content.decode()))]
    elif suffix == ".parquet":
        ids = pq.read_table(io.BytesIO(content))["id"].to_pylist()
    else:
        ids = [json.loads(line)["id"] for line in content.decode().splitlines()]
    assert ids == wanted
    with pytest.raises(UsageError, match=r"\.xml"):
        suspects_table(store, suspects, {}, suspects.order[:7], ".xml")


def test_what_is_not_known_is_an_empty_cell_and_a_caption_called_nan_stays_one(store):
    suspects = find_suspects(store)
    first = int(suspects.order[0])
    signals = {name: values.astype(float) for name, values in suspects.signals.items()}
    signals["margin"][first] = np.nan
    suspects = replace(suspects, signals=signals)
    store.examples.__dict__["caption"] = np.array(["nan", "NA", "None"] * store.n, dtype=object)[: store.n]
    content = {suffix: suspects_table(store, suspects, {}, suspects.order[:2], suffix) for suffix in SUSPECTS}
    rows = list(csv.DictReader(io.StringIO(content[".csv"].decode())))
    assert rows[0]["margin"] == rows[0]["decision"] == rows[0]["corrected_caption"] == ""
    assert float(rows[1]["margin"]) == pytest.approx(signals["margin"][suspects.order[1]])
    lines = [json.loads(line) for line in content[".jsonl"].decode().splitlines()]
    frame = pq.read_table(io.BytesIO(content[".parquet"])).to_pylist()
    assert lines[0]["margin"] is frame[0]["margin"] is None
    expected = [str(store.examples.words[row]) for row in suspects.order[:2]]
    assert [row["caption"] for row in rows] == [row["caption"] for row in lines] == expected


def test_no_cell_of_a_spreadsheet_is_a_formula_and_the_training_list_is_verbatim(hostile_store, tmp_path):
    shutil.copytree(hostile_store, tmp_path / "store")
    store = open_store(tmp_path / "store")
    suspects = find_suspects(store)
    hostile = [row for row in range(store.n_train) if str(store.examples.words[row]).startswith("=HYPERLINK")]
    assert hostile
    Reviews(store.path).decide([str(store.examples.id[hostile[0]])], "wrong", caption="@SUM(1+1)")
    decisions = Reviews(store.path).current()
    for name in ("cleanlab", "fiftyone"):
        for row in csv.reader(io.StringIO(export(store, suspects, decisions, name).decode())):
            assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    content = suspects_table(store, suspects, decisions, suspects.order, ".csv").decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert not any(row["caption"].startswith("=") or row["corrected_caption"].startswith("@") for row in rows)
    out = tmp_path / "clean.tsv"
    save(export(store, suspects, decisions, "open_clip"), out)
    captions = [example.fields["caption"] for example in load_dataset(out, reader="open_clip_csv").examples]
    given = [str(caption) for caption in store.examples.words[: store.n_train]]
    given[hostile[0]] = "@SUM(1+1)"
    assert captions == given


def test_command_line_hunts_and_exports(store, reviewed, tmp_path):
    runner = CliRunner()
    out = tmp_path / "suspects.csv"
    result = runner.invoke(
        app, ["hunt", str(store.path), "--top", "5", "--out", str(out), "--truth", "true_text", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert '"methods"' in result.stdout
    assert len(out.read_text(encoding="utf-8").splitlines()) == 6
    clean = tmp_path / "clean.tsv"
    result = runner.invoke(app, ["export", str(store.path), "--out", str(clean)])
    assert result.exit_code == 0, result.output
    assert "2 left out, 1 captions corrected" in " ".join(result.stdout.split())
    with pytest.raises(UsageError, match="no folder"):
        save(b"", tmp_path / "nowhere" / "x.csv")
