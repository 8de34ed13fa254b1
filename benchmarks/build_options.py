"""What the options of a build do to LDS: f, length of rows, Adam's scale, whose Gram matrix, λ, k.

    python benchmarks/build_options.py DATA RUN STORE WORK [--checkpoints 1] [--subsets 24] [--repeats 1]

STORE is of RUN at the defaults, and evaluated (`traklens evaluate STORE --subsets 24`): its retrained models are the truth.
One store per option is built in WORK, everything else at its default; LDS without soft threshold, bootstrap intervals over
targets, and the paired difference to the defaults. What is built is not built again.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from machine import machine

from traklens.engine.attribution.methods import scores_of
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.evaluation.evaluate import target_rows
from traklens.engine.evaluation.lds import judged
from traklens.engine.retraining.jobs import retraining_method
from traklens.engine.retraining.subsets import measured_subsets
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
from traklens.stores.store import open_store

OPTIONS: dict[str, tuple[dict, dict, dict]] = {  # name: what differs in model output, projection and score
    "the defaults": ({}, {}, {}),
    "--output log_probability": ({"output": "log_probability"}, {}, {}),
    "--no-weight-by-q": ({}, {}, {"weight_by_q": False}),
    "--normalize unit": ({}, {}, {"normalize": "unit"}),
    "--second-moment gradients": ({}, {}, {"second_moment": "gradients"}),
    "--gram targets": ({}, {}, {"gram": "targets"}),
    "--gram mixed": ({}, {}, {"gram": "mixed"}),
    "--damping 0.1": ({}, {}, {"damping": 0.1}),
    "--damping 10": ({}, {}, {"damping": 10.0}),
    "--proj-dim 512": ({}, {"dim": 512}, {}),
    "--proj-dim 8192": ({}, {"dim": 8192}, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "run", "store", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--checkpoints", type=int, help="The first so many of the run's; all if not given.")
    parser.add_argument("--subsets", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--targets", type=int, default=200)
    wanted = parser.parse_args()
    source, measure = Source.open(wanted.data, run=wanted.run), open_store(wanted.store)
    if wanted.checkpoints is not None and source.subsets is not None:
        first = slice(0, wanted.checkpoints)
        source = replace(source, checkpoints=source.checkpoints[first], subsets=source.subsets[first])
    rows = target_rows(measure, wanted.targets)
    kept, f, _ = measured_subsets(measure, retraining_method(measure), wanted.subsets, wanted.repeats)
    print(machine())
    print(
        f"{source.task.name}, M = {len(source.checkpoints)}, {source.n_train:,} training examples, {len(rows)} targets, "
        f"{len(kept)} halves, {wanted.repeats} models each\n"
    )
    print("| option | LDS | 95 % | less the defaults, 95 % |\n|---|---|---|---|")
    defaults = None
    for number, (name, (output, projection, score)) in enumerate(OPTIONS.items()):
        path = wanted.work / f"option-{number}"
        build_store(source, path, ModelOutputSpec(**output), ProjectionSpec(**projection), ScoreSpec(**score))
        each = judged(scores_of(open_store(path), "trak", rows).scores, kept, f[:, rows])
        defaults = each if defaults is None else defaults
        found, less = each.interval, each.lead(defaults)
        gap = "" if each is defaults else f"{less.mean:+.3f} ({less.lo:+.3f} to {less.hi:+.3f})"
        print(f"| `{name}` | {found.mean:.3f} | {found.lo:.3f} to {found.hi:.3f} | {gap} |", flush=True)


if __name__ == "__main__":
    main()
