"""What classifiers share, whatever they classify: f, Q and the loss of a label, from logits.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 3.1. With logits h of C classes and the label y,

    f = log p/(1 − p) = h_y − log Σ_{j≠y} exp(h_j)        Q = 1 − p
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from traklens.engine.data import Dataset
from traklens.engine.tasks.contract import Batch, Context, Task
from traklens.stores.errors import DataError
from traklens.stores.specs import ModelOutputSpec, ModelSpec

WITHIN = 256  # examples looked at at a time
PROBABILITIES = "probabilities"  # of the classes, as a store keeps them


def class_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """log p/(1 − p) of the labelled class; logits [..., C], labels [...] → [...]."""
    own = labels[..., None]
    others = logits.scatter(-1, own, float("-inf"))
    return logits.gather(-1, own)[..., 0] - torch.logsumexp(others, dim=-1)


class ClassifierTask(Task):
    """Examples with a label. A subclass gives `batch`, with "label" int64 [B] in it, and `logits`."""

    outputs = ("margin", "log_probability")
    named_models = True

    def __init__(self, model: ModelSpec | None = None, output: ModelOutputSpec | None = None) -> None:
        self.model, self.output = model, output or ModelOutputSpec()

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each class."""
        assert self.model is not None
        return {name: number for number, name in enumerate(self.model.config["classes"])}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits of the classes, [B, C]."""
        raise NotImplementedError

    def numbers(self, labels: Sequence[str]) -> Tensor:
        """Labels as numbers, int64 [B]. DataError for one that is no class of the model."""
        return torch.tensor([self._number_of(label) for label in labels], dtype=torch.int64)

    def _number_of(self, label: str) -> int:
        if label not in self.number:
            raise DataError(
                "label",
                repr(label[:80]),
                f"one of the model's {len(self.number)} classes: {', '.join(list(self.number)[:12])} …",
                "Correct the label, or train a model that knows it.",
            )
        return self.number[label]

    def model_output(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        del context
        logits = self.logits(model, batch)
        if self.output.output == "log_probability":
            return F.log_softmax(logits, dim=1).gather(1, batch["label"][:, None])[:, 0]
        return class_margin(logits, batch["label"])

    def output_to_loss(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        return self.measure(model, batch, context, {})["q"]

    def measure(
        self, model: nn.Module, batch: Batch, context: Context, embedded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """f, Q and the probabilities of all classes [B, C]."""
        del context, embedded
        logits = self.logits(model, batch)
        p = torch.softmax(logits, dim=1)
        if self.output.output == "log_probability":
            f = F.log_softmax(logits, dim=1).gather(1, batch["label"][:, None])[:, 0]
            return {"f": f, "q": torch.ones_like(f), PROBABILITIES: p}
        f = class_margin(logits, batch["label"])
        return {"f": f, "q": torch.sigmoid(-f), PROBABILITIES: p}

    def loss(self, model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
        logits = self.logits(model, batch)
        if weights is None:
            return F.cross_entropy(logits, batch["label"])
        each = F.cross_entropy(logits, batch["label"], reduction="none")
        return (weights * each).sum() / weights.sum()

    @torch.no_grad()
    def quality(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Accuracy, and mean probability of the label."""
        n = len(batch["label"])
        if not n:
            return {}
        parts = [{name: values[i : i + WITHIN] for name, values in batch.items()} for i in range(0, n, WITHIN)]
        p = torch.cat([torch.softmax(self.logits(model, self.trimmed(part)), dim=1) for part in parts])
        own = p.gather(1, batch["label"][:, None])[:, 0]
        return {"accuracy": float((p.argmax(dim=1) == batch["label"]).float().mean()), "mean p": float(own.mean())}

    def classes_in(self, dataset: Dataset) -> tuple[str, ...]:
        """The classes of a data set. DataError where there are fewer than two."""
        classes = dataset.account.classes
        if len(classes) < 2:
            raise DataError(
                f"data set {dataset.root}",
                f"{len(classes)} class{'es' if len(classes) != 1 else ''}",
                "at least 2 labels",
                "Name the column of labels with --label-column.",
            )
        return classes
