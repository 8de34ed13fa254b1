"""Which strategy is fastest here: measured on a few of the given examples, not guessed."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from traklens.engine.gradients.dispatch import per_sample_gradients
from traklens.stores.errors import ModelError

PATIENCE = 2.0  # seconds of repeats per strategy; a large model is measured once after its warm-up


@dataclass(frozen=True)
class Choice:
    """strategy: the fastest. seconds: per example, of each one measured. uncovered: why others were not."""

    strategy: str
    seconds: dict[str, float]
    uncovered: dict[str, str]


def choose_strategy(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    shared: tuple[Tensor, ...] = (),
    *,
    try_vmap: bool = False,
    examples: int = 8,
) -> Choice:
    """Measure the strategies on the first `examples` inputs; projection is not part of the measurement.

    One example at a time is measured on two. vmap is slow to try on a large model and loses to hooks where
    these apply, so it is tried only if they do not, or with try_vmap.
    Raises ModelError and UsageError as per_sample_gradients does, if no strategy works.
    """
    seconds: dict[str, float] = {}
    uncovered: dict[str, str] = {}
    for strategy, most in (("hooks", examples), ("single", 2), ("vmap", examples)):
        if strategy == "vmap" and "hooks" in seconds and not try_vmap:
            uncovered["vmap"] = "not tried: hooks cover this model"
            continue
        few = tuple(x[:most] for x in inputs)
        try:
            seconds[strategy] = _seconds_per_example(module, few, names, shared, strategy)
        except (ModelError, RuntimeError) as error:
            # vmap raises RuntimeError for what it cannot batch; the model's own errors reappear in "single"
            if strategy == "single":
                raise
            uncovered[strategy] = str(error).splitlines()[0]
    return Choice(min(seconds, key=lambda name: seconds[name]), seconds, uncovered)


def _seconds_per_example(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    shared: tuple[Tensor, ...],
    strategy: str,
) -> float:
    def run(batch: tuple[Tensor, ...]) -> float:
        start = time.perf_counter()
        f = per_sample_gradients(
            module, batch, lambda name, gradients, rows: None, strategy=strategy, names=names, shared=shared
        )
        if f.is_cuda:
            torch.cuda.synchronize(f.device)
        return time.perf_counter() - start

    run(tuple(x[:1] for x in inputs))  # warm-up: allocator, thread pool, kernels
    times = [run(inputs)]
    while len(times) < 5 and sum(times) + times[0] < PATIENCE:
        times.append(run(inputs))
    return statistics.median(times) / inputs[0].shape[0]
