"""Text classifiers: a text, or two, with a label, and how sure a transformer is of it (engine/tasks/classifier.py).

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 4: BERT on QNLI.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from traklens.engine.data import Dataset
from traklens.engine.models.text import TINY, text_spec
from traklens.engine.tasks.classifier import ClassifierTask
from traklens.engine.tasks.contract import Batch, TrainingDefaults, Values
from traklens.engine.tasks.text import TextTask, inputs_of, mean_state
from traklens.stores.errors import UsageError
from traklens.stores.specs import FieldSpec, ModelSpec


class TextClassifierTask(TextTask, ClassifierTask):
    """Texts with a label. batch: "tokens", "mask" and, of pairs of texts, "kinds" int64 [B, L]; "label" int64 [B]."""

    name = "text_classifier"
    version = 1
    fields = (FieldSpec("text", "text"), FieldSpec("label", "label"))
    title = "label"
    recipe = TrainingDefaults(learning_rates={"adamw": 5e-4, "sgd": 0.1}, examples_seen=20_000)

    def with_columns(self, columns: Mapping[str, Sequence[str]]) -> Self:
        """One column of texts is called text; two keep their names."""
        texts, label = columns.get("text", ()), "".join(columns.get("label", ()))
        if len(texts) > 2 or len(set(texts)) != len(texts):
            raise UsageError(
                "text_column", ", ".join(texts), "one column, or two", "Give --text-column once or twice."
            )
        named = [FieldSpec("text", "text", *texts)] if len(texts) < 2 else [FieldSpec(t, "text", t) for t in texts]
        return self.with_fields([*named, FieldSpec("label", "label", label)])

    def batch(self, examples: Sequence[Values]) -> Batch:
        names = [field.name for field in self.fields if field.kind == "text"]
        texts = [tuple(str(example[name]) for name in names) for example in examples]
        encoded = self.codec.encoded(texts if len(names) > 1 else [text for (text,) in texts])
        return {
            **self.tensors(encoded, pairs=len(names) > 1),
            "label": self.numbers([str(example["label"]) for example in examples]),
        }

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(**inputs_of(batch)).logits

    def embed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The mean of the last layer's states over the text."""
        states = model(**inputs_of(batch), output_hidden_states=True).hidden_states[-1]
        return {"text_embedding": mean_state(states, batch["mask"])}

    def model_spec(self, name: str, dataset: Dataset, checkpoints: Sequence[Path] = ()) -> ModelSpec:
        names = [field.name for field in self.fields if field.kind == "text"]
        texts = (str(example.fields[name]) for example in dataset.examples for name in names)
        return text_spec(self.name, name or TINY[self.name], texts, self.classes_in(dataset), checkpoints)
