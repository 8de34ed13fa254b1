"""Train M small CLIPs on recorded random parts of a data set: `traklens train`.

The same data, recipe and thread count give the same bytes, whether or not the run was interrupted: the order of
examples and the augmentation are drawn from (seed, checkpoint, epoch), and a partial checkpoint holds everything
else.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.data import Dataset, open_image
from engine.models import (
    build_model,
    image_pixels,
    image_size,
    load_checkpoint,
    make_tokenizer,
    model_spec,
    normalise,
)
from engine.progress import Report, silent
from engine.run_directory import Recipe, Run, RunSpec, checkpoint_path, open_run, record_quality, start_run
from engine.split import split_dataset
from engine.versions import libraries
from stores.errors import ModelError, UsageError
from stores.specs import ModelSpec

SAVE_EVERY_SECONDS = 15.0
EPOCH_BUDGET = 20_000  # examples seen in all by a checkpoint, when --epochs is not given …
EPOCH_LIMITS = (8, 40)  # … within these limits


def train(
    dataset: Dataset,
    out: Path,
    *,
    model: str = "tiny",
    checkpoints: int = 4,
    epochs: int | None = None,
    subset: float = 0.5,
    heldout: float = 0.1,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    augment: str = "shift",
    report: Report = silent,
) -> Run:
    """Train into the run directory `out`, or finish the run that is there.

    Raises UsageError for values out of range, StoreError when `out` holds a run of another specification.
    """
    if checkpoints < 1 or batch_size < 2 or (epochs is not None and epochs < 1):
        raise UsageError(
            "training options",
            f"checkpoints {checkpoints}, batch size {batch_size}, epochs {epochs}",
            "at least 1 checkpoint, 1 epoch and a batch of 2",
            "Correct the option.",
        )
    if augment not in ("shift", "flip", "none"):
        raise UsageError("--augment", repr(augment), "shift, flip or none", "Choose one of them.")
    split = split_dataset(dataset, heldout=heldout, subset=subset, checkpoints=checkpoints, seed=seed)
    members = int(split.subsets.sum(axis=1).max())
    if epochs is None:
        epochs = int(np.clip(round(EPOCH_BUDGET / members), *EPOCH_LIMITS))
    recipe = Recipe(
        checkpoints=checkpoints,
        epochs=epochs,
        subset=subset,
        heldout=heldout,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.1,
        warmup=0.1,
        augment=augment,
    )
    # The vocabulary is the whole data set's, so that a held-out caption has no unknown pieces by accident.
    spec = RunSpec(dataset.spec, model_spec(model, [example.caption for example in dataset.examples]), recipe)
    run = start_run(out, spec, dataset, split, libraries())
    if all(str(m) in run.quality for m in range(checkpoints)):
        return run
    examples = Pairs(dataset, spec.model, report)
    for m in range(checkpoints):
        if str(m) in run.quality:
            continue
        train_checkpoint(run, m, examples, split.train[split.subsets[m]], report)
        quality = retrieval(load_checkpoint(spec.model, run.checkpoint(m)), spec.model, examples, split.heldout)
        record_quality(run, m, quality)
    return open_run(out)


class Pairs:
    """The data set as tensors: pixels uint8 [n, 3, S, S], tokens int64 [n, L], caption number int64 [n].

    Pixels are kept in memory: 3 KB a pair at 32 pixels, 150 KB at 224.
    """

    def __init__(self, dataset: Dataset, spec: ModelSpec, report: Report = silent) -> None:
        size, n = image_size(spec), len(dataset.examples)
        to_pixels = image_pixels(spec)
        self.pixels = torch.empty(n, 3, size, size, dtype=torch.uint8)
        for i, example in enumerate(dataset.examples):
            self.pixels[i] = to_pixels(open_image(dataset.root / example.image))
            if i % 64 == 0 or i + 1 == n:
                report("reading images", i + 1, n, "")
        captions = [example.caption for example in dataset.examples]
        self.tokens = make_tokenizer(spec)(captions)
        self.caption = torch.from_numpy(np.unique(captions, return_inverse=True)[1].astype(np.int64))
        image_ids = [example.image_id for example in dataset.examples]
        self.image = torch.from_numpy(np.unique(image_ids, return_inverse=True)[1].astype(np.int64))


def contrastive_loss(u: Tensor, v: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric loss, where pairs of the same caption or image count as positives.

    u, v [B, e] unit vectors; same [B, B] bool, symmetric with a true diagonal. With no repeats this is CLIP's
    (Radford et al. 2021, figure 3); with repeats the target is uniform over the positives.
    """
    logits = scale * u @ v.T
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_checkpoint(run: Run, m: int, examples: Pairs, members: np.ndarray, report: Report = silent) -> None:
    """Train checkpoint m on the examples `members` (indices into `examples`) and write its weights."""
    recipe, spec, seed = run.spec.recipe, run.spec.model, run.spec.recipe.seed
    model = build_model(spec, seed=seed * 1000 + m).train()
    optimizer = _optimizer(model, recipe)
    partial = run.path / f"checkpoint_{m}.partial.safetensors"
    steps_per_epoch = max(1, members.size // recipe.batch_size)
    total = recipe.epochs * steps_per_epoch
    step = _restore(partial, model, optimizer) if partial.is_file() else 0
    saved, stage = time.monotonic(), f"training checkpoint {m + 1} of {recipe.checkpoints}"
    losses: list[float] = []
    epoch_start = time.monotonic()
    for index in _batches(members, recipe, m, step, total):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, total, recipe.warmup)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, m, step]).generate_state(1)[0]))
        pixels = augmented(examples.pixels[index], recipe.augment, generator)
        u = model.encode_image(normalise(spec, pixels), normalize=True)  # type: ignore[operator]
        v = model.encode_text(examples.tokens[index], normalize=True)  # type: ignore[operator]
        caption, image = examples.caption[index], examples.image[index]
        same = (caption[:, None] == caption) | (image[:, None] == image)
        loss = contrastive_loss(u, v, model.logit_scale.exp(), same)  # type: ignore[operator,union-attr]
        if not torch.isfinite(loss):
            raise ModelError(
                f"checkpoint {m}",
                f"loss {loss.item()} at step {step}",
                "a finite loss",
                "Lower --learning-rate.",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))  # type: ignore[operator,union-attr]
        step += 1
        losses.append(loss.item())
        report(stage, step * recipe.batch_size, total * recipe.batch_size, f"loss {losses[-1]:.2f}")
        if step % steps_per_epoch == 0:
            seconds, epoch_start = time.monotonic() - epoch_start, time.monotonic()
            _log(run.path, m, step // steps_per_epoch, float(np.mean(losses)), seconds)
            losses.clear()
        if time.monotonic() - saved > SAVE_EVERY_SECONDS and step < total:
            _save_partial(partial, model, optimizer, step)
            saved = time.monotonic()
    final = checkpoint_path(run.path, m)
    beside = final.with_suffix(".writing")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, beside)
    beside.replace(final)
    partial.unlink(missing_ok=True)


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


def _batches(members: np.ndarray, recipe: Recipe, m: int, start: int, total: int) -> Iterator[Tensor]:
    """Index tensors [B] of the steps start … total − 1; each epoch's order comes from (seed, m, epoch)."""
    size = min(recipe.batch_size, members.size)
    per_epoch = max(1, members.size // recipe.batch_size)
    for epoch in range(start // per_epoch, total // per_epoch):
        order = np.random.default_rng([recipe.seed, 2, m, epoch]).permutation(members)
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


@torch.no_grad()
def retrieval(model: nn.Module, spec: ModelSpec, examples: Pairs, rows: np.ndarray) -> dict[str, float]:
    """Recall at 1 and 10 of captions by image and of images by caption among the given pairs, averaged.

    A hit is any pair with the same caption (image → text) or the same image (text → image): duplicates of the right
    answer are right. Empty when there are fewer than two pairs.
    """
    if rows.size < 2:
        return {}
    index = torch.from_numpy(rows)
    u, v = [], []
    for part in index.split(256):
        u.append(model.encode_image(normalise(spec, examples.pixels[part]), normalize=True))  # type: ignore[operator]
        v.append(model.encode_text(examples.tokens[part], normalize=True))  # type: ignore[operator]
    similarity = torch.cat(u) @ torch.cat(v).T
    caption = examples.caption[index]
    same = caption[:, None] == caption
    found = {}
    for k in (1, 10):
        top = min(k, rows.size)
        by_image = same.gather(1, similarity.topk(top, dim=1).indices).any(dim=1)
        by_text = same.gather(1, similarity.T.topk(top, dim=1).indices).any(dim=1)
        found[f"recall@{k}"] = float((by_image.float().mean() + by_text.float().mean()) / 2)
    return found


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


def _log(run: Path, m: int, epoch: int, loss: float, seconds: float) -> None:
    line = {"checkpoint": m, "epoch": epoch, "loss": round(loss, 4), "seconds": round(seconds, 2)}
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
