"""Image classifiers: pictures with a label, and how sure a model is of it.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 3.1. With logits h of C classes and the label y,

    f = log p/(1 − p) = h_y − log Σ_{j≠y} exp(h_j)        Q = 1 − p
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from traklens.engine.data import Dataset
from traklens.engine.models.classifiers import build_classifier, classifier_spec, load_classifier, logits_and_features
from traklens.engine.models.preprocessing import augmented, image_pixels, normalise
from traklens.engine.tasks.contract import Batch, Context, Task, TrainingDefaults, Values
from traklens.stores.errors import DataError
from traklens.stores.specs import FieldSpec, ModelOutputSpec, ModelSpec

WITHIN = 256  # pictures looked at at a time
PROBABILITIES = "probabilities"  # of the classes, as a store keeps them


def class_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """log p/(1 − p) of the labelled class; logits [B, C], labels [B] → [B]."""
    own = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)  # one_hot does not go through vmap
    others = logits.masked_fill(own, float("-inf"))
    return logits.masked_fill(~own, 0).sum(dim=1) - torch.logsumexp(others, dim=1)


class ImageClassifierTask(Task):
    """Pictures with a label. batch: "pixels" uint8 [B, 3, S, S], "label" int64 [B]."""

    name = "image_classifier"
    version = 1
    fields = (FieldSpec("image", "image"), FieldSpec("label", "label"))
    title = "label"
    embeddings = ("image_embedding",)
    outputs = ("margin", "log_probability")
    named_models = True
    recipe = TrainingDefaults(optimizer="sgd", warmup=0.2, augment="flip", examples_seen=30_000)

    def __init__(self, model: ModelSpec | None = None, output: ModelOutputSpec | None = None) -> None:
        self.model, self.output = model, output or ModelOutputSpec()
        if model is not None:
            self.to_pixels = image_pixels(model)
            self.number = {name: number for number, name in enumerate(model.config["classes"])}

    def bind(self, model: ModelSpec, output: ModelOutputSpec) -> "ImageClassifierTask":
        return ImageClassifierTask(model, output)

    def batch(self, examples: Sequence[Values]) -> Batch:
        return {
            "pixels": torch.stack([self.to_pixels(example["image"]) for example in examples]),
            "label": torch.tensor([self._number_of(str(example["label"])) for example in examples]),
        }

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
        logits = self._logits(model, batch)
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
        logits = self._logits(model, batch)
        p = torch.softmax(logits, dim=1)
        own = p.gather(1, batch["label"][:, None])[:, 0]
        if self.output.output == "log_probability":
            return {"f": self.model_output(model, batch, {}), "q": torch.ones_like(own), PROBABILITIES: p}
        f = class_margin(logits, batch["label"])
        return {"f": f, "q": torch.sigmoid(-f), PROBABILITIES: p}

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.model is not None
        return model(normalise(self.model, batch["pixels"]))

    def embed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The features before the last linear layer, or the logits where there are none, as unit vectors."""
        assert self.model is not None
        logits, features = logits_and_features(model, normalise(self.model, batch["pixels"]))
        return {"image_embedding": F.normalize(logits if features is None else features, dim=1)}

    def loss(self, model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
        logits = self._logits(model, batch)
        if weights is None:
            return F.cross_entropy(logits, batch["label"])
        each = F.cross_entropy(logits, batch["label"], reduction="none")
        return (weights * each).sum() / weights.sum()

    def augmented(self, batch: Batch, kind: str, generator: torch.Generator) -> Batch:
        return {**batch, "pixels": augmented(batch["pixels"], kind, generator)}

    @torch.no_grad()
    def quality(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Accuracy, and mean probability of the label."""
        n = len(batch["label"])
        if not n:
            return {}
        parts = [{name: values[i : i + WITHIN] for name, values in batch.items()} for i in range(0, n, WITHIN)]
        p = torch.cat([torch.softmax(self._logits(model, part), dim=1) for part in parts])
        own = p.gather(1, batch["label"][:, None])[:, 0]
        return {"accuracy": float((p.argmax(dim=1) == batch["label"]).float().mean()), "mean p": float(own.mean())}

    def model_spec(self, name: str, dataset: Dataset, checkpoints: Sequence[Path] = ()) -> ModelSpec:
        del checkpoints
        classes = dataset.account.classes
        if len(classes) < 2:
            raise DataError(
                f"data set {dataset.root}",
                f"{len(classes)} class{'es' if len(classes) != 1 else ''}",
                "at least 2 labels",
                "Name the column of labels with --label-column.",
            )
        return classifier_spec(name or "resnet9", classes)

    def build_model(self, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
        return build_classifier(spec, seed=seed)

    def load_checkpoint(self, spec: ModelSpec, file: Path) -> nn.Module:
        return load_classifier(spec, file)
