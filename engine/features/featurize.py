"""Featurize: embeddings, model outputs and projected gradients of pairs under one checkpoint.

Per-sample gradients are projected tensor by tensor as the backward pass delivers them, so neither the [B, p] matrix
of gradients nor the [p, k] projection matrix ever exists.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from traklens.engine.gradients import per_sample_gradients
from traklens.engine.models.checkpoints import attributed_parameters, temperature
from traklens.engine.models.preprocessing import normalise
from traklens.engine.projection import make_projector
from traklens.engine.tasks.clip import ClipMargin, margins, output_to_loss
from traklens.stores.errors import StoreError
from traklens.stores.specs import ModelOutputSpec, ModelSpec, ProjectionSpec


class References(NamedTuple):
    """Embeddings of one checkpoint's reference pairs: unit vectors U, V [R, e]."""

    image: Tensor
    text: Tensor


class Outputs(NamedTuple):
    """f [B], p [B, 2] (image → text, text → image) and Q [B] of a batch of pairs."""

    f: np.ndarray
    p: np.ndarray
    q: np.ndarray


class Featurizer:
    """One checkpoint, ready to featurize batches of pairs."""

    def __init__(
        self,
        clip: nn.Module,
        model: ModelSpec,
        output: ModelOutputSpec,
        projection: ProjectionSpec,
        checkpoint: int,
        *,
        strategy: str = "hooks",
        device: str = "cpu",
    ) -> None:
        self.model, self.strategy, self.device = model, strategy, torch.device(device)
        self.scale = temperature(clip, output.temperature)
        self.margin = ClipMargin(clip, self.scale).eval().to(self.device)
        self.names = [f"clip.{name}" for name in attributed_parameters(clip, projection.modules)]
        sizes = {name: parameter.numel() for name, parameter in self.margin.named_parameters()}
        layout = tuple((name.removeprefix("clip."), sizes[name]) for name in self.names)
        self.projector = make_projector(projection, layout, checkpoint, device=device)
        self.dim = projection.dim

    @torch.no_grad()
    def embed(self, pixels: Tensor, tokens: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Unit image and text embeddings [B, e] of pixels uint8 [B, 3, S, S] and tokens [B, L]."""
        clip, images = self.margin.clip, normalise(self.model, pixels).to(self.device)
        u = clip.encode_image(images, normalize=True)  # type: ignore[operator]
        v = clip.encode_text(tokens.to(self.device), normalize=True)  # type: ignore[operator]
        return u.cpu().numpy(), v.cpu().numpy()

    def outputs(self, u: np.ndarray, v: np.ndarray, keep: np.ndarray, references: References) -> Outputs:
        """Model output, probabilities and Q from embeddings [B, e]; keep [B, R]."""
        found = margins(torch.from_numpy(u), torch.from_numpy(v), torch.from_numpy(keep), *references, self.scale)
        p = found.p()
        return Outputs(found.f().numpy(), p.numpy(), output_to_loss(p).numpy())

    def project(
        self, pixels: Tensor, tokens: Tensor, keep: np.ndarray, references: References, ids: Sequence[str]
    ) -> np.ndarray:
        """Projected gradients φ = Pᵀ∇f, float32 [B, k]. Raises StoreError naming the pair whose gradient is not finite."""
        on_cpu = self.device.type == "cpu"
        sums = torch.zeros((len(tokens), self.dim), device=self.device)
        phi = sums.numpy() if on_cpu else sums  # the CPU's projectors fill an array, the GPU's a tensor

        def sink(name: str, gradients: Tensor, rows: slice) -> None:
            self.projector.accumulate(name.removeprefix("clip."), gradients, phi[rows])

        inputs = (normalise(self.model, pixels), tokens, torch.from_numpy(keep))
        inputs, shared = (tuple(x.to(self.device) for x in found) for found in (inputs, references))
        per_sample_gradients(self.margin, inputs, sink, strategy=self.strategy, names=self.names, shared=shared)
        phi = sums.cpu().numpy()
        broken = np.flatnonzero(~np.isfinite(phi).all(axis=1))
        if broken.size:
            raise StoreError(
                f"pair {ids[broken[0]]}",
                f"NaN or infinity in its gradient ({broken.size} of this batch)",
                "finite gradients",
                "Look at that picture and caption, or at the checkpoint; leave the pair out and build again.",
            )
        return phi
