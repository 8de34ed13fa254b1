"""Image classifiers: pictures with a label, and how sure a model is of it (engine/tasks/classifier.py)."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from traklens.engine.data import Dataset
from traklens.engine.models.classifiers import build_classifier, classifier_spec, load_classifier, logits_and_features
from traklens.engine.models.preprocessing import augmented, image_pixels, normalise
from traklens.engine.tasks.classifier import ClassifierTask
from traklens.engine.tasks.contract import Batch, TrainingDefaults, Values
from traklens.stores.specs import FieldSpec, ModelOutputSpec, ModelSpec


class ImageClassifierTask(ClassifierTask):
    """Pictures with a label. batch: "pixels" uint8 [B, 3, S, S], "label" int64 [B]."""

    name = "image_classifier"
    version = 1
    fields = (FieldSpec("image", "image"), FieldSpec("label", "label"))
    title = "label"
    embeddings = ("image_embedding",)
    recipe = TrainingDefaults(optimizer="sgd", warmup=0.2, augment="flip", examples_seen=30_000)

    def __init__(self, model: ModelSpec | None = None, output: ModelOutputSpec | None = None) -> None:
        super().__init__(model, output)
        if model is not None:
            self.to_pixels = image_pixels(model)

    def bind(self, model: ModelSpec, output: ModelOutputSpec) -> "ImageClassifierTask":
        return ImageClassifierTask(model, output)

    def batch(self, examples: Sequence[Values]) -> Batch:
        return {
            "pixels": torch.stack([self.to_pixels(example["image"]) for example in examples]),
            "label": self.numbers([str(example["label"]) for example in examples]),
        }

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.model is not None
        return model(normalise(self.model, batch["pixels"]))

    def embed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The features before the last linear layer, or the logits where there are none, as unit vectors."""
        assert self.model is not None
        logits, features = logits_and_features(model, normalise(self.model, batch["pixels"]))
        return {"image_embedding": F.normalize(logits if features is None else features, dim=1)}

    def augmented(self, batch: Batch, kind: str, generator: torch.Generator) -> Batch:
        return {**batch, "pixels": augmented(batch["pixels"], kind, generator)}

    def model_spec(self, name: str, dataset: Dataset, checkpoints: Sequence[Path] = ()) -> ModelSpec:
        del checkpoints
        return classifier_spec(name or "resnet9", self.classes_in(dataset))

    def build_model(self, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
        return build_classifier(spec, seed=seed)

    def load_checkpoint(self, spec: ModelSpec, file: Path) -> nn.Module:
        return load_classifier(spec, file)
