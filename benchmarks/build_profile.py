"""Where the time of a build goes: reading, forward, gradients, projection, preconditioning and index, writing.

    python benchmarks/build_profile.py --run RUN --data DATA [--pairs 512] [--batch 64] [--proj-dim 2048] [--json]

RUN and DATA are those of a trained run, e.g. of the demo. The projection's share is the time with the projector less the
time with one that discards, taken in turns.
"""

import traklens.engine  # noqa: F401, I001  first, as in the command line: it sets how long torch's threads spin

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

from traklens.engine.features.featurize import Featurizer
from traklens.engine.streams import STREAMS
from traklens.engine.tasks.loading import Loader
from traklens.engine.features.precondition import DampedGram, gram_matrix
from traklens.engine.build.source import Source
from traklens.stores.features import FeatureWriter
from traklens.stores.index import IndexWriter
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec

TARGET = 0.2


class _Discard:
    """A projector that does nothing."""

    def accumulate(self, name, gradients, out) -> None:
        pass


def profile(source: Source, pairs: int, batch: int, spec: ProjectionSpec, repeats: int = 5) -> dict[str, float]:
    """Seconds per pair of every stage: medians over batches of `batch`."""
    task = source.task.bind(source.model, ModelOutputSpec())
    loader = Loader(task, source.rows)
    featurizer = Featurizer(task, task.load_checkpoint(source.model, source.checkpoints[0]), spec, 0)
    projector, discard = featurizer.projector, _Discard()
    context = task.context(featurizer.model, loader.training(featurizer.model, source.n_train, streams=STREAMS))
    times: dict[str, list[float]] = {
        name: [] for name in ("read", "forward", "gradients", "gradients and projection")
    }
    for turn in range(repeats + 1):
        for start in range(0, pairs, batch):
            marks = [time.perf_counter()]
            examples = loader.load(start, start + batch)
            marks.append(time.perf_counter())
            featurizer.embed(examples)
            marks.append(time.perf_counter())
            for chosen in (discard, projector):
                featurizer.projector = chosen  # type: ignore[assignment]
                featurizer.project(examples, context, [""] * batch)
                marks.append(time.perf_counter())
            for name, seconds in zip(times, np.diff(marks), strict=True):
                if turn:
                    times[name].append(seconds)
    found = {name: statistics.median(values) / batch for name, values in times.items()}
    found["projection"] = found.pop("gradients and projection") - found["gradients"]
    return found | _after(pairs, spec.dim)


def _after(pairs: int, dim: int) -> dict[str, float]:
    """Seconds per pair of preconditioning (at n = 2,000) and of writing φ, the preconditioned rows and the index."""
    phi, n = np.random.default_rng(0).standard_normal((2_000, dim), dtype=np.float32), 2_000
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        solved = DampedGram(gram_matrix([phi], dim), 0.1).solve(phi)
        between = time.perf_counter()
        writer, index = FeatureWriter(Path(name) / "f"), IndexWriter(Path(name), "i", dim, 1.0)
        for array, values in (("phi", phi), ("preconditioned", solved)):
            writer.create(0, array, values.shape, "float32")
            writer.write(0, array, 0, values)
        index.append(phi)
        index.close()
        return {"preconditioning": (between - start) / n, "writing": (time.perf_counter() - between) / n}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--proj-dim", type=int, default=2_048)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = Source.open(options.data, run=options.run)
    found = profile(source, options.pairs, options.batch, ProjectionSpec(dim=options.proj_dim))
    total = sum(found.values())
    if options.json:
        print(
            json.dumps(
                {"machine": machine(), "seconds_per_pair": found, "projection_share": found["projection"] / total}
            )
        )
        return
    print(machine(), "threads", torch.get_num_threads())
    for name, seconds in found.items():
        print(f"  {name:16} {1e3 * seconds:7.3f} ms per pair  {100 * seconds / total:5.1f} %")
    print(f"projection: {100 * found['projection'] / total:.1f} % (target ≤ {100 * TARGET:.0f} %)")


if __name__ == "__main__":
    main()
