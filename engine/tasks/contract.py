"""The task contract: everything that the product knows about a problem stands in one object.

A task says what an example consists of (`fields`), how examples become tensors (`batch`), and which output of the model is
attributed (`model_output`). The rest has defaults; what a task does not offer, commands and pages leave out.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 3: a model output function f(z; θ) and the gradient of the loss
with respect to it, Q.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from traklens.engine.data import Dataset, Example
from traklens.stores.errors import UsageError
from traklens.stores.examples import COMMON, WORDS
from traklens.stores.specs import KINDS, FieldSpec, ModelOutputSpec, ModelSpec, TaskSpec

Batch = Mapping[str, Tensor]  # tensors of B examples, the batch in dimension 0
Context = Mapping[str, Tensor]  # tensors that are the same for every example; empty where f needs none
Values = Mapping[str, Any]  # one example read: its fields (pictures as PIL images in RGB), and "group"


@dataclass(frozen=True)
class Training:
    """The training examples under one checkpoint, for what f needs beside the example.

    `checkpoint` numbers the checkpoint, `streams` is the version of the random streams. examples, embed and batch take
    rows [r] of the training set: examples as stored, unit embeddings by name [r, e], tensors [r, …].
    """

    n: int
    checkpoint: int
    streams: int
    examples: Callable[[np.ndarray], Sequence[Example]]
    embed: Callable[[np.ndarray], Mapping[str, Tensor]]
    batch: Callable[[np.ndarray], Batch]


@dataclass(frozen=True)
class TrainingDefaults:
    """How a task's models are trained where nothing else is asked for; `examples_seen` by each of them in all.

    average: decay of the running mean of the weights that a model ends with, 0 for those of the last step.
    """

    optimizer: str = "adamw"
    learning_rates: Mapping[str, float] = field(default_factory=lambda: {"adamw": 1e-3, "sgd": 0.1})
    weight_decays: Mapping[str, float] = field(default_factory=lambda: {"adamw": 0.1, "sgd": 5e-4})
    warmup: float = 0.1
    augment: str = "none"
    examples_seen: int = 20_000
    average: float = 0.99


class Task:
    """A problem. Only `batch` and `model_output` have no default; B examples, e the width of an embedding."""

    name: str = ""
    version: int = 1
    fields: tuple[FieldSpec, ...] = ()
    title: str = ""  # the field in words; what `words` makes if empty
    embeddings: tuple[str, ...] = ()  # names of what `embed` gives
    outputs: tuple[str, ...] = ("margin",)  # kinds of model output that it offers
    named_models: bool = False  # whether its architectures go by names (--model)
    recipe: TrainingDefaults = TrainingDefaults()
    weighs_by_q: bool = True  # whether scores are weighed by Q where a build does not say
    augments: tuple[str, ...] = ("shift", "flip", "none")  # kinds of augmentation that `augmented` knows

    def bind(self, model: ModelSpec, output: ModelOutputSpec) -> Self:
        """The task for a model: with its picture size, its tokenizer, its classes, the chosen kind of output."""
        del model, output
        return self

    def with_fields(self, fields: Sequence[FieldSpec]) -> Self:
        """The task for data of these fields, as a run or store recorded them; the same one by default."""
        del fields
        return self

    def with_columns(self, columns: Mapping[str, Sequence[str]]) -> Self:
        """The task for data whose columns the user names, by field; the same by default: readers of pictures know columns."""
        del columns
        return self

    def read(self, path: Path) -> Iterable[Mapping[str, Any]]:
        """Examples of a data set as mappings from field names to values, where no known form fits; not needed otherwise."""
        raise self._lacks("read(self, path)")

    # What is asked of every task.

    def batch(self, examples: Sequence[Values]) -> Batch:
        """Tensors of B examples; pictures best as uint8, normalised in `model_output`."""
        raise self._lacks("batch(self, examples)")

    def trimmed(self, batch: Batch) -> Batch:
        """A batch of padded rows without the padding that all of them share; unchanged by default."""
        return batch

    def model_output(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        """f, shape [B]; f of an example depends on no other example of the batch."""
        raise self._lacks("model_output(self, model, batch, context)")

    def _lacks(self, method: str) -> UsageError:
        """The error of a task that does not say what only it can know."""
        return UsageError(f"task {self.name!r}", f"no {method}", "that method", "Add it: see docs/own-task.md.")

    # What f needs.

    def output_to_loss(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        """Q = ∂loss/∂f without its sign, shape [B]. The default, σ(−f), is right for every margin f = log p/(1 − p)."""
        return torch.sigmoid(-self.model_output(model, batch, context))

    def context(self, model: nn.Module, training: Training) -> Context:
        """What f needs beside the example, drawn once per checkpoint and kept in the store; nothing by default."""
        del model, training
        return {}

    def measure(
        self, model: nn.Module, batch: Batch, context: Context, embedded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What a store keeps of each example beside its gradient: "f" and "q" [B], and more [B, …] by other names.

        `embedded` are the unit embeddings of the batch, already computed.
        """
        del embedded
        f = self.model_output(model, batch, context)
        return {"f": f, "q": self.output_to_loss(model, batch, context)}

    def check(self, examples: Sequence[Example], context: Context) -> None:
        """Raise UsageError for an example that f is not defined for, naming it."""
        del examples, context

    # What examples are compared, shown and known by.

    def embed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors [B, e] by the names in `embeddings`; none by default: no similarity, no map."""
        del model, batch
        return {}

    def words(self, example: Values) -> str:
        """What people know an example by, where no field says so."""
        shown = [f"{field.name} {_short(example[field.name])}" for field in self.fields if field.kind != "image"]
        return ", ".join(shown) or str(example["group"])

    def picture(self, example: Values) -> Any:
        """A picture (PIL, RGB) to show an example by: its first image field; None where it has none."""
        name = self.spec().first("image")
        return None if name is None else example[name]

    # What training takes.

    def loss(self, model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Training loss of a batch, a scalar; `weights` [B] weighs its examples, all alike if None.

        The default is the mean of −log σ(f), which belongs to a margin f without context. Raises UsageError for a task
        whose Q is another than a margin's and that says nothing of its loss.
        """
        if type(self).output_to_loss is not Task.output_to_loss:
            raise UsageError(
                f"task {self.name!r}",
                "an output_to_loss of its own and no loss",
                "a method loss(self, model, batch, weights=None) that returns a scalar",
                "Add it: training and retraining need it.",
            )
        losses = nn.functional.softplus(-self.model_output(model, batch, {}))
        return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()

    def augmented(self, batch: Batch, kind: str, generator: torch.Generator) -> Batch:
        """A batch as a training step sees it; unchanged by default."""
        del kind, generator
        return batch

    def constrain(self, model: nn.Module) -> None:
        """Bring parameters back into their range after a step; nothing by default."""
        del model

    def quality(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Figures of held-out examples for the training log; none by default."""
        del model, batch
        return {}

    # Models.

    def model_spec(self, name: str, dataset: Dataset, checkpoints: Sequence[Path] = ()) -> ModelSpec:
        """Describe the model called `name` for a data set; `checkpoints` where it is not to be trained here.

        Raises ModelError for one that is not known.
        """
        del dataset, checkpoints
        return ModelSpec(name or self.name, {}, (0.0,), (1.0,))

    def build_model(self, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
        """The architecture with random weights drawn from `seed` alone."""
        raise self._lacks("build_model(self, spec, seed)")

    def load_checkpoint(self, spec: ModelSpec, file: Path) -> nn.Module:
        """The model with the weights of a file, in evaluation mode and float32. Raises ModelError."""
        from traklens.engine.models.weights import load_state

        return load_state(self.build_model(spec), file, spec.name)

    def frozen(self) -> tuple[str, ...]:
        """Names of parameters that are never attributed."""
        return ()

    # What the manifest keeps.

    def spec(self) -> TaskSpec:
        """The task as a store records it. Raises UsageError for fields that cannot be stored."""
        wrong = [f.name for f in self.fields if f.kind not in KINDS or f.name in (*COMMON, WORDS) or not f.name]
        names = [field.name for field in self.fields]
        if wrong or len(set(names)) != len(names) or not names or not self.name:
            raise UsageError(
                f"task {self.name or type(self).__name__!r}",
                f"name {self.name!r} and fields {', '.join(f'{f.name} ({f.kind})' for f in self.fields) or 'none'}",
                f"a name, and fields of different names, none of {', '.join((*COMMON, WORDS))}, of the kinds "
                + ", ".join(KINDS),
                "Correct `name` and `fields`.",
            )
        return TaskSpec(self.name, self.version, self.fields, self.title or WORDS, self.embeddings)


class ModelOutput(nn.Module):
    """f of a task as a module: the tensors of a batch, then those of a context → f [B]. The model is its part `model`."""

    def __init__(self, task: Task, model: nn.Module, batch: Sequence[str], context: Sequence[str]) -> None:
        super().__init__()
        self.task, self.model = task, model
        self.batch_names, self.context_names = tuple(batch), tuple(context)

    def forward(self, *tensors: Tensor) -> Tensor:
        split = len(self.batch_names)
        batch = dict(zip(self.batch_names, tensors[:split], strict=True))
        context = dict(zip(self.context_names, tensors[split:], strict=True))
        return self.task.model_output(self.model, batch, context)


def _short(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, float):
        return f"{value:.4g}"
    array = np.asarray(value)
    if array.dtype.kind in "fiub" and array.ndim:
        few = " ".join(f"{number:.3g}" for number in array.ravel()[:6])
        return f"[{few}{' …' if array.size > 6 else ''}]"
    return str(value)[:200]
