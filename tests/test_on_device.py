"""The script for a borrowed GPU, rehearsed on the processor: every step runs, and whatever happens leaves whole lines."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks/on_device.sh"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("on_device", ROOT / "benchmarks/on_device.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for place in (str(ROOT), str(ROOT / "benchmarks")):
        sys.path.remove(place)


def _lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


STEPS = ("facts", "parity", "bandwidth", "sanitizer", "gradients", "store", "gpu_tests", "peers")


@pytest.mark.parametrize("name", STEPS)
def test_every_step_can_be_rehearsed(script, name, tmp_path):
    assert script.one_step(name, tmp_path, rehearse=True) == 0
    found = _lines(tmp_path)
    assert found
    assert all(line["step"] == name and "failed" not in line and line.get("ok", True) for line in found)


def test_the_steps_fit_into_nine_minutes_whatever_they_take(script):
    assert tuple(script.STEPS) == STEPS
    assert script.SECONDS <= 540


def test_a_step_that_fails_is_a_line_and_does_not_stop_the_next(script, tmp_path, monkeypatch):
    def broken(rehearse):
        yield {"half": 1}
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(script.STEPS, "parity", (10, broken))
    assert script.one_step("parity", tmp_path, rehearse=True) == 1
    assert script.one_step("peers", tmp_path, rehearse=True) == 0
    found = _lines(tmp_path)
    assert found[0]["half"] == 1
    assert "illegal memory access" in found[1]["failed"]


def test_what_is_not_as_it_should_be_fails_the_step(script, tmp_path, monkeypatch):
    monkeypatch.setitem(script.STEPS, "parity", (10, lambda rehearse: iter([{"ok": False}, {"ok": True}])))
    assert script.one_step("parity", tmp_path, rehearse=True) == 1
    assert len(_lines(tmp_path)) == 2


def test_what_a_step_starts_ends_with_it(script, monkeypatch):
    from on_device_steps import LEFT, _run  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv(LEFT, "4")
    sleeper = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    done = _run([sys.executable, "-c", sleeper])
    assert done.returncode == -signal.SIGKILL
    end = time.monotonic() + 10
    while _runs(int(done.stdout)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(int(done.stdout))


def _runs(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()  # a zombie has ended
    except OSError:
        return False


def test_without_time_left_a_step_is_skipped_and_said(tmp_path):
    done = subprocess.run(
        [SCRIPT, "--rehearse", "--seconds", "0.5", "--out", tmp_path],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        timeout=120,
    )
    assert done.returncode == 0
    assert [line["skipped"] for line in _lines(tmp_path)] == ["no time left"] * len(STEPS)


def test_cut_at_any_moment_it_leaves_whole_lines(tmp_path):
    child = subprocess.Popen(
        [SCRIPT, "--rehearse", "--step", "parity", "--out", tmp_path],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        start_new_session=True,
    )
    written, end = tmp_path / "results.jsonl", time.monotonic() + 120
    while not (written.exists() and b"\n" in written.read_bytes()) and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert _lines(tmp_path)
