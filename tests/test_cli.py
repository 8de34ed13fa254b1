"""The command line: the JSON contract others script against, exit codes, and one message per mistake."""

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from traklens.engine.cli.main import app
from traklens.stores.errors import TrakLensError
from traklens.stores.store import open_store


def _run(*arguments) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def _process(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "traklens.engine.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_query_json_has_the_agreed_fields(tiny_store):
    store = open_store(tiny_store)
    id = str(store.examples.id[70])
    found = json.loads(_run("query", tiny_store, "--id", id, "--top", 3, "--json"))
    assert set(found) == {"target", "f", "similarity", "proponents", "opponents", "seconds"}
    assert found["target"]["id"] == id
    assert 1 <= len(found["proponents"]) <= 3
    assert 1 <= len(found["opponents"]) <= 3
    for pair in (*found["proponents"], *found["opponents"]):
        assert set(pair) == {"id", "score", "caption", "image"}
    scores = [pair["score"] for pair in found["proponents"]]
    assert scores == sorted(scores, reverse=True)
    scores = [pair["score"] for pair in found["opponents"]]
    assert scores == sorted(scores)


def test_query_by_image_and_caption_agrees_with_the_stored_pair(tiny_store, tiny_demo):
    store = open_store(tiny_store)
    row = 70
    image, caption = tiny_demo / "data" / store.examples.image[row], store.examples.words[row]
    stored = json.loads(_run("query", tiny_store, "--id", store.examples.id[row], "--top", 64, "--json"))
    live = json.loads(_run("query", tiny_store, "--image", image, "--caption", caption, "--top", 64, "--json"))
    assert live["f"] == pytest.approx(stored["f"], abs=1e-3)  # a float32 logit, of cosines times up to 100
    assert live["similarity"] == pytest.approx(stored["similarity"], abs=1e-5)
    scores = {pair["id"]: pair["score"] for side in ("proponents", "opponents") for pair in stored[side]}
    rounding = 1e-3 * max(map(abs, scores.values()))  # which of two near-equal scores comes first is not held
    for side in ("proponents", "opponents"):
        ranked = [pair["score"] for pair in live[side]]
        assert ranked == pytest.approx([pair["score"] for pair in stored[side]][: len(ranked)], abs=rounding)
        assert [scores[pair["id"]] for pair in live[side]] == pytest.approx(ranked, abs=rounding)


def test_query_prints_hostile_captions_as_they_are(hostile_store):
    store = open_store(hostile_store)
    row = next(row for row in range(store.n) if "[bold]rich[/bold]" in store.examples.words[row])
    shown = _run("query", hostile_store, "--id", store.examples.id[row])
    assert "[bold]rich[/bold]" in shown  # rich's own markup is not interpreted
    assert "proponents" in shown


def test_contrast_is_a_difference_of_two_live_queries(tiny_store, tiny_demo):
    store = open_store(tiny_store)
    image = tiny_demo / "data" / store.examples.image[3]
    one, other = "a red circle sign with the letter a", "a blue square sign with the letter b"
    alone = [
        json.loads(_run("query", tiny_store, "--image", image, "--caption", c, "--json"))["f"] for c in (one, other)
    ]
    both = json.loads(_run("query", tiny_store, "--image", image, "--caption", one, "--contrast", other, "--json"))
    assert both["f"] == pytest.approx(alone[0] - alone[1], abs=1e-3)
    assert both["target"]["contrast"] == other


def test_info_json_counts_and_verifies(tiny_store, tmp_path):
    found = json.loads(_run("info", tiny_store, "--verify", "--json"))
    assert found["pairs"] == {"training": 64, "held-out": 16}
    assert found["problems"] == []
    copy = tmp_path / "copy"
    shutil.copytree(tiny_store, copy)
    content = bytearray((copy / "influence.faiss").read_bytes())
    content[-1] ^= 255
    (copy / "influence.faiss").write_bytes(bytes(content))
    damaged = _process("info", copy, "--verify", "--json")
    assert json.loads(damaged.stdout)["problems"]
    assert damaged.returncode != 0


def test_dry_run_tells_and_writes_nothing(tiny_demo, tmp_path):
    output = _run("build", tiny_demo / "data", "--run", tiny_demo / "run", "--store", tmp_path / "s", "--dry-run")
    for word in ("gradients", "projection", "time", "disk", "memory"):
        assert word in output
    assert list(tmp_path.iterdir()) == []


def test_train_build_and_query_as_a_user_types_them(tiny_demo, tmp_path):
    run, store = tmp_path / "run", tmp_path / "store"
    _run("train", tiny_demo / "data", "--out", run, "--checkpoints", 1, "--epochs", 1, "--batch-size", 16)
    _run("build", tiny_demo / "data", "--run", run, "--store", store, "--proj-dim", 32)
    _run("build", tiny_demo / "data", "--run", run, "--store", store, "--proj-dim", 32)  # again: nothing to do
    assert json.loads(_run("info", store, "--json"))["pairs"] == {"training": 72, "held-out": 8}


def test_building_from_checkpoints_alone(tiny_demo, tmp_path):
    """Checkpoints from elsewhere: an open_clip configuration of the user's, `.safetensors` and `.pt`."""
    import torch

    from traklens.engine.models.checkpoints import build_model, model_spec

    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "small.json").write_text(json.dumps(config))
    spec = model_spec(str(tmp_path / "small.json"))
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"epoch_{seed}.pt")
        weights = {f"module.{name}": t for name, t in build_model(spec, seed=seed).state_dict().items()}
        torch.save({"state_dict": weights}, paths[-1])
    store = tmp_path / "store"
    _run(
        "build", tiny_demo / "data", "--model", tmp_path / "small.json", "--checkpoint", paths[0],
        "--checkpoint", paths[1], "--store", store, "--proj-dim", 32, "--references", 32,
    )  # fmt: skip
    found = json.loads(_run("info", store, "--json"))
    assert found["pairs"] == {"training": 80, "held-out": 0}
    assert len(found["checkpoints"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "STORE"],
        ["query", "STORE", "--id", "nobody"],
        ["query", "STORE", "--id", "x", "--image", "y.png"],
        ["query", "STORE", "--image", "nowhere.png", "--caption", "a sign"],
        ["query", "nowhere", "--id", "x"],
        ["query", "STORE", "--id", "ID", "--top", "0"],
        ["info", "nowhere"],
        ["train", "nowhere", "--out", "out"],
        ["build", "nowhere", "--run", "nowhere", "--store", "out"],
    ],
)
def test_mistakes_are_one_of_our_messages(tiny_store, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    names: dict[str, str] = {"STORE": str(tiny_store), "ID": str(open_store(tiny_store).examples.id[0])}
    found = CliRunner().invoke(app, [str(names.get(a, a)) for a in arguments])
    assert isinstance(found.exception, TrakLensError), found.exception
    assert "\n" not in str(found.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_exits_with_two_and_no_traceback(tmp_path):
    found = _process("query", tmp_path / "nowhere", "--id", "x")
    assert found.returncode == 2
    assert "no such folder" in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_query_answers_without_torch(tiny_store):
    id = str(open_store(tiny_store).examples.id[0])
    code = (
        "import sys; from traklens.engine.explore.query import answer; from pathlib import Path; "
        f"answer(Path({str(tiny_store)!r}), id={id!r}); "
        "print([m for m in ('torch', 'cupy', 'open_clip', 'streamlit') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


def test_a_folder_one_may_not_write_to_is_one_message(tiny_demo):
    found = _process("build", tiny_demo / "data", "--run", tiny_demo / "run", "--store", "/proc/nowhere/store")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert "error:" in found.stderr


def test_further_pairs_become_held_out_targets(tiny_demo, tmp_path):
    from traklens.engine.data.demo import write_demo_dataset

    more, store = write_demo_dataset(tmp_path / "more", n=10, seed=77), tmp_path / "store"
    _run(
        "build", tiny_demo / "data", "--run", tiny_demo / "run", "--targets", more, "--store", store, "--proj-dim", 32
    )
    opened = open_store(store)
    assert (opened.n_train, opened.n_heldout) == (64, 26)
    last = opened.n - 1
    assert opened.examples.source[last] == "targets"
    assert opened.image_path(last).is_file()
    found = json.loads(_run("query", store, "--id", opened.examples.id[last], "--json"))
    assert found["target"]["split"] == "heldout"


def test_the_version_is_printed():
    assert _run("--version").startswith("traklens ")
