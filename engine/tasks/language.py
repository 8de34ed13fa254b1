"""Language models: what a transformer answers to an input, or how a text goes on.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 4: mT5 on fact tracing. With p_t the probability of the t-th token
that is asked about, given all before it, and T of them,

    f = 1/T Σ_t log p_t/(1 − p_t)        Q = 1/T Σ_t (1 − p_t)

or, by log-probability, f = 1/T Σ_t log p_t and Q = 1. Prompt and padding are never asked about.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from traklens.engine.data import Dataset
from traklens.engine.models.text import TINY, text_spec
from traklens.engine.tasks.classifier import class_margin
from traklens.engine.tasks.contract import Batch, Context, TrainingDefaults, Values
from traklens.engine.tasks.text import TextTask, inputs_of, mean_state
from traklens.stores.specs import FieldSpec, ModelSpec

# beside the fields of an example that is asked about: (start, end), the characters of the words asked about
SPAN = "span"


class LanguageTask(TextTask):
    """What both kinds share. A subclass gives `batch`, with "asked" [B, T] in it, and `predictions`."""

    # What was learned by heart has a Q near 0, what cannot be known one near 1: weighed by it, scores name what cannot be
    # known (docs/decisions/2026-11-30-facts.md).
    weighs_by_q = False
    recipe = TrainingDefaults(learning_rates={"adamw": 2e-3, "sgd": 0.1}, weight_decays={"adamw": 0.0, "sgd": 0.0},
                              examples_seen=100_000)  # fmt: skip

    def predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, T, V], the tokens that are right [B, T], and which are asked about, 0 or 1 [B, T]."""
        raise NotImplementedError

    def next_token(self, model: nn.Module, prompt: str, tokens: Sequence[int]) -> Tensor:
        """Probability of each token [V] after a prompt (an input) and the tokens answered so far."""
        raise NotImplementedError

    @property
    def end(self) -> int | None:
        """The id that ends a text, where there is one."""
        assert self.model is not None
        return self.model.config["architecture"].get("eos_token_id")

    def of_tokens(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Output of each token, its log odds log p/(1 − p), and which are asked about: [B, T] each, 0 where none is."""
        return self._of(*self.predictions(model, batch))

    def _of(self, logits: Tensor, right: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place = asked > 0  # most of a batch is padding: sums over the vocabulary are worth saving there
        found = class_margin(logits[place], right[place])
        margin = torch.zeros(asked.shape, dtype=found.dtype, device=found.device).masked_scatter(place, found)
        each = F.logsigmoid(margin) if self.output.output == "log_probability" else margin
        return each, margin, asked.to(each.dtype)

    def model_output(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        del context
        each, _, asked = self.of_tokens(model, batch)
        return (each * asked).sum(dim=1) / asked.sum(dim=1).clamp_min(1)

    def output_to_loss(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        return self.measure(model, batch, context, {})["q"]

    def measure(
        self, model: nn.Module, batch: Batch, context: Context, embedded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """f, Q, "log_p" of all that is asked about, and "exact": 1 where each token of it is the likeliest, else 0."""
        del context, embedded
        logits, right, asked = self.predictions(model, batch)
        each, margin, asked = self._of(logits, right, asked)
        count = asked.sum(dim=1).clamp_min(1)
        f = (each * asked).sum(dim=1) / count
        missing = (torch.sigmoid(-margin) * asked).sum(dim=1) / count  # 1 − p
        return {
            "f": f,
            "q": torch.ones_like(f) if self.output.output == "log_probability" else missing,
            "log_p": (F.logsigmoid(margin) * asked).sum(dim=1),
            "exact": _exact(logits, right, asked).to(f.dtype),
        }

    def loss(self, model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Mean over the examples of the mean of −log p over their tokens."""
        logits, right, asked = self.predictions(model, batch)
        place = asked > 0
        losses = F.cross_entropy(logits[place], right[place], reduction="none")
        each = torch.zeros(asked.shape, dtype=losses.dtype, device=losses.device).masked_scatter(place, losses)
        each = each.sum(dim=1) / asked.sum(dim=1).clamp_min(1)
        return each.mean() if weights is None else (weights * each).sum() / weights.sum()

    @torch.no_grad()
    def quality(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Mean −log p of a token, and the share of examples whose every token is the likeliest."""
        n = len(batch["tokens"])
        if not n:
            return {}
        total, exact = 0.0, 0
        for start in range(0, n, 64):
            part = self.trimmed({name: values[start : start + 64] for name, values in batch.items()})
            logits, right, asked = self.predictions(model, part)
            each = F.cross_entropy(logits.transpose(1, 2), right, reduction="none") * asked
            total += float((each.sum(dim=1) / asked.sum(dim=1).clamp_min(1)).sum())
            exact += int(_exact(logits, right, asked).sum())
        return {"loss": total / n, "exact": exact / n}

    def model_spec(self, name: str, dataset: Dataset, checkpoints: Sequence[Path] = ()) -> ModelSpec:
        names = [field.name for field in self.fields]
        texts = (str(example.fields[name]) for example in dataset.examples for name in names)
        return text_spec(self.name, name or TINY[self.name], texts, checkpoints=checkpoints)


def _exact(logits: Tensor, right: Tensor, asked: Tensor) -> Tensor:
    """Whether each token asked about is the likeliest given those before it: bool [B]."""
    return ((logits.argmax(dim=-1) == right) | (asked == 0)).all(dim=1)


class CausalTask(LanguageTask):
    """Texts, each token given those before it. batch: "tokens", "mask", "asked" int64 [B, L]."""

    name = "causal_lm"
    version = 1
    fields = (FieldSpec("text", "text"),)
    title = "text"
    augments = ("none",)  # what is hidden could not be learned

    def batch(self, examples: Sequence[Values]) -> Batch:
        texts = self.codec.encoded([str(example["text"]) for example in examples])
        asked = [asked_of(one, example.get(SPAN)) for one, example in zip(texts, examples, strict=True)]
        return {**self.tensors(texts), "asked": torch.from_numpy(self.codec.padded(asked, 0))}

    def next_token(self, model: nn.Module, prompt: str, tokens: Sequence[int]) -> Tensor:
        ids = list(self.codec.encoded([prompt])[0].ids)
        before = (ids[:-1] if ids[-1:] == [self.end] else ids) + list(tokens)
        given = torch.tensor([before[-self.codec.longest + 1 :]])
        return torch.softmax(model(input_ids=given, use_cache=False).logits[0, -1], dim=-1)

    def predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        logits = model(**inputs_of(batch), use_cache=False).logits
        return logits[:, :-1], batch["tokens"][:, 1:], batch["asked"][:, 1:]

    def trimmed(self, batch: Batch) -> Batch:
        found = super().trimmed(batch)
        return {**found, "asked": batch["asked"][:, : found["tokens"].shape[1]]}

    def embed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The mean of the last layer's states over the text."""
        states = model(**inputs_of(batch), use_cache=False, output_hidden_states=True).hidden_states[-1]
        return {"text_embedding": mean_state(states, batch["mask"])}


class Seq2SeqTask(LanguageTask):
    """Inputs with what is to be answered. batch: "tokens", "mask" int64 [B, L]; "target", "asked" int64 [B, T]."""

    name = "seq2seq"
    version = 1
    fields = (FieldSpec("input", "text"), FieldSpec("target", "text"))
    title = "target"

    def batch(self, examples: Sequence[Values]) -> Batch:
        targets = self.codec.encoded([str(example["target"]) for example in examples])
        asked = [asked_of(one, example.get(SPAN)) for one, example in zip(targets, examples, strict=True)]
        return {
            **self.tensors(self.codec.encoded([str(example["input"]) for example in examples])),
            "target": torch.from_numpy(self.codec.padded([one.ids for one in targets])),
            "asked": torch.from_numpy(self.codec.padded(asked, 0)),
        }

    def trimmed(self, batch: Batch) -> Batch:
        longest = max(int(batch["asked"].sum(dim=1).max()), 1)
        return {
            **super().trimmed(batch),
            "target": batch["target"][:, :longest],
            "asked": batch["asked"][:, :longest],
        }

    def next_token(self, model: nn.Module, prompt: str, tokens: Sequence[int]) -> Tensor:
        batch = self.tensors(self.codec.encoded([prompt]))
        start = int(model.config.decoder_start_token_id)  # type: ignore[union-attr, arg-type]
        before = torch.tensor([[start, *tokens]])
        logits = model(**inputs_of(batch), decoder_input_ids=before, use_cache=False).logits
        return torch.softmax(logits[0, -1], dim=-1)

    def predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        start = model.config.decoder_start_token_id  # type: ignore[union-attr]
        target = batch["target"]
        before = torch.cat([torch.full_like(target[:, :1], int(start)), target[:, :-1]], dim=1)  # type: ignore[arg-type]
        logits = model(**inputs_of(batch), decoder_input_ids=before, use_cache=False).logits
        return logits, target, batch["asked"]

    def embed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The mean of the encoder's states over the input."""
        states = model.get_encoder()(**inputs_of(batch)).last_hidden_state  # type: ignore[operator]
        return {"text_embedding": mean_state(states, batch["mask"])}


def asked_of(encoding, span: tuple[int, int] | None) -> list[int]:
    """Which tokens of a text are asked about, 1 or 0: all, or those that a span of characters touches."""
    if span is None:
        return list(encoding.attention_mask)
    start, end = span
    return [int(first < end and last > start) for first, last in encoding.offsets]
