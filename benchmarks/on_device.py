"""Runs the steps of benchmarks/on_device.sh: each in a process of its own with a budget of its own, results as JSON lines.

A line is {"step", "seconds", …} with what was found, or with "skipped" or "failed" and why. A step that fails, hangs or
crashes the driver does not stop the next one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from on_device_steps import LEFT, STEPS, SkippedError, flag  # noqa: E402

SECONDS = 540.0
RESULTS = "results.jsonl"


def write(out: Path, line: dict) -> None:
    """Append one whole line, on disk before this returns."""
    text = json.dumps(line) + "\n"
    with (out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    print(text[:300].rstrip(), flush=True)


def one_step(name: str, out: Path, rehearse: bool) -> int:
    """Run a step in this process, writing what it finds as it finds it; 1 if something was not as it should be."""
    begun, failed = time.monotonic(), 0
    try:
        for found in STEPS[name][1](rehearse):
            write(out, {"step": name, "seconds": round(time.monotonic() - begun, 2)} | found)
            failed += not found.get("ok", True)
    except SkippedError as error:
        write(out, {"step": name, "skipped": str(error)})
    except Exception as error:  # whatever a driver raises: it is the finding
        write(out, {"step": name, "failed": f"{type(error).__name__}: {error}"})
        return 1
    return int(failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Everything a GPU has to show.")
    parser.add_argument("--rehearse", action="store_true", help="on the processor, with tiny sizes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all steps together")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts/on_device")
    parser.add_argument("--step", action="append", choices=STEPS, help="only these")
    parser.add_argument("--only", choices=STEPS, help="one step in this very process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        return one_step(options.only, options.out, options.rehearse)
    end, failed = time.monotonic() + options.seconds, 0
    for name in options.step or STEPS:
        left = min(STEPS[name][0], end - time.monotonic())
        if left < 1:
            write(options.out, {"step": name, "skipped": "no time left"})
            continue
        print(f"== {name} (at most {left:.0f} s)", flush=True)
        command = [sys.executable, __file__, "--only", name, "--out", str(options.out), *flag(options.rehearse)]
        try:
            environment = os.environ | {LEFT: str(left)}
            failed += subprocess.run(command, timeout=left, cwd=ROOT, env=environment).returncode != 0
        except subprocess.TimeoutExpired:
            write(
                options.out,
                {"step": name, "failed": f"cut after {left:.0f} s; what it found until then stands above"},
            )
            failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
