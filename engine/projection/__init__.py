"""Random projection of gradients: P is a pure function of (specification, checkpoint, layout), on every device.

`make_projector(spec, layout, checkpoint)` gives a `Projector`; `definition.py` is the slow, obvious reference; the
matrices are specified in cuda/README.md.
"""

from typing import Protocol

import numpy as np
from torch import Tensor

from engine.projection.definition import Layout
from stores.errors import UsageError
from stores.specs import ProjectionSpec

__all__ = ["Layout", "Projector", "make_projector"]


class Projector(Protocol):
    """Projects one parameter's gradients at a time, so that the [B, p] matrix never exists."""

    spec: ProjectionSpec
    layout: Layout

    def accumulate(self, name: str, gradients: Tensor | np.ndarray, out: np.ndarray) -> None:
        """Add the projection of one parameter's gradients float32 [B, numel] to `out` float32 [B, k]."""
        ...


def make_projector(
    spec: ProjectionSpec, layout: Layout, checkpoint: int, *, device: str = "cpu"
) -> Projector:
    """The projector of one checkpoint. UsageError for an unknown family, a k that does not fit, or a device."""
    if device != "cpu":
        raise UsageError("projection device", repr(device), "cpu", "This version projects on the CPU only.")
    if spec.kind == "sjlt":
        from engine.projection.sjlt_cpu import SjltProjector

        return SjltProjector(spec, layout, checkpoint)
    if spec.kind == "rademacher":
        from engine.projection.rademacher_cpu import RademacherProjector

        return RademacherProjector(spec, layout, checkpoint)
    raise UsageError("--projection", repr(spec.kind), "sjlt or rademacher", "Choose one of them.")
