"""Random projection of gradients: P is a pure function of (specification, checkpoint, layout), on every device.

`make_projector(spec, layout, checkpoint)` gives a `Projector`; `definition.py` is the slow, obvious reference; the
matrices are specified in cuda/README.md.
"""

from typing import Protocol

import numpy as np
from torch import Tensor

from engine.projection.definition import VERSION, Layout
from stores.errors import UsageError
from stores.specs import ProjectionSpec

__all__ = ["Layout", "Projector", "make_projector"]


class Projector(Protocol):
    """Projects one parameter's gradients at a time, so that the [B, p] matrix never exists."""

    spec: ProjectionSpec
    layout: Layout

    def accumulate(self, name: str, gradients: Tensor | np.ndarray, out: np.ndarray) -> None:
        """Add the projection of one parameter's gradients [B, numel] to `out`, contiguous float32 [B, k].

        float32 is read in place; other types are rounded to float32 first. Not checked for NaN. UsageError where the
        shapes do not fit.
        """
        ...


def make_projector(spec: ProjectionSpec, layout: Layout, checkpoint: int, *, device: str = "cpu") -> Projector:
    """The projector of one checkpoint (its number in the store, from 0).

    UsageError for an unknown family or version, a k that is no multiple of s, a repeated parameter name, or a device
    other than "cpu".
    """
    if device != "cpu":
        raise UsageError(
            "projection device",
            repr(device),
            "cpu",
            "The CUDA kernel is not part of this version (cuda/README.md specifies it); project on the CPU.",
        )
    if spec.version != VERSION:
        raise UsageError(
            "projection version", str(spec.version), str(VERSION), "Use the TrakLens version that wrote it."
        )
    if spec.kind == "sjlt":
        from engine.projection.sjlt_cpu import SjltProjector

        return SjltProjector(spec, layout, checkpoint)
    if spec.kind == "rademacher":
        from engine.projection.rademacher_cpu import RademacherProjector

        return RademacherProjector(spec, layout, checkpoint)
    raise UsageError("--projection", repr(spec.kind), "sjlt or rademacher", "Choose one of them.")
