"""Featurize: embeddings, model outputs and projected gradients of examples under one checkpoint, for any task.

Per-sample gradients are projected tensor by tensor as the backward pass delivers them, so neither the [B, p] matrix
of gradients nor the [p, k] projection matrix ever exists.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from traklens.engine.gradients import RowsSink, Sink, per_sample_gradients
from traklens.engine.models.parameters import attributed_parameters
from traklens.engine.projection import TakesRows, make_projector
from traklens.engine.tasks.contract import Batch, Context, ModelOutput, Task
from traklens.stores.errors import StoreError
from traklens.stores.specs import ProjectionSpec, ScoreSpec

PREFIX = "model."  # of the model's parameters in `ModelOutput`
FLOOR = 1e-3


class Featurizer:
    """One checkpoint, ready to featurize batches of examples."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        projection: ProjectionSpec,
        checkpoint: int,
        *,
        score: ScoreSpec | None = None,
        strategy: str = "hooks",
        device: str = "cpu",
    ) -> None:
        """Raises UsageError for a `modules` pattern of the projection that matches nothing."""
        self.task, self.strategy, self.device = task, strategy, torch.device(device)
        self.model = model.eval().to(self.device)
        self.parameters = attributed_parameters(model, projection.modules, task.frozen())
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        self.layout = tuple((name, sizes[name]) for name in self.parameters)
        self.scale: Mapping[str, torch.Tensor] = {}  # of coordinates before they are projected; as they are if empty
        self.projector = make_projector(projection, self.layout, checkpoint, device=device)
        self.dim, self.unit = projection.dim, score is not None and score.normalize == "unit"

    def scaled(self, second_moment: np.ndarray | None) -> "Featurizer":
        """The same, with gradients times v^(−1/4), v [p] the second moments of their coordinates; as they are if None.

        √v is taken at least 10⁻³ of its root mean square: coordinates that hardly moved are not blown up.
        """
        if second_moment is None:
            return self
        v = torch.from_numpy(second_moment).to(self.device)
        root = v.sqrt()
        factors = (root + FLOOR * v.mean().sqrt().clamp_min(1e-30)).rsqrt()
        parts = factors.split([size for _, size in self.layout])
        other = copy.copy(self)
        other.scale = dict(zip(self.parameters, parts, strict=True))
        return other

    def output(self, batch: Batch, context: Context) -> ModelOutput:
        """The task's f as a module, for batches and contexts of these tensors."""
        return ModelOutput(self.task, self.model, tuple(batch), tuple(context)).eval()

    @torch.no_grad()
    def embed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Unit embeddings [B, e] by name; none where the task has none."""
        found = self.task.embed(self.model, _on(self.device, batch))
        return {name: found[name].cpu().numpy() for name in self.task.embeddings}

    @torch.no_grad()
    def measure(self, batch: Batch, context: Context, embedded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """f, Q and what else the task keeps of each example, [B, …] by name; `embedded` as `embed` gave it."""
        of_batch = {name: torch.from_numpy(values).to(self.device) for name, values in embedded.items()}
        found = self.task.measure(self.model, _on(self.device, batch), _on(self.device, context), of_batch)
        return {name: values.cpu().numpy() for name, values in found.items()}

    def gradients(self, batch: Batch, context: Context, sink: Sink, rows_sink: RowsSink | None = None) -> None:
        """∇f of each example, given to the sinks tensor by tensor under the names of the model's parameters."""
        inputs, shared = (tuple(_on(self.device, found).values()) for found in (batch, context))
        per_sample_gradients(
            self.output(batch, context),
            inputs,
            lambda name, gradients, rows: sink(name.removeprefix(PREFIX), gradients, rows),
            strategy=self.strategy,
            names=[f"{PREFIX}{name}" for name in self.parameters],
            shared=shared,
            rows_sink=None
            if rows_sink is None
            else lambda name, values, ids, rows: rows_sink(name.removeprefix(PREFIX), values, ids, rows),
        )

    def project(self, batch: Batch, context: Context, ids: Sequence[str]) -> np.ndarray:
        """Projected gradients φ = Pᵀ∇f, float32 [B, k]. StoreError names the example whose gradient is not finite."""
        count = len(next(iter(batch.values())))
        on_cpu = self.device.type == "cpu"
        sums = torch.zeros((count, self.dim), device=self.device)
        phi = sums.numpy() if on_cpu else sums  # the CPU's projectors fill an array, the GPU's a tensor

        def sink(name: str, gradients: torch.Tensor, rows: slice) -> None:
            if self.scale:
                gradients = gradients * self.scale[name]
            self.projector.accumulate(name, gradients, phi[rows])

        def rows_sink(name: str, values: torch.Tensor, ids: torch.Tensor, rows: slice) -> None:
            if self.scale:
                values = values * self.scale[name].view(-1, values.shape[-1])[ids]
            assert isinstance(self.projector, TakesRows)
            self.projector.accumulate_rows(name, values, ids, phi[rows])

        self.gradients(batch, context, sink, rows_sink if isinstance(self.projector, TakesRows) else None)
        phi = sums.cpu().numpy()
        broken = np.flatnonzero(~np.isfinite(phi).all(axis=1))
        if broken.size:
            raise StoreError(
                f"example {ids[broken[0]]}",
                f"NaN or infinity in its gradient ({broken.size} of this batch)",
                "finite gradients",
                "Look at that example, or at the checkpoint; leave it out and build again.",
            )
        if self.unit:
            phi = phi / np.maximum(np.linalg.norm(phi, axis=1, keepdims=True), 1e-30)
        return phi


def _on(device: torch.device, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
