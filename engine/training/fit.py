"""Fit one model to some examples by the loss of its task, interruptible at any step.

The same examples, recipe and thread count give the same bytes, whether or not the training was interrupted: the order of
examples and the augmentation are drawn from (seed, number of the model, epoch), and a partial checkpoint holds
everything else.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from traklens.engine.models.weights import stored_state, with_tied
from traklens.engine.progress import Report, silent
from traklens.engine.streams import generator, torch_seed
from traklens.engine.tasks.contract import Batch, Task
from traklens.engine.tasks.registry import guarded, seeded
from traklens.engine.training.run_directory import Recipe
from traklens.engine.training.running_mean import RunningMean, decay_for
from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec

SAVE_EVERY_SECONDS = 15.0


def fit(
    task: Task,
    spec: ModelSpec,
    recipe: Recipe,
    number: int,
    examples: Batch,
    members: np.ndarray,
    partial: Path,
    *,
    streams: int,
    stage: str = "training",
    report: Report = silent,
    log: Callable[[int, float, float], None] | None = None,
) -> nn.Module:
    """Train a model on the rows `members` of `examples` (tensors [n, …]), or go on from the file `partial`.

    `number` decides, with the recipe's seed and the version of the random streams, the first weights, the order and the
    augmentation. The partial state is
    left in place: the caller removes it once the result is safe. `log` is called with (epoch, mean loss, seconds).
    Raises ModelError when the loss is no longer finite.
    """
    seed = recipe.seed
    partial.with_suffix(".writing").unlink(missing_ok=True)  # of a process that was killed as it wrote
    first = seed * 1000 + number if streams == 1 else torch_seed("initial weights", seed, number, version=streams)
    model = seeded(task, spec, first).train()
    optimizer = _optimizer(model, recipe)
    steps_per_epoch = max(1, members.size // recipe.batch_size)
    total = recipe.steps or recipe.epochs * steps_per_epoch
    mean = RunningMean(model, decay_for(recipe.average, total))
    step = _restore(partial, model, optimizer, mean) if partial.is_file() else 0
    saved = epoch_start = time.monotonic()
    losses: list[float] = []
    for index in _batches(members, recipe, number, step, total, streams):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, total, recipe.warmup)
        state = torch_seed("augmentation of a step", seed, number, step, version=streams)
        batch = {name: values[index] for name, values in examples.items()}
        with guarded(task), torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed("dropout of a step", seed, number, step))
            batch = task.augmented(batch, recipe.augment, torch.Generator().manual_seed(state))
            loss = task.loss(model, task.trimmed(batch))
        if not torch.isfinite(loss):
            raise ModelError(stage, f"loss {loss.item()} at step {step}", "a finite loss", "Lower --learning-rate.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        task.constrain(model)
        mean.add(step)
        step += 1
        losses.append(loss.item())
        report(stage, step * recipe.batch_size, total * recipe.batch_size, f"loss {losses[-1]:.2f}")
        if step % steps_per_epoch == 0 or step == total:
            if log is not None:
                log(-(-step // steps_per_epoch), float(np.mean(losses)), time.monotonic() - epoch_start)
            epoch_start = time.monotonic()
            losses.clear()
        if time.monotonic() - saved > SAVE_EVERY_SECONDS and step < total:
            _save_partial(partial, model, optimizer, mean, step)
            saved = time.monotonic()
    mean.give(model)
    return model


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights whole or not at all, as safetensors."""
    beside = path.with_suffix(".writing")
    save_file({name: tensor.contiguous() for name, tensor in stored_state(model).items()}, beside)
    beside.replace(path)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW as CLIP trains, or SGD with Nesterov momentum; no decay on gains, biases and scales."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then a cosine to zero: the factor on the learning rate."""
    rise = max(1, round(warmup * total))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + np.cos(np.pi * (step - rise) / max(1, total - rise)))


def _batches(members: np.ndarray, recipe: Recipe, m: int, start: int, total: int, streams: int) -> Iterator[Tensor]:
    """Index tensors [B] of the steps start … total − 1; each epoch's order comes from (seed, m, epoch), the last is cut."""
    size = min(recipe.batch_size, members.size)
    per_epoch = max(1, members.size // recipe.batch_size)
    for epoch in range(start // per_epoch, -(-total // per_epoch)):
        order = generator("order of an epoch", recipe.seed, m, epoch, version=streams).permutation(members)
        for place in range(max(0, start - epoch * per_epoch), min(per_epoch, total - epoch * per_epoch)):
            yield torch.from_numpy(order[place * size : (place + 1) * size])


def _save_partial(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, mean: RunningMean, step: int
) -> None:
    tensors = {f"mean.{name}": tensor.contiguous() for name, tensor in mean.state.items()}
    tensors |= {f"model.{name}": tensor.contiguous() for name, tensor in stored_state(model).items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    beside = path.with_suffix(".writing")
    save_file(tensors, beside, metadata={"step": str(step)})
    beside.replace(path)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, mean: RunningMean) -> int:
    """Load a partial checkpoint into model, optimizer and running mean; returns the step it had reached."""
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict(
        with_tied(model, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    )
    mean.state = {k.removeprefix("mean."): v for k, v in tensors.items() if k.startswith("mean.")}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    return step
