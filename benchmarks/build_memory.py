"""Peak memory of a build at n and at 4n pairs: it should not grow.

    python benchmarks/build_memory.py [--n 1000] [--proj-dim 512] [--json]

Each build runs in a process of its own on demo pairs, with one briefly trained checkpoint; the peak resident memory is
what the operating system reports for it. Pages of memory-mapped files count, as far as they are resident.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

CHILD = """
import resource, sys
from pathlib import Path
from traklens.engine.build.stages import build_store
from traklens.engine.build.source import Source
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

folder, dim = Path(sys.argv[1]), int(sys.argv[2])
source = Source.open(folder / "data", run=folder / "run")
opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_store(source, folder / "store", ModelOutputSpec(), ProjectionSpec(dim=dim), ScoreSpec(), gradients="hooks")
print(opened, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(n: int, dim: int) -> dict[str, float]:
    """Megabytes before the build (libraries and the list of pairs) and at its peak."""
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.training.train import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = load_dataset(write_demo_dataset(folder / "data", n=n, seed=0))
        train(dataset, folder / "run", checkpoints=1, epochs=1, subset=0.1)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(folder), str(dim)], check=True, capture_output=True, text=True
        )
    before, most = (int(value) / 1024 for value in done.stdout.split())
    return {"n": n, "before_mb": before, "peak_mb": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--proj-dim", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = [peak(n, options.proj_dim) for n in (options.n, 4 * options.n)]
    growth = found[1]["peak_mb"] / found[0]["peak_mb"]
    if options.json:
        print(json.dumps({"machine": machine(), "builds": found, "growth": growth}))
        return
    print(machine())
    for line in found:
        print(f"n {line['n']:>6,}  before the build {line['before_mb']:6.0f} MB  peak {line['peak_mb']:6.0f} MB")
    print(f"growth from n to 4n: {growth:.3f} x")


if __name__ == "__main__":
    main()
