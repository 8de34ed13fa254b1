"""Killed with SIGKILL in the middle of each stage, `train` and `build` go on and end with the same bytes."""

import json
import random
import signal
from pathlib import Path

import pytest

from tests.resuming import ended, killed_at_random
from traklens.engine.data import load_dataset
from traklens.engine.data.demo import write_demo_dataset
from traklens.stores.checksums import digest, files_of

PAIRS = 300  # two chunks


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data and an uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    write_demo_dataset(folder / "data", n=PAIRS, seed=3)
    assert len(load_dataset(folder / "data").examples) == PAIRS
    assert ended("train", folder, folder / "run") == 0
    return folder


def test_a_killed_training_ends_with_the_same_weights(folder, tmp_path):
    for stage, at in (("training checkpoint 1", 100), ("training checkpoint 2", 64)):
        assert ended("train", folder, tmp_path / "run", stage, at) == -signal.SIGKILL
    assert (tmp_path / "run/checkpoint_1.partial.safetensors").is_file()
    assert ended("train", folder, tmp_path / "run") == 0
    for name in ("checkpoint_0.safetensors", "checkpoint_1.safetensors", "split.parquet", "run.json"):
        assert digest(tmp_path / "run" / name) == digest(folder / "run" / name), name
    assert not list((tmp_path / "run").glob("*.partial.*"))


def test_a_killed_build_ends_with_the_same_bytes(folder, tmp_path):
    assert ended("build", folder, tmp_path / "whole") == 0
    kills = [
        ("thumbnails", 100),
        ("embedding, checkpoint 1", 256),
        ("gradients, checkpoint 1", 32),
        ("gradients, checkpoint 1", 288),
        ("preconditioning, checkpoint 1", 256),
        ("gradients, checkpoint 2", 280),
        ("influence index", 100),
        ("similarity index", 200),
    ]
    for stage, at in kills:
        assert ended("build", folder, tmp_path / "killed", stage, at) == -signal.SIGKILL, stage
        assert not (tmp_path / "killed").exists()
        assert (tmp_path / "killed.building").is_dir()
    moment, kills_at_random = random.Random(0), 0
    for _ in range(3):
        if not (tmp_path / "at-random").exists():
            kills_at_random += killed_at_random(folder, tmp_path / "at-random", moment) == -signal.SIGKILL
    assert kills_at_random
    for name in ("killed", "at-random"):
        assert ended("build", folder, tmp_path / name) == 0
        assert not (tmp_path / f"{name}.building").exists()
        _assert_same_bytes(tmp_path / name, tmp_path / "whole")


def _assert_same_bytes(found: Path, whole: Path) -> None:
    assert files_of(found) == files_of(whole)
    for name in files_of(whole):
        if name != "manifest.json":
            assert digest(found / name) == digest(whole / name), name
    one, other = (json.loads((store / "manifest.json").read_text()) for store in (found, whole))
    assert {**one, "created": ""} == {**other, "created": ""}


def test_what_a_killed_build_has_finished_is_not_done_again(folder, tmp_path):
    assert ended("build", folder, tmp_path / "store", "gradients, checkpoint 2", 288) == -signal.SIGKILL
    phi = tmp_path / "store.building/features.zarr/checkpoint_0/phi/c/0/0"
    written = phi.stat().st_mtime_ns
    assert ended("build", folder, tmp_path / "store") == 0
    assert (tmp_path / "store/features.zarr/checkpoint_0/phi/c/0/0").stat().st_mtime_ns == written
