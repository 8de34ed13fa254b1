"""One peer on given checkpoints of a text classifier or a language model, called as peers_adapters.py is.

traker and dattri attribute f of the task, log p/(1 − p) of the label or its mean over a text's tokens; their TRAK
weighs training examples by Q. Their batches are without the padding that all texts of a batch share.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from traklens.engine.tasks.classifier import class_margin
from traklens.engine.tasks.registry import task_of
from traklens.engine.tasks.text import TextTask
from traklens.engine.training.run_directory import open_run
from traklens.stores.specs import ModelOutputSpec

BATCH, DIM = 200, 1_024  # peers draw their projection anew for every batch: small ones cost them more
SIDE = 32  # bergson projects a layer's gradient from both sides: 32 · 32 = DIM


@dataclass(frozen=True)
class World:
    """The run's task, its first checkpoints, and the batches of training set and targets."""

    task: TextTask
    models: list[nn.Module]
    train: dict[str, Tensor]
    targets: dict[str, Tensor]

    @property
    def names(self) -> list[str]:
        return list(self.train)  # of the tensors of a batch

    def loader(self, texts: Mapping[str, Tensor]) -> DataLoader:
        def together(rows: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            columns = [torch.stack(column) for column in zip(*rows, strict=True)]
            batch = self.task.trimmed(dict(zip(self.names, columns, strict=True)))
            return tuple(batch[name] for name in self.names)

        return DataLoader(TensorDataset(*texts.values()), batch_size=BATCH, collate_fn=together)


class Plain(nn.Module):
    """A transformer as a function of tensors. It gets its mask ready: making it does not go through vmap."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names, self.causal = model, names, "asked" in names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits: [B, C] of a classifier, [B, L, V] of a language model."""
        batch = dict(zip(self.names, tensors, strict=True))
        unseen = (batch["mask"] == 0)[:, None, None, :]
        if self.causal:
            length = unseen.shape[-1]
            unseen = unseen | torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = torch.zeros(unseen.shape).masked_fill(unseen, torch.finfo(torch.float32).min)
        more = {"use_cache": False} if self.causal else {}
        if "kinds" in batch:
            more["token_type_ids"] = batch["kinds"]
        return self.model(input_ids=batch["tokens"], attention_mask=mask, **more).logits


def outputs_of(logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """f, Q and the training loss of each example, [B] each."""
    if "label" in batch:
        f = class_margin(logits, batch["label"])
        return f, torch.sigmoid(-f), -F.logsigmoid(f)
    asked = batch["asked"][:, 1:].to(logits.dtype)
    margin, count = class_margin(logits[:, :-1], batch["tokens"][:, 1:]), asked.sum(dim=1).clamp_min(1)
    each = (margin, torch.sigmoid(-margin), -F.logsigmoid(margin))
    f, q, loss = ((values * asked).sum(dim=1) / count for values in each)
    return f, q, loss


def traker(world: World) -> np.ndarray:
    """traker's TRAK on the CPU, f and Q of the task as its model output function."""
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    names = world.names

    class Output(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model, weights, buffers, *row):
            tensors = [one.unsqueeze(0) for one in row]
            logits = torch.func.functional_call(model, (weights, buffers), tuple(tensors))
            return outputs_of(logits, dict(zip(names, tensors, strict=True)))[0].sum()

        def get_out_to_loss_grad(self, model, weights, buffers, batch):
            with torch.no_grad():
                logits = torch.func.functional_call(model, (weights, buffers), tuple(batch))
                return outputs_of(logits, dict(zip(names, batch, strict=True)))[1].unsqueeze(-1)

    models = [Plain(one, names).eval() for one in world.models]
    n, t = len(world.train["mask"]), len(world.targets["mask"])
    with tempfile.TemporaryDirectory() as folder:
        tracker = TRAKer(
            model=models[0], task=Output(), train_set_size=n, device="cpu", save_dir=folder, proj_dim=DIM,
            use_half_precision=False, logging_level=40,
        )  # fmt: skip
        states = [{name: value.clone() for name, value in one.state_dict().items()} for one in models]
        for number, state in enumerate(states):
            tracker.load_checkpoint(state, model_id=number)
            for batch in world.loader(world.train):
                tracker.featurize(batch=batch, num_samples=len(batch[0]))
        tracker.finalize_features()
        for number, state in enumerate(states):
            tracker.start_scoring_checkpoint("x", state, model_id=number, num_targets=t)
            for batch in world.loader(world.targets):
                tracker.score(batch=batch, num_samples=len(batch[0]))
        return np.array(tracker.finalize_scores(exp_name="x")).T


def _dattri_task(world: World, loss: int):
    """dattri's task: its target f, its loss that number of `outputs_of`; and `outputs_of` as dattri calls it."""
    from dattri.task import AttributionTask

    models = [Plain(one, world.names).eval() for one in world.models]

    def outputs(params, data):
        batch = {name: one.unsqueeze(0) for name, one in zip(world.names, data, strict=True)}
        return outputs_of(torch.func.functional_call(models[0], params, tuple(batch.values())), batch)

    states = [{name: value.clone() for name, value in one.state_dict().items()} for one in models]
    task = AttributionTask(
        loss_func=lambda params, data: outputs(params, data)[loss].sum(), model=models[0], checkpoints=states,
        target_func=lambda params, data: outputs(params, data)[0].sum(),
    )  # fmt: skip
    return task, outputs


def dattri_trak(world: World) -> np.ndarray:
    """dattri's TRAK; it takes the margin for the loss, as its own examples do."""
    from dattri.algorithm.trak import TRAKAttributor

    task, outputs = _dattri_task(world, 0)
    kwargs = {"proj_dim": DIM, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"}
    attributor = TRAKAttributor(task, lambda *row: 1 - outputs(*row)[1], projector_kwargs=kwargs, device="cpu")
    with torch.no_grad():
        attributor.cache(world.loader(world.train))
        return attributor.attribute(world.loader(world.targets)).T.numpy()


def dattri_tracin(world: World) -> np.ndarray:
    """Gradient dot product of f and loss; the sign turned, since a loss falls where its example is learned."""
    from dattri.algorithm.tracin import TracInAttributor

    task, _ = _dattri_task(world, 2)
    kwargs = {"proj_dim": DIM, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"}
    weights = torch.ones(len(world.models))
    attributor = TracInAttributor(task, weights, normalized_grad=False, projector_kwargs=kwargs, device="cpu")
    with torch.no_grad():
        return -attributor.attribute(world.loader(world.train), world.loader(world.targets)).T.numpy()


class Bergson:
    """What bergson reads, in a folder: a model per checkpoint with its tokenizer, training set and targets as ids.

    It attributes the weights of linear layers below the head, no embedding and, by default, no bias. Its batches may
    hold no more tokens than the model's longest text; that limit, on which no score depends, is
    lifted: its TRAK draws the projection anew for every batch.
    """

    def __init__(self, world: World, folder: Path) -> None:
        from bergson.utils import worker_utils
        from datasets import Dataset
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        worker_utils.max_tokens_for_model = lambda *_: worker_utils.BIG_NUM
        self.folder, self.models = folder, [str(folder / f"model-{m}") for m in range(len(world.models))]
        assert world.task.model is not None
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(world.task.model.config["tokenizer"]))
        for model, place in zip(world.models, self.models, strict=True):
            model.save_pretrained(place)  # type: ignore[operator]
            tokenizer.save_pretrained(place)
        for name, texts in (("train", world.train), ("targets", world.targets)):
            lengths = texts["mask"].sum(dim=1).tolist()
            ids = [row[:length].tolist() for row, length in zip(texts["tokens"], lengths, strict=True)]
            asked = [row[:length].tolist() for row, length in zip(texts["asked"], lengths, strict=True)]
            labels = [[i if a else -100 for i, a in zip(*both, strict=True)] for both in zip(ids, asked, strict=True)]
            Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths}).save_to_disk(
                str(folder / name)
            )

    def index(self, name: str, model: str, **more: Any):
        from bergson import DataConfig, IndexConfig

        return IndexConfig(str(self.folder / name), model=model, data=DataConfig(str(self.folder / "train")), **more)

    def query(self):
        from bergson import QuerySetConfig

        return QuerySetConfig(str(self.folder / "targets"))

    def scores(self, name: str) -> np.ndarray:
        from bergson.data import load_scores

        return np.asarray(load_scores(self.folder / name / "scores")[:], dtype=np.float64).T


def bergson_trak(world: World) -> np.ndarray:
    """`bergson trak`: gradients of f as the other peers have it (its default: the sum over tokens), undamped."""
    from bergson.cli.trak import trak
    from bergson.config.config import TrakConfig

    with tempfile.TemporaryDirectory() as folder:
        made = Bergson(world, Path(folder))
        how = {"loss_fn": "log_odds", "loss_reduction": "mean", "projection_target": "global", "projection_dim": DIM}
        trak(made.index("x", made.models[0], **how), TrakConfig(query=made.query(), checkpoints=made.models))
        return made.scores("x")


def bergson_trackstar(world: World) -> np.ndarray:
    """`bergson trackstar` as its example for GPT-2 has it: cosines of whitened gradients of summed losses.

    Without the optimizer's second moments; mean over the checkpoints.
    """
    from bergson import PreprocessConfig
    from bergson.cli.trackstar import trackstar
    from bergson.config.config import TrackstarConfig

    with tempfile.TemporaryDirectory() as folder:
        made = Bergson(world, Path(folder))
        for m, model in enumerate(made.models):
            config = TrackstarConfig(query=made.query(), preprocess_cfg=PreprocessConfig(unit_normalize=True))
            trackstar(made.index(f"x{m}", model, projection_dim=SIDE), config)
        return np.mean([made.scores(f"x{m}") for m in range(len(made.models))], axis=0)


def bergson_products(world: World, *, unit: bool) -> np.ndarray:
    """`bergson build` and `score`: products or cosines of whole gradients of the mean loss; mean over checkpoints."""
    from bergson import PreprocessConfig, ScoreConfig
    from bergson.build import build_query
    from bergson.score.score import score_dataset

    with tempfile.TemporaryDirectory() as folder:
        made = Bergson(world, Path(folder))
        for m, model in enumerate(made.models):
            query = build_query(made.index(f"q{m}", model, loss_reduction="mean"), made.query(), PreprocessConfig())
            index = made.index(f"x{m}/scores", model, loss_reduction="mean")
            score_dataset(index, ScoreConfig(query), PreprocessConfig(unit_normalize=unit))
        return np.mean([made.scores(f"x{m}") for m in range(len(made.models))], axis=0)


Peers = dict[str, Callable[[World], np.ndarray]]
CLASSIFIER: Peers = {"traker": traker, "dattri TRAK": dattri_trak, "dattri TracIn": dattri_tracin}
LANGUAGE: Peers = CLASSIFIER | {
    "bergson TRAK": bergson_trak,
    "bergson TrackStar": bergson_trackstar,
    "bergson dot": partial(bergson_products, unit=False),
    "bergson cosine": partial(bergson_products, unit=True),
}


def opened(world: Path, checkpoints: int) -> World:
    """The world that peers.py wrote, with the first checkpoints of its run."""
    run = open_run(Path(json.loads((world / "world.json").read_text())["run"]))
    task = task_of(run.spec.task).bind(run.spec.model, ModelOutputSpec())
    assert isinstance(task, TextTask)
    with np.load(world / "world.npz") as found:
        sides = [
            {name.removeprefix(side): torch.from_numpy(found[name]) for name in found.files if name.startswith(side)}
            for side in ("train_", "target_")
        ]
    models = [task.load_checkpoint(run.spec.model, run.checkpoint(m)) for m in range(checkpoints)]
    return World(task, models, *sides)


def main(peer: str, world: Path, checkpoints: int, out: Path) -> None:
    found = opened(world, checkpoints)
    start = time.perf_counter()
    scores = LANGUAGE[peer](found)
    np.savez(out, scores=scores.astype(np.float32), seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
