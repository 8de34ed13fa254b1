"""Fit one small CLIP to some pairs, interruptible at any step.

The same pairs, recipe and thread count give the same bytes, whether or not the training was interrupted: the order of
examples and the augmentation are drawn from (seed, number of the model, epoch), and a partial checkpoint holds
everything else.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from traklens.engine.data import Example, open_stored
from traklens.engine.models.checkpoints import build_model, make_tokenizer
from traklens.engine.models.preprocessing import image_pixels, image_size, normalise
from traklens.engine.progress import Report, silent
from traklens.engine.streams import generator, torch_seed
from traklens.engine.training.run_directory import Recipe
from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec

SAVE_EVERY_SECONDS = 15.0


class Pairs:
    """The data set as tensors: pixels uint8 [n, 3, S, S], tokens int64 [n, L], caption number int64 [n].

    Pixels are kept in memory: 3 KB a pair at 32 pixels, 150 KB at 224.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Example]], spec: ModelSpec, report: Report = silent) -> None:
        """pairs: each example with the folder its image lies in."""
        size, n = image_size(spec), len(pairs)
        to_pixels = image_pixels(spec)
        self.pixels = torch.empty(n, 3, size, size, dtype=torch.uint8)
        for i, (root, example) in enumerate(pairs):
            self.pixels[i] = to_pixels(open_stored(root, example.image))
            if i % 64 == 0 or i + 1 == n:
                report("reading images", i + 1, n, "")
        captions = [example.caption for _, example in pairs]
        self.tokens = make_tokenizer(spec)(captions)
        self.caption = torch.from_numpy(np.unique(captions, return_inverse=True)[1].astype(np.int64))
        image_ids = [example.image_id for _, example in pairs]
        self.image = torch.from_numpy(np.unique(image_ids, return_inverse=True)[1].astype(np.int64))


def contrastive_loss(u: Tensor, v: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric loss, where pairs of the same caption or image count as positives.

    u, v [B, e] unit vectors; same [B, B] bool, symmetric with a true diagonal. With no repeats this is CLIP's
    (Radford et al. 2021, figure 3); with repeats the target is uniform over the positives.
    """
    logits = scale * u @ v.T
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def fit(
    spec: ModelSpec,
    recipe: Recipe,
    number: int,
    examples: Pairs,
    members: np.ndarray,
    partial: Path,
    *,
    streams: int,
    stage: str = "training",
    report: Report = silent,
    log: Callable[[int, float, float], None] | None = None,
) -> nn.Module:
    """Train a model on the examples `members` (indices into `examples`), or go on from the file `partial`.

    `number` decides, with the recipe's seed and the version of the random streams, the first weights, the order and the
    augmentation. The partial state is
    left in place: the caller removes it once the result is safe. `log` is called with (epoch, mean loss, seconds).
    Raises ModelError when the loss is no longer finite.
    """
    seed = recipe.seed
    partial.with_suffix(".writing").unlink(missing_ok=True)  # of a process that was killed as it wrote
    first = seed * 1000 + number if streams == 1 else torch_seed("initial weights", seed, number, version=streams)
    model = build_model(spec, seed=first).train()
    optimizer = _optimizer(model, recipe)
    steps_per_epoch = max(1, members.size // recipe.batch_size)
    total = recipe.epochs * steps_per_epoch
    step = _restore(partial, model, optimizer) if partial.is_file() else 0
    saved = epoch_start = time.monotonic()
    losses: list[float] = []
    for index in _batches(members, recipe, number, step, total, streams):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, total, recipe.warmup)
        state = torch_seed("augmentation of a step", seed, number, step, version=streams)
        pixels = augmented(examples.pixels[index], recipe.augment, torch.Generator().manual_seed(state))
        u = model.encode_image(normalise(spec, pixels), normalize=True)  # type: ignore[operator]
        v = model.encode_text(examples.tokens[index], normalize=True)  # type: ignore[operator]
        caption, image = examples.caption[index], examples.image[index]
        same = (caption[:, None] == caption) | (image[:, None] == image)
        loss = contrastive_loss(u, v, model.logit_scale.exp(), same)  # type: ignore[operator,union-attr]
        if not torch.isfinite(loss):
            raise ModelError(stage, f"loss {loss.item()} at step {step}", "a finite loss", "Lower --learning-rate.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))  # type: ignore[operator,union-attr]
        step += 1
        losses.append(loss.item())
        report(stage, step * recipe.batch_size, total * recipe.batch_size, f"loss {losses[-1]:.2f}")
        if step % steps_per_epoch == 0:
            if log is not None:
                log(step // steps_per_epoch, float(np.mean(losses)), time.monotonic() - epoch_start)
            epoch_start = time.monotonic()
            losses.clear()
        if time.monotonic() - saved > SAVE_EVERY_SECONDS and step < total:
            _save_partial(partial, model, optimizer, step)
            saved = time.monotonic()
    return model


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights whole or not at all, as safetensors."""
    beside = path.with_suffix(".writing")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, beside)
    beside.replace(path)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW as CLIP trains: no decay on gains, biases and the logit scale."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then a cosine to zero: the factor on the learning rate."""
    rise = max(1, round(warmup * total))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + np.cos(np.pi * (step - rise) / max(1, total - rise)))


def _batches(members: np.ndarray, recipe: Recipe, m: int, start: int, total: int, streams: int) -> Iterator[Tensor]:
    """Index tensors [B] of the steps start … total − 1; each epoch's order comes from (seed, m, epoch)."""
    size = min(recipe.batch_size, members.size)
    per_epoch = max(1, members.size // recipe.batch_size)
    for epoch in range(start // per_epoch, total // per_epoch):
        order = generator("order of an epoch", recipe.seed, m, epoch, version=streams).permutation(members)
        for place in range(max(0, start - epoch * per_epoch), per_epoch):
            yield torch.from_numpy(order[place * size : (place + 1) * size])


def augmented(pixels: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Shift each picture by up to a sixteenth of its side (edges repeated); `flip` also mirrors half of them."""
    if kind == "none":
        return pixels
    batch, _, height, width = pixels.shape
    reach = max(1, height // 16)
    padded = F.pad(pixels.float(), (reach,) * 4, mode="replicate").to(pixels.dtype)
    dy, dx = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator)
    rows, columns = dy + torch.arange(height), dx + torch.arange(width)
    if kind == "flip":
        mirrored = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    every = torch.arange(batch).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _save_partial(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    beside = path.with_suffix(".writing")
    save_file(tensors, beside, metadata={"step": str(step)})
    beside.replace(path)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a partial checkpoint into model and optimizer; returns the step it had reached."""
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    return step
