"""What tasks of text share: ids padded to the longest of a batch, columns named by users, vectors to compare texts by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from traklens.engine.models.text import build_text_model, load_text_model
from traklens.engine.models.tokenization import Codec
from traklens.engine.tasks.contract import Batch, Task
from traklens.stores.specs import FieldSpec, ModelOutputSpec, ModelSpec

if TYPE_CHECKING:
    from tokenizers import Encoding

HIDDEN = 0.3  # share of the tokens of an input that a training step hides, with --augment words
ALONG = ("tokens", "mask", "kinds")  # tensors [B, L] of a batch, L the longest text


class TextTask(Task):
    """Examples made of text, for a transformer. `fields` may be other than the class's: by the columns of the data."""

    embeddings = ("text_embedding",)
    outputs = ("margin", "log_probability")
    named_models = True
    augments = ("words", "none")

    def __init__(
        self,
        model: ModelSpec | None = None,
        output: ModelOutputSpec | None = None,
        fields: tuple[FieldSpec, ...] | None = None,
    ) -> None:
        self.model, self.output, self.fields = model, output or ModelOutputSpec(), fields or type(self).fields
        if model is not None:
            config = model.config
            self.codec = Codec(config["tokenizer"], config["pad"], config["longest"])
            self.two_kinds = bool(config["two_kinds"])

    def bind(self, model: ModelSpec, output: ModelOutputSpec) -> Self:
        return type(self)(model, output, self.fields)

    def with_fields(self, fields: Sequence[FieldSpec]) -> Self:
        return type(self)(self.model, self.output, tuple(fields))

    def with_columns(self, columns: Mapping[str, Sequence[str]]) -> Self:
        return self.with_fields([replace(f, column="".join(columns.get(f.name, f.column))) for f in self.fields])

    def build_model(self, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
        return build_text_model(self.name, spec, seed=seed)

    def load_checkpoint(self, spec: ModelSpec, file: Path) -> nn.Module:
        return load_text_model(self.name, spec, file)

    def tensors(self, found: "Sequence[Encoding]", *, pairs: bool = False) -> Batch:
        """Texts, or pairs of texts, as "tokens", "mask" and, of pairs, "kinds" int64 [B, L]."""
        batch = {
            "tokens": torch.from_numpy(self.codec.padded([one.ids for one in found])),
            "mask": torch.from_numpy(self.codec.padded([one.attention_mask for one in found], 0)),
        }
        if pairs and self.two_kinds:
            batch["kinds"] = torch.from_numpy(self.codec.padded([one.type_ids for one in found], 0))
        return batch

    def augmented(self, batch: Batch, kind: str, generator: torch.Generator) -> Batch:
        """With "words" each token of a text is hidden with probability 0.3: answers are learned from all that is said.

        Padding stands in its place. Marks stay: what ends or parts texts, and [MASK].
        """
        if kind == "none":
            return batch
        tokens = batch["tokens"]
        marks = torch.tensor([*self.codec.marks, self.codec.pad])
        hidden = (torch.rand(tokens.shape, generator=generator) < HIDDEN) & ~torch.isin(tokens, marks)
        return {**batch, "tokens": tokens.masked_fill(hidden & (batch["mask"] > 0), self.codec.pad)}

    def trimmed(self, batch: Batch) -> Batch:
        """A batch without the padding that all its texts share, and with the tokenizer's own padding in the rest."""
        longest = max(int(batch["mask"].sum(dim=1).max()), 1)
        found = {name: values[:, :longest] if name in ALONG else values for name, values in batch.items()}
        return {**found, "tokens": found["tokens"].masked_fill(found["mask"] == 0, self.codec.pad)}


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """A batch of texts as transformers' models call it."""
    names = {"tokens": "input_ids", "mask": "attention_mask", "kinds": "token_type_ids"}
    return {names[name]: values for name, values in batch.items() if name in names}


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the last layer's states [B, L, d] over a text, as unit vectors [B, d]."""
    weights = mask[:, :, None].to(states.dtype)
    return F.normalize((states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1), dim=1)
