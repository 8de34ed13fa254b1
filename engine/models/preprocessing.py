"""How pictures become tensors for a model: as its checkpoint was trained, or refused."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec

# Of CLIP (open_clip.constants), written out: open_clip takes seconds to import, which other tasks need not wait for.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RESIZE_MODES = ("shortest", "longest", "squash")
MOST_LONGER = 64  # a picture this many times longer than it is wide is cropped before it is enlarged


@dataclass(frozen=True)
class Preprocessing:
    """Mean and deviation per channel, how pictures are resized and by which interpolation, and to which side."""

    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    size: int | None = None


def preprocessing_of(name: str, found: Any) -> Preprocessing:
    """From a `preprocess_cfg` of open_clip; what it does not name is CLIP's own. ModelError for values that make no sense."""
    if not isinstance(found, Mapping):
        raise _wrong(name, repr(found)[:80])
    size = _side(found.get("size"))
    default = Preprocessing()
    made = Preprocessing(
        mean=_channels(name, found.get("mean", default.mean)),
        std=_channels(name, found.get("std", default.std)),
        resize_mode=found.get("resize_mode") or default.resize_mode,
        interpolation=found.get("interpolation") or default.interpolation,
        size=size,
    )
    if made.resize_mode not in RESIZE_MODES:
        raise _wrong(name, f"resize_mode {made.resize_mode!r}")
    if made.interpolation == "random":
        made = replace(made, interpolation="bicubic")
    if made.interpolation not in {mode.value for mode in InterpolationMode}:
        raise _wrong(name, f"interpolation {made.interpolation!r}")
    if not (size is None or (isinstance(size, int) and size > 0)):
        raise _wrong(name, f"size {size!r}")
    if any(value <= 0 for value in made.std):
        raise _wrong(name, f"std {list(made.std)}")
    return made


def _side(size: Any) -> Any:
    square = isinstance(size, list | tuple) and size and len(set(size[-2:])) == 1
    return size[-1] if square else size


def _channels(name: str, value: Any) -> tuple[float, ...]:
    numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
    if not numbers or len(value) != 3:
        raise _wrong(name, f"mean or std {value!r}")
    return tuple(float(v) for v in value)


def _wrong(name: str, found: str) -> ModelError:
    return ModelError(
        f"preprocessing of model {name!r}", found, "open_clip's preprocess_cfg", "Correct the configuration."
    )


def published(name: str) -> Preprocessing | None:
    """Of an open_clip architecture: what all its published weights agree on; None when they differ or there are none."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    found = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    kinds = {
        preprocessing_of(name, {k: v for k, v in one.items() if k in ("mean", "std", "interpolation", "resize_mode")})
        for one in found
    }
    return kinds.pop() if len(kinds) == 1 else None


def with_preprocessing(spec: ModelSpec, checkpoints: Sequence[Path]) -> ModelSpec:
    """The model with the preprocessing that its checkpoints say they were trained with.

    Said by `open_clip_config.json` beside the weights, or by a published tag in their name. Raises ModelError when that
    differs from the model's own configuration, or from one checkpoint to the next.
    """
    said = {p for p in (_beside(spec, file) or _by_tag(spec, file) for file in checkpoints) if p is not None}
    if not said:
        return spec
    used = preprocessing(spec)
    if len(said) > 1 or ("preprocess_cfg" in spec.config and _plain(next(iter(said))) != _plain(used)):
        raise ModelError(
            f"model {spec.name!r}",
            f"different preprocessing: {'; '.join(str(p) for p in sorted((*said, used), key=str))}",
            "the one its checkpoints were trained with",
            "Give --model the configuration that belongs to the checkpoints.",
        )
    return apply(spec, said.pop())


def _plain(made: Preprocessing) -> Preprocessing:
    return replace(made, size=None)


def _beside(spec: ModelSpec, checkpoint: Path) -> Preprocessing | None:
    try:
        found = json.loads((checkpoint.parent / "open_clip_config.json").read_text(encoding="utf-8"))
        return preprocessing_of(spec.name, found["preprocess_cfg"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _by_tag(spec: ModelSpec, checkpoint: Path) -> Preprocessing | None:
    import open_clip

    tags = [tag for tag in open_clip.list_pretrained_tags_by_model(spec.name) if tag == checkpoint.stem.lower()]
    if not tags:
        return None
    config = open_clip.get_pretrained_cfg(spec.name, tags[0])
    return preprocessing_of(
        spec.name, {k: config[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in config}
    )


def apply(spec: ModelSpec, made: Preprocessing) -> ModelSpec:
    """The model with this preprocessing. ModelError when its size is not the model's."""
    if made.size is not None and made.size != image_size(spec):
        raise ModelError(
            f"model {spec.name!r}",
            f"preprocessing to {made.size} pixels, a model for {image_size(spec)}",
            "one size",
            "Correct the configuration.",
        )
    return replace(
        spec,
        image_mean=made.mean,
        image_std=made.std,
        resize_mode=made.resize_mode,
        interpolation=made.interpolation,
    )


def preprocessing(spec: ModelSpec) -> Preprocessing:
    """What a model's pictures go through."""
    return Preprocessing(spec.image_mean, spec.image_std, spec.resize_mode, spec.interpolation)


def image_size(spec: ModelSpec) -> int:
    """Side of the square input image, in pixels."""
    size = spec.config.get("vision_cfg", spec.config).get("image_size", 224)
    return size if isinstance(size, int) else size[0]


def image_pixels(spec: ModelSpec) -> Callable[[Image.Image], Tensor]:
    """Resize and crop as open_clip evaluates: PIL image → uint8 [3, S, S]."""
    size, mode = image_size(spec), InterpolationMode(spec.interpolation)
    if spec.resize_mode == "longest":
        from open_clip.transform import CenterCropOrPad, ResizeKeepRatio

        steps = [ResizeKeepRatio(size, interpolation=mode, longest=1), CenterCropOrPad(size, fill=0)]
    elif spec.resize_mode == "squash":
        steps = [Resize((size, size), interpolation=mode)]
    else:
        steps = [_middle, Resize(size, interpolation=mode), CenterCrop(size)]
    return Compose([*steps, PILToTensor()])


def _middle(picture: Image.Image) -> Image.Image:
    """Of a very long picture the part that can be seen after the crop, so that it is not enlarged as a whole."""
    width, height = picture.size
    most = MOST_LONGER * min(width, height)
    if max(width, height) <= most:
        return picture
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return picture.crop((left, top, min(width, left + most), min(height, top + most)))


def normalise(spec: ModelSpec, pixels: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] → float32, zero mean and unit deviation per channel as the model expects."""
    mean = torch.tensor(spec.image_mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.image_std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def augmented(pixels: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Shift each picture by up to a sixteenth of its side (edges repeated); `flip` also mirrors half of them."""
    if kind == "none":
        return pixels
    batch, _, height, width = pixels.shape
    reach = max(1, height // 16)
    padded = F.pad(pixels.float(), (reach,) * 4, mode="replicate").to(pixels.dtype)
    dy, dx = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator)
    rows, columns = dy + torch.arange(height), dx + torch.arange(width)
    if kind == "flip":
        mirrored = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    every = torch.arange(batch).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
