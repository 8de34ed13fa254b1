"""Second moments of gradients, by which rows come to the scale of Adam's steps.

Adam moves parameters along g/√v, v [p] the second moments of a gradient's coordinates, where plain descent moves them along
g. With rows g·v^(−1/4) the inner product of two is one example's such step along the other's gradient. v is what the
optimizer kept, or is estimated from gradients of training examples.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from traklens.engine.features.featurize import Featurizer
from traklens.engine.models.optimizer_state import adam_second_moments
from traklens.engine.streams import generator
from traklens.engine.tasks.contract import Batch, Context, Training

EXAMPLES = 512  # that v is estimated from
AT_ONCE = 1 << 28  # numbers of gradients held at a time: 1 GiB


def kept_by_optimizer(featurizer: Featurizer, file: Path) -> np.ndarray:
    """Adam's own, as a checkpoint file keeps it: v float32 [p]. Raises ModelError for a file without it."""
    found = adam_second_moments(file, featurizer.model)
    return torch.cat([found[name].reshape(-1).float() for name, _ in featurizer.layout]).numpy()


def estimated(
    featurizer: Featurizer, training: Training, context: Context, *, seed: int, report: Callable[[int, int], None]
) -> np.ndarray:
    """Mean of (Q·∂f/∂θ)² over at most 512 training examples, drawn from `seed`: v float32 [p].

    p counts the attributed parameters, one after another.
    """
    count = min(EXAMPLES, training.n)
    draw = generator("second moments", seed, training.checkpoint)
    rows = np.sort(draw.choice(training.n, count, replace=False))
    sums = {name: torch.zeros(size, device=featurizer.device) for name, size in featurizer.layout}
    step = min(64, max(1, AT_ONCE // sum(size for _, size in featurizer.layout)))
    for start in range(0, count, step):
        some = rows[start : start + step]
        batch = training.batch(some)
        embedded = {name: values.numpy() for name, values in training.embed(some).items()}
        q = torch.from_numpy(featurizer.measure(batch, context, embedded)["q"]).to(featurizer.device)
        _add_squares(featurizer, batch, context, q, sums)
        report(start + some.size, count)
    return (torch.cat(list(sums.values())) / count).cpu().numpy()


def _add_squares(
    featurizer: Featurizer, batch: Batch, context: Context, q: torch.Tensor, sums: dict[str, torch.Tensor]
) -> None:
    """Add the squares of a batch's Q·∂f/∂θ. A parameter used more than once comes in parts, which are summed first."""
    whole: dict[str, torch.Tensor] = {}

    def sink(name: str, gradients: torch.Tensor, rows: slice) -> None:
        if name not in whole:
            whole[name] = torch.zeros((len(q), gradients.shape[1]), device=gradients.device)
        whole[name][rows] += gradients

    featurizer.gradients(batch, context, sink)
    for name, gradients in whole.items():
        sums[name] += (gradients * q[:, None]).square().sum(dim=0)
