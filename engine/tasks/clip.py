"""CLIP: image–caption pairs, and how well a model matches them.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 3 and appendix E (CLIP). For a pair with unit
embeddings u (image) and v (text), reference pairs with embeddings U_j, V_j and logit scale s:

    f = −log Σ_j exp(s·(uᵀV_j − uᵀv)) − log Σ_j exp(s·(vᵀU_j − vᵀu))

The reference pairs are the task's context, drawn once per checkpoint and recorded in the store, so f depends neither on
the batch nor on any state. Those that share the target's image or caption are masked out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from traklens.engine.data import Dataset, Example
from traklens.engine.models.checkpoints import (
    FROZEN,
    build_model,
    load_checkpoint,
    make_tokenizer,
    model_spec,
    temperature,
)
from traklens.engine.models.preprocessing import augmented, image_pixels, normalise, with_preprocessing
from traklens.engine.streams import STREAMS, generator
from traklens.engine.tasks.contract import Batch, Context, Task, Training, TrainingDefaults, Values
from traklens.stores.errors import UsageError
from traklens.stores.specs import CLIP, ModelOutputSpec, ModelSpec

WITHIN = 256  # pairs embedded at a time


class Margins(NamedTuple):
    """One row per pair: the two directions of f, each of shape [B]."""

    image_to_text: Tensor
    text_to_image: Tensor

    def f(self) -> Tensor:
        """The model output, shape [B]."""
        return self.image_to_text + self.text_to_image

    def p(self) -> Tensor:
        """Softmax probability of the true partner among itself and the references, shape [B, 2].

        With f_dir = −logsumexp_j s·(uᵀV_j − uᵀv), the probability is e^{s·uᵀv} / (e^{s·uᵀv} + Σ_j e^{s·uᵀV_j}),
        which is the logistic function of f_dir.
        """
        return torch.sigmoid(torch.stack([self.image_to_text, self.text_to_image], dim=1))

    def q(self) -> Tensor:
        """Q = 1 − mean of the two probabilities, shape [B], by the logistic function of −f_dir: 1 − p would round to 0."""
        return torch.sigmoid(-torch.stack([self.image_to_text, self.text_to_image], dim=1)).mean(dim=1)

    def log_p(self) -> Tensor:
        """log p of the true partner, summed over the two directions: minus CLIP's loss of the pair, shape [B]."""
        return F.logsigmoid(self.image_to_text) + F.logsigmoid(self.text_to_image)


def margins(u: Tensor, v: Tensor, keep: Tensor, reference_u: Tensor, reference_v: Tensor, scale: Tensor) -> Margins:
    """The two directions of f for unit embeddings u, v [B, e] against references [R, e]; keep [B, R] bool."""
    own = (u * v).sum(dim=1, keepdim=True)
    minus_infinity = float("-inf")

    def direction(side: Tensor, reference: Tensor) -> Tensor:
        logits = scale * (side @ reference.T - own)
        return -torch.logsumexp(logits.masked_fill(~keep, minus_infinity), dim=1)

    return Margins(direction(u, reference_v), direction(v, reference_u))


def contrastive_loss(u: Tensor, v: Tensor, scale: Tensor, same: Tensor, weights: Tensor | None = None) -> Tensor:
    """CLIP's symmetric loss, where pairs of the same caption or image count as positives.

    u, v [B, e] unit vectors; same [B, B] bool, symmetric with a true diagonal; weights [B] of the pairs. With no repeats
    this is CLIP's (Radford et al. 2021, figure 3); with repeats the target is uniform over the positives.
    """
    logits = scale * u @ v.T
    target = same / same.sum(dim=1, keepdim=True)
    if weights is None:
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    each = F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")
    return (weights * each).sum() / (2 * weights.sum())


def draw_references(
    n_train: int, n_reference: int, seed: int, checkpoint: int, *, streams: int = STREAMS
) -> np.ndarray:
    """Rows of the reference pairs of one checkpoint: drawn without replacement, ascending int64 [R]."""
    draw = generator("reference examples", seed, checkpoint, version=streams)
    size = min(n_reference, n_train)
    return np.sort(draw.choice(n_train, size=size, replace=False)).astype(np.int64)


def key_of(text: str) -> int:
    """A number for a text, equal for equal texts: int64."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


class ClipTask(Task):
    """Image–caption pairs. batch: "pixels" uint8 [B, 3, S, S], "tokens" int64 [B, L], "caption" and "image" int64 [B]
    (equal for equal ones). context: "reference" int64 [R] rows, "image_embedding", "text_embedding" [R, e], "caption",
    "image" int64 [R]."""

    name = CLIP.name
    version = CLIP.version
    fields = CLIP.fields
    title = CLIP.title
    embeddings = CLIP.embeddings
    outputs = ("margin", "log_probability")
    named_models = True
    recipe = TrainingDefaults(augment="shift")

    def __init__(self, model: ModelSpec | None = None, output: ModelOutputSpec | None = None) -> None:
        self.model, self.output = model, output or ModelOutputSpec()
        if model is not None:
            self.to_pixels, self.tokenize = image_pixels(model), make_tokenizer(model)

    def bind(self, model: ModelSpec, output: ModelOutputSpec) -> "ClipTask":
        if output.temperature not in ("checkpoint", "one"):
            raise UsageError("temperature", repr(output.temperature), "checkpoint or one", "Choose one of them.")
        return ClipTask(model, output)

    def batch(self, examples: Sequence[Values]) -> Batch:
        captions = [example["caption"] for example in examples]
        return {
            "pixels": torch.stack([self.to_pixels(example["image"]) for example in examples]),
            "tokens": self.tokenize(captions),
            "caption": torch.tensor([key_of(caption) for caption in captions]),
            "image": torch.tensor([key_of(example["group"]) for example in examples]),
        }

    def model_output(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        embedded = self.embed(model, batch)
        return self._f(self._margins(model, batch, context, embedded))

    def output_to_loss(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        return self._q(self._margins(model, batch, context, self.embed(model, batch)))

    def measure(
        self, model: nn.Module, batch: Batch, context: Context, embedded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        found = self._margins(model, batch, context, embedded)
        return {"f": self._f(found), "p": found.p(), "q": self._q(found)}

    def _f(self, found: Margins) -> Tensor:
        return found.f() if self.output.output == "margin" else found.log_p()

    def _q(self, found: Margins) -> Tensor:
        return found.q() if self.output.output == "margin" else torch.ones_like(found.image_to_text)

    def _margins(self, model: nn.Module, batch: Batch, context: Context, embedded: Mapping[str, Tensor]) -> Margins:
        u, v = (embedded[name] for name in self.embeddings)
        scale = temperature(model, self.output.temperature).to(u.device)
        reference_u, reference_v = (context[name] for name in self.embeddings)
        return margins(u, v, _keep(batch, context), reference_u, reference_v, scale)

    def context(self, model: nn.Module, training: Training) -> Context:
        del model
        spec = self.output
        rows = draw_references(
            training.n, spec.n_reference, spec.reference_seed, training.checkpoint, streams=training.streams
        )
        examples = training.examples(rows)
        return {
            "reference": torch.from_numpy(rows),
            **training.embed(rows),
            "caption": torch.tensor([key_of(example.fields["caption"]) for example in examples]),
            "image": torch.tensor([key_of(example.group) for example in examples]),
        }

    def check(self, examples: Sequence[Example], context: Context) -> None:
        """Raises UsageError when a pair is left without any reference (all share its caption or its image)."""
        for example in examples:
            caption, image = key_of(example.fields["caption"]), key_of(example.group)
            if not ((context["caption"] != caption) & (context["image"] != image)).any():
                raise UsageError(
                    f"caption {str(example.fields['caption'])[:80]!r}",
                    "no reference pair with another caption",
                    "at least two different captions among the reference pairs",
                    "Use a data set with several captions or more reference pairs.",
                )

    def embed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert self.model is not None
        u = model.encode_image(normalise(self.model, batch["pixels"]), normalize=True)  # type: ignore[operator]
        v = model.encode_text(batch["tokens"], normalize=True)  # type: ignore[operator]
        return {"image_embedding": u, "text_embedding": v}

    def loss(self, model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
        u, v = self.embed(model, batch).values()
        caption, image = batch["caption"], batch["image"]
        same = (caption[:, None] == caption) | (image[:, None] == image)
        return contrastive_loss(u, v, model.logit_scale.exp(), same, weights)  # type: ignore[operator,union-attr]

    def augmented(self, batch: Batch, kind: str, generator: torch.Generator) -> Batch:
        return {**batch, "pixels": augmented(batch["pixels"], kind, generator)}

    def constrain(self, model: nn.Module) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))  # type: ignore[operator,union-attr]

    @torch.no_grad()
    def quality(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Recall at 1 and 10 of captions by image and of images by caption among the given pairs, averaged.

        A hit is any pair with the same caption: duplicates of the right answer are right. Empty for fewer than two pairs.
        """
        n = len(batch["tokens"])
        if n < 2:
            return {}
        parts = [
            self.embed(model, {name: values[start : start + WITHIN] for name, values in batch.items()})
            for start in range(0, n, WITHIN)
        ]
        u, v = (torch.cat([part[name] for part in parts]) for name in self.embeddings)
        similarity, caption = u @ v.T, batch["caption"]
        same = caption[:, None] == caption
        found = {}
        for k in (1, 10):
            top = min(k, n)
            by_image = same.gather(1, similarity.topk(top, dim=1).indices).any(dim=1)
            by_text = same.gather(1, similarity.T.topk(top, dim=1).indices).any(dim=1)
            found[f"recall@{k}"] = float((by_image.float().mean() + by_text.float().mean()) / 2)
        return found

    def model_spec(self, name: str, dataset: Dataset, checkpoints: Sequence[Path] = ()) -> ModelSpec:
        """The vocabulary of a model trained here is the whole data set's, so that no held-out caption has unknown pieces."""
        if checkpoints:
            return with_preprocessing(model_spec(name), checkpoints)
        return model_spec(name or "tiny", [example.fields["caption"] for example in dataset.examples])

    def build_model(self, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
        return build_model(spec, seed=seed)

    def load_checkpoint(self, spec: ModelSpec, file: Path) -> nn.Module:
        return load_checkpoint(spec, file)

    def frozen(self) -> tuple[str, ...]:
        return FROZEN


def _keep(batch: Batch, context: Context) -> Tensor:
    """Which references count for which pair: not those with its own caption or its own image. bool [B, R]."""
    same_caption = batch["caption"][:, None] == context["caption"][None, :]
    same_image = batch["image"][:, None] == context["image"][None, :]
    return ~(same_caption | same_image)
