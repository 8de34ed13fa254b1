"""Train M small CLIPs on recorded random parts of a data set: `traklens train`."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from traklens.engine.data import Dataset
from traklens.engine.models.checkpoints import load_checkpoint, model_spec
from traklens.engine.models.preprocessing import normalise
from traklens.engine.progress import Report, silent
from traklens.engine.training.fit import Pairs, fit, save_weights
from traklens.engine.training.run_directory import Recipe, Run, RunSpec, open_run, record_quality, start_run
from traklens.engine.training.split import Split, split_dataset
from traklens.engine.versions import libraries
from traklens.stores.errors import UsageError
from traklens.stores.locks import writing
from traklens.stores.specs import ModelSpec

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
    if not 0 < learning_rate < np.inf:
        raise UsageError("learning_rate", str(learning_rate), "a finite number above 0", "Try 0.001.")
    if augment not in ("shift", "flip", "none"):
        raise UsageError("augment", repr(augment), "shift, flip or none", "Choose one of them.")
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
    with writing(out, "run"):
        return _train(start_run(out, spec, dataset, split, libraries()), dataset, split, report)


def _train(run: Run, dataset: Dataset, split: Split, report: Report) -> Run:
    """Train the checkpoints that the run lacks."""
    spec, checkpoints = run.spec, run.spec.recipe.checkpoints
    if all(str(m) in run.quality for m in range(checkpoints)):
        return run
    examples = Pairs([(dataset.root, example) for example in dataset.examples], spec.model, report)
    for m in range(checkpoints):
        if str(m) in run.quality:
            continue
        train_checkpoint(run, m, examples, split.train[split.subsets[m]], report)
        quality = retrieval(load_checkpoint(spec.model, run.checkpoint(m)), spec.model, examples, split.heldout)
        record_quality(run, m, quality)
    return open_run(run.path)


def train_checkpoint(run: Run, m: int, examples: Pairs, members: np.ndarray, report: Report = silent) -> None:
    """Train checkpoint m on the examples `members` (indices into `examples`) and write its weights."""
    partial = run.path / f"checkpoint_{m}.partial.safetensors"
    stage = f"training checkpoint {m + 1} of {run.spec.recipe.checkpoints}"

    def log(epoch: int, loss: float, seconds: float) -> None:
        line = {"checkpoint": m, "epoch": epoch, "loss": round(loss, 4), "seconds": round(seconds, 2)}
        with (run.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    spec = run.spec
    streams = spec.dataset.streams
    model = fit(
        spec.model, spec.recipe, m, examples, members, partial, streams=streams, stage=stage, report=report, log=log
    )
    save_weights(model, run.checkpoint(m))
    partial.unlink(missing_ok=True)


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
