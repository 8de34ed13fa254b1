"""Random projection of gradients: P is a pure function of (specification, checkpoint, layout), on every device.

`make_projector(spec, layout, checkpoint)` gives a `Projector`; `definition.py` is the slow, obvious reference; the
matrices are specified in cuda/README.md.
"""

from typing import Any, Protocol, runtime_checkable

from traklens.engine.projection.definition import VERSION, Layout
from traklens.stores.errors import UsageError
from traklens.stores.specs import ProjectionSpec

__all__ = ["Layout", "Projector", "Spreads", "TakesRows", "make_projector"]


class Projector(Protocol):
    """Projects one parameter's gradients at a time, so that the [B, p] matrix never exists."""

    spec: ProjectionSpec
    layout: Layout

    def accumulate(self, name: str, gradients: Any, out: Any) -> None:
        """Add the projection of one parameter's gradients [B, numel] to `out`, contiguous float32 [B, k].

        On the CPU gradients are a tensor or an array and `out` is an array; on a GPU both are tensors there.

        float32 is read in place; other types are rounded to float32 first. Not checked for NaN. UsageError where the
        shapes do not fit.
        """
        ...


@runtime_checkable
class Spreads(Protocol):
    """A projector that also goes the other way, as those on the CPU do."""

    def spread(self, name: str, weights: Any) -> Any:
        """P_name·w, float32 [numel], of weights w [k]: the direction of one parameter along which wᵀφ changes fastest.

        wᵀφ of gradients g is then Σ_name g_nameᵀ(P_name·w).
        """
        ...


@runtime_checkable
class TakesRows(Protocol):
    """A projector whose work on an embedding table grows with the rows that occur, not with the table."""

    def accumulate_rows(self, name: str, rows: Any, ids: Any, out: Any) -> None:
        """As `Projector.accumulate` of a table [V, d] whose gradients are rows [B, L, d] at ids int64 [B, L], zero elsewhere.

        Ids may come more than once: their rows add up.
        """
        ...


def make_projector(spec: ProjectionSpec, layout: Layout, checkpoint: int, *, device: str = "cpu") -> Projector:
    """The projector of one checkpoint (its number in the store, from 0), for gradients on "cpu" or "cuda".

    UsageError for an unknown family, version or device, a k that is no multiple of s, or a repeated parameter name.
    """
    if spec.version != VERSION:
        raise UsageError(
            "projection version", str(spec.version), str(VERSION), "Use the TrakLens version that wrote it."
        )
    if spec.kind not in ("sjlt", "rademacher"):
        raise UsageError("projection", repr(spec.kind), "sjlt or rademacher", "Choose one of them.")
    if device.split(":")[0] == "cuda":
        from traklens.engine.projection.gpu import GpuProjector

        return GpuProjector(spec, layout, checkpoint)
    if device != "cpu":
        raise UsageError("projection device", repr(device), "cpu or cuda", "Choose one of them.")
    if spec.kind == "sjlt":
        from traklens.engine.projection.sjlt_cpu import SjltProjector

        return SjltProjector(spec, layout, checkpoint)
    from traklens.engine.projection.rademacher_cpu import RademacherProjector

    return RademacherProjector(spec, layout, checkpoint)
