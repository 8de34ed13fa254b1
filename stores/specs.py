"""Specifications: whatever changes numbers. They are stored, hashed and compared; options (batch size, device,
workers) are not here.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from traklens.stores.errors import StoreError
from traklens.stores.layout import located, relative_path

T = TypeVar("T")


KINDS = ("image", "text", "label", "number", "tensor")


@dataclass(frozen=True)
class FieldSpec:
    """One part of what an example consists of: its name, its kind, one of KINDS, and the column of the data that holds it
    where that was named; else a column of its own name, or of a usual one.
    """

    name: str
    kind: str
    column: str = ""


@dataclass(frozen=True)
class TaskSpec:
    """What kind of problem the models solve: the task's name and version, what an example consists of.

    `title`: the field in words by which people know an example (a caption, a label, or "words", made by the task);
    `embeddings`: names of the arrays of unit vectors by which examples are compared, none where the task has none;
    `source` and `path`: for a task of the user's own, the sha256 of the file it is written in, and FILE:CLASS; else empty.
    """

    name: str
    version: int
    fields: tuple[FieldSpec, ...]
    title: str
    embeddings: tuple[str, ...] = ()
    source: str = ""
    path: str = ""

    def first(self, *kinds: str) -> str | None:
        """Name of the first field of one of these kinds; None when there is none."""
        return next((field.name for field in self.fields if field.kind in kinds), None)


PAIR = (FieldSpec("image", "image"), FieldSpec("caption", "text"))
CLIP = TaskSpec("clip", 1, PAIR, "caption", ("image_embedding", "text_embedding"))


@dataclass(frozen=True)
class DatasetSpec:
    """Which examples: where they came from and a fingerprint (sha256 over the sorted example ids).

    `root` is relative to the store or run where possible, `origin` where it was when that was written. `streams` is the
    version of the random streams (engine/streams.py) by which everything about it is drawn: sample, split, batches.
    `fields` is what was read of each example, `label_column` where its label stood; `file` the one file below `root` that
    was read, empty for all there.
    """

    root: str
    reader: str
    text_column: str | None
    caption_template: str | None
    sample: int | None
    seed: int
    n_examples: int
    fingerprint: str
    origin: str = ""
    streams: int = 1
    fields: tuple[FieldSpec, ...] = PAIR
    label_column: str | None = None
    file: str = ""

    def seen_from(self, folder: Path) -> Path:
        """Where the data set is for a store or run that lies at `folder`."""
        return located(folder, self.root, self.origin)


@dataclass(frozen=True)
class ModelSpec:
    """Architecture, preprocessing and vocabulary: everything needed to build the model but its weights."""

    name: str
    config: dict
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    vocabulary: tuple[int, ...] | None = None
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class CheckpointSpec:
    """One weights file: path relative to the store where possible, sha256 of its bytes, what it was trained on."""

    path: str
    sha256: str
    subset: str | None = None


@dataclass(frozen=True)
class ModelOutputSpec:
    """The model output function f of the task: `output` is one of its kinds ("margin": log odds; "log_probability").

    CLIP's temperature ("checkpoint" or "one") and the reference pairs that its f is measured against.
    """

    output: str = "margin"
    temperature: str = "checkpoint"
    n_reference: int = 512
    reference_seed: int = 0


@dataclass(frozen=True)
class ProjectionSpec:
    """The random projection P: family, dimension k, nonzeros s per coordinate (sjlt), seed.

    `modules`: which parameters' gradients are projected, as comma-separated patterns of their names; all if empty.
    """

    kind: str = "sjlt"
    dim: int = 2048
    nonzeros: int = 4
    seed: int = 0
    version: int = 1
    modules: str = ""


@dataclass(frozen=True)
class ScoreSpec:
    """From features to scores: relative damping λ, weight Q, index type.

    `normalize`: "none", or "unit" for projected gradients of length one, whose scores are no longer in units of f.
    `second_moment`: what brings gradients to the scale of Adam's steps before they are projected: "none", "gradients" (second
    moments estimated from them) or "optimizer" (its own). `gram`: whose gradients the Gram matrix is of: "train", "targets"
    (the held-out examples) or "mixed".
    """

    damping: float = 1.0
    weight_by_q: bool = True
    normalize: str = "none"
    second_moment: str = "none"
    gram: str = "train"
    index: str = "fp16"


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json. `context`: names of what f needs beside the example, an array per checkpoint each."""

    schema: int
    state: str
    created: str
    dataset: DatasetSpec
    targets: DatasetSpec | None
    model: ModelSpec
    checkpoints: tuple[CheckpointSpec, ...]
    model_output: ModelOutputSpec
    projection: ProjectionSpec
    score: ScoreSpec
    n_train: int
    n_heldout: int
    task: TaskSpec = CLIP
    context: tuple[str, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    recall: dict[str, Any] = field(default_factory=dict)


def to_dict(spec: Any) -> dict[str, Any]:
    """A dataclass as JSON-able dict (tuples become lists)."""
    return _plain(asdict(spec))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def from_dict(kind: type[T], found: Mapping[str, Any]) -> T:
    """Build a dataclass from what `to_dict` made.

    Raises StoreError naming a field that is missing or of another type.
    """
    if not isinstance(found, Mapping):
        raise _wrong(kind.__name__, found, "an object")
    hints = typing.get_type_hints(kind)
    values = {}
    for f in fields(kind):  # type: ignore[arg-type]
        if f.name in found:
            values[f.name] = _restore(hints[f.name], found[f.name], f"{kind.__name__}.{f.name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise StoreError(
                f"{kind.__name__}",
                f"no field {f.name!r}",
                "every field of the specification",
                "Build it again.",
            )
    return kind(**values)


def _restore(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` says. StoreError, naming the field, when it is another one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _restore(next(a for a in arguments if a is not type(None)), value, where)
    if is_dataclass(hint):
        return from_dict(hint, value)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        return tuple(_restore(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _restore(arguments[1], item, where) for key, item in value.items()}
    plain = origin or hint
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**53 else value
    if plain is not Any and (not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool)):
        raise _wrong(where, value, plain.__name__)
    if plain is int and not 0 <= value < 2**63:
        raise _wrong(where, value, "a number from 0 up")
    if plain is float and not math.isfinite(value):
        raise _wrong(where, value, "a finite number")
    return value


def _wrong(where: str, value: Any, expected: str) -> StoreError:
    return StoreError(where, _short(value), expected, "The file is damaged: build it again.")


PLACES = ("root", "origin", "path", "file")


def placeless(value: Any) -> Any:
    """A specification without the names of places: data and checkpoints are told by their content."""
    if isinstance(value, Mapping):
        return {key: placeless(item) for key, item in value.items() if key not in PLACES}
    return [placeless(item) for item in value] if isinstance(value, list) else value


def seen_from(folder: Path, spec: DatasetSpec) -> DatasetSpec:
    """A data set as a store or run at `folder` names it."""
    return replace(spec, root=relative_path(Path(spec.root), folder), origin=str(Path(spec.root).resolve()))


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """What differs between two specs (dataclasses or dicts): `field: first, second`, one line per leaf."""
    a, b = (to_dict(x) if is_dataclass(x) and not isinstance(x, type) else x for x in (a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        lines = []
        for key in sorted({*a, *b}):
            lines += differences(a.get(key), b.get(key), f"{prefix}{key}.")
        return lines
    return [] if _plain(a) == _plain(b) else [f"{prefix.rstrip('.')}: {_short(a)}, {_short(b)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
