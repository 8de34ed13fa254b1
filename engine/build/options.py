"""The options of a build: what each can be, asked before anything is computed."""

import numpy as np

from traklens.engine.build.source import Source
from traklens.engine.gradients import STRATEGIES
from traklens.stores.errors import UsageError
from traklens.stores.specs import ModelOutputSpec, ScoreSpec

NORMALIZE = ("none", "unit")
SECOND_MOMENTS = ("none", "gradients", "optimizer")
GRAMS = ("train", "targets", "mixed")


def check_options(
    source: Source, output: ModelOutputSpec, score: ScoreSpec, *, batch_size: int, gradients: str | None
) -> None:
    """Raise UsageError, naming the option, for one that is none of its choices or that these examples do not allow."""
    if batch_size < 1:
        raise UsageError("batch_size", str(batch_size), "1 or more", "Try 64.")
    if not 0 <= score.damping < np.inf:
        raise UsageError("damping", str(score.damping), "a finite number, 0 or more", "Try 1.")
    choices = {
        "output": (output.output, source.task.outputs),
        "normalize": (score.normalize, NORMALIZE),
        "second moment": (score.second_moment, SECOND_MOMENTS),
        "gram": (score.gram, GRAMS),
    }
    for name, (found, possible) in choices.items():
        if found not in possible:
            raise UsageError(name, repr(found), " or ".join(possible), "Choose one of them.")
    if gradients not in (None, *STRATEGIES):
        raise UsageError("gradients", repr(gradients), ", ".join(STRATEGIES), "Leave it out to take the fastest.")
    if score.gram != "train" and source.n == source.n_train:
        raise UsageError(
            f"gram {score.gram!r}",
            "no held-out examples",
            "held-out examples, whose gradients it is made of",
            "Give some with --targets, or take --gram train.",
        )
