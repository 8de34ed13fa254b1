"""The model output function f that is attributed, and the output-to-loss gradient Q.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 3 and appendix E (CLIP). For a pair with unit
embeddings u (image) and v (text), reference pairs with embeddings U_j, V_j and logit scale s:

    f = −log Σ_j exp(s·(uᵀV_j − uᵀv)) − log Σ_j exp(s·(vᵀU_j − vᵀu))

The reference pairs are an argument, drawn once per checkpoint and recorded in the store, so f depends neither on
the batch nor on any state. Those that share the target's image or caption are masked out by `keep`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from traklens.engine.streams import STREAMS, generator
from traklens.stores.errors import UsageError


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


def output_to_loss(p: Tensor) -> Tensor:
    """Q = 1 − mean of the partner's probabilities over the two directions; p [B, 2] → [B]."""
    return 1 - p.mean(dim=1)


def margins(u: Tensor, v: Tensor, keep: Tensor, reference_u: Tensor, reference_v: Tensor, scale: Tensor) -> Margins:
    """The two directions of f for unit embeddings u, v [B, e] against references [R, e]; keep [B, R] bool."""
    own = (u * v).sum(dim=1, keepdim=True)
    minus_infinity = float("-inf")

    def direction(side: Tensor, reference: Tensor) -> Tensor:
        logits = scale * (side @ reference.T - own)
        return -torch.logsumexp(logits.masked_fill(~keep, minus_infinity), dim=1)

    return Margins(direction(u, reference_v), direction(v, reference_u))


class ClipMargin(nn.Module):
    """f as a module: images [B, 3, S, S], tokens [B, L], keep [B, R] | references U, V [R, e] → f [B]."""

    def __init__(self, clip: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("scale", scale)

    def forward(
        self, images: Tensor, tokens: Tensor, keep: Tensor, reference_u: Tensor, reference_v: Tensor
    ) -> Tensor:
        u = self.clip.encode_image(images, normalize=True)  # type: ignore[operator]
        v = self.clip.encode_text(tokens, normalize=True)  # type: ignore[operator]
        return margins(u, v, keep, reference_u, reference_v, self.scale).f()  # type: ignore[arg-type]


class ClassMargin(nn.Module):
    """The model output of a classifier: images [B, …], labels [B] → f = log(p / (1 − p)) of the labelled class [B].

    Source: TRAK (arXiv 2303.14186), section 3.1. With logits h, f = h_y − log Σ_{j≠y} exp(h_j); Q = 1 − p.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.classifier(images)
        own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
        others = logits.masked_fill(own, float("-inf"))
        return logits.masked_fill(~own, 0).sum(dim=1) - torch.logsumexp(others, dim=1)


def draw_references(
    n_train: int, n_reference: int, seed: int, checkpoint: int, *, streams: int = STREAMS
) -> np.ndarray:
    """Rows of the reference pairs of one checkpoint: drawn without replacement, ascending int64 [R]."""
    draw = generator("reference examples", seed, checkpoint, version=streams)
    size = min(n_reference, n_train)
    return np.sort(draw.choice(n_train, size=size, replace=False)).astype(np.int64)


def keep_mask(
    captions: np.ndarray,
    image_ids: np.ndarray,
    reference_captions: np.ndarray,
    reference_image_ids: np.ndarray,
) -> np.ndarray:
    """Which references count for which pair: not those with its own caption or its own image. [B], [R] → [B, R].

    Raises UsageError when a pair is left without any reference (all share its caption).
    """
    same_caption = captions[:, None] == reference_captions[None, :]
    same_image = image_ids[:, None] == reference_image_ids[None, :]
    keep = ~(same_caption | same_image)
    empty = np.flatnonzero(~keep.any(axis=1))
    if empty.size:
        raise UsageError(
            f"caption {str(captions[empty[0]])[:80]!r}",
            "no reference pair with another caption",
            "at least two different captions among the reference pairs",
            "Use a data set with several captions or more reference pairs.",
        )
    return keep
