"""Load a checkpoint into a model exactly, or say what does not fit; nothing pickled is run."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from traklens.stores.checksums import digest
from traklens.stores.errors import ModelError

NAMED = 3  # tensors named in a message; the rest is counted
INDEX = ".safetensors.index.json"  # of weights in shards
WEIGHTS = (
    "adapter_model.safetensors",
    "model.safetensors",
    f"model{INDEX}",
    "adapter_model.bin",
    "pytorch_model.bin",
)
HARMLESS = ("position_ids",)  # buffers that older libraries wrote


def check_file(path: Path) -> None:
    """Raises ModelError unless there is a file."""
    if path.is_dir():
        raise ModelError(
            f"checkpoint {path}", "a directory", "a .pt or .safetensors file", "Name the weights file inside it."
        )
    if not path.is_file():
        raise ModelError(f"checkpoint {path}", "nothing", "a .pt or .safetensors file", "Check the path.")


def ready(model: nn.Module, path: Path) -> nn.Module:
    """A model as it is asked: float32, in evaluation mode. Raises ModelError for weights that are not finite."""
    model = model.float().eval()
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(f"checkpoint {path}", f"NaN or infinity in {name}", "finite weights", "Retrain it.")
    return model


def load_state(model: nn.Module, path: Path, name: str) -> nn.Module:
    """Load a state dict (.safetensors, or .pt with or without "state_dict" or "model" around it) into any model.

    Every tensor must be there, in the model's shape, and no other. Returns the model as `ready` gives it. ModelError.
    """
    expected = f"the weights of {name!r}, without pickled code"
    found = read_state(path, expected)
    for around in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(around), dict):
            found = found[around]
    if not isinstance(found, dict):
        raise ModelError(f"checkpoint {path}", type(found).__name__, expected, "Save the model's state dict.")
    found = {str(key).removeprefix("module."): value for key, value in found.items()}
    found = with_tied(model, found)
    misfit = _misfit(model.state_dict(), found)
    if misfit:
        raise ModelError(f"checkpoint {path}", misfit, expected, "Check that the file belongs to this model.")
    model.load_state_dict(found)
    return ready(model, path)


def weights_in(path: Path) -> Path:
    """The weights file of a folder as transformers and peft save it (or its index, for weights in shards); a file itself."""
    return next((path / name for name in WEIGHTS if (path / name).is_file()), path) if path.is_dir() else path


def read_state(path: Path, expected: str) -> Any:
    """What a weights file holds, nothing pickled being run. ModelError, which says what was `expected`."""
    check_file(path)
    try:
        if path.name.endswith(INDEX):
            return {name: tensor for shard in shards_of(path) for name, tensor in load_file(shard).items()}
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, safetensors and zipfile each raise their own
        raise ModelError(f"checkpoint {path}", *_reason(error, expected, "Save the model's state dict.")) from error


def shards_of(path: Path) -> list[Path]:
    """The files that hold the weights: those an index names, or the file itself."""
    if not path.name.endswith(INDEX):
        return [path]
    named = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
    return [path.parent / name for name in sorted(set(named))]


def weights_digest(path: Path) -> str:
    """sha256 of a weights file; of the digests of all files, for weights in shards."""
    shards = shards_of(path)
    if shards == [path]:
        return digest(path)
    return hashlib.sha256("".join(map(digest, [path, *shards])).encode()).hexdigest()


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with each tensor once: of names that share one, such as tied embeddings, the first."""
    names = {group[0] for group in _shared(model)}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def _shared(model: nn.Module) -> list[list[str]]:
    """The names in a state dict, those of one and the same tensor together."""
    groups: dict[tuple, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        groups.setdefault(place, []).append(name)
    return list(groups.values())


def with_tied(model: nn.Module, found: dict) -> dict:
    """A state with every name of a tensor that has several, as soon as it has one of them."""
    there = {name: found[have] for group in _shared(model) if (have := next((n for n in group if n in found), None))
             for name in group if name not in found}  # fmt: skip
    return found | there


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Copy the weights at `path` into `model` (of the architecture `name`).

    Every tensor must be there, in the model's shape, and no other: open_clip itself would resize position embeddings.
    Raises ModelError otherwise.
    """
    from open_clip import factory  # takes seconds, which other tasks need not wait for

    expected = f"float weights of the architecture {name!r}, without pickled code"
    remedy = "Check --model, and that the file came from open_clip's training or holds a plain state dict."
    try:
        found = _converted(model, factory.load_state_dict(str(path), device="cpu", weights_only=True))  # type: ignore[arg-type]
    except Exception as error:  # torch, safetensors and zipfile each raise their own
        raise ModelError(f"checkpoint {path}", *_reason(error, expected, remedy)) from error
    misfit = _misfit(model.state_dict(), found)
    if misfit:
        raise ModelError(f"checkpoint {path}", misfit, expected, remedy)
    model.load_state_dict(found)


def _converted(model: nn.Module, found: dict) -> dict[str, Tensor]:
    """Names as the model has them: the conversions that open_clip makes, but for resizing."""
    from open_clip import factory

    found = {str(key).removeprefix("module."): value for key, value in found.items()}
    found = factory.convert_state_dict(model, found)  # type: ignore[arg-type]
    if "positional_embedding" in found and not hasattr(model, "positional_embedding"):
        found = factory.convert_to_custom_text_state_dict(found)
    for scale in ("logit_scale", "logit_bias"):
        own = getattr(model, scale, None)
        if isinstance(own, Tensor) and scale in found and found[scale].ndim != own.ndim:
            found[scale] = found[scale].reshape(own.shape)
    return {key: value for key, value in found.items() if not key.endswith(HARMLESS)}


def _misfit(own: dict[str, Tensor], found: dict) -> str:
    strange = [key for key, value in found.items() if not isinstance(value, Tensor)]
    shaped = [
        f"{key} {list(found[key].shape)} where the model has {list(own[key].shape)}"
        for key in own
        if key in found and key not in strange and found[key].shape != own[key].shape
    ]
    missing = [key for key in own if key not in found and not key.endswith(HARMLESS)]
    kinds = {
        "missing": missing,
        "unexpected": [key for key in found if key not in own],
        "no tensors": strange,
        "of another shape": shaped,
    }
    return "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds.items() if keys)


def _some(keys: list[str]) -> str:
    more = f" … and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def _reason(error: Exception, expected: str, remedy: str) -> tuple[str, str, str]:
    """What went wrong in words of ours: torch's own advise to run whatever code the file holds."""
    said = " ".join(str(error).split())
    kind = re.search(r"(?:GLOBAL|global:?|type|class) ([\w.]+\.[\w.]+)", said)
    if "weights_only" in said or "WeightsUnpickler" in said or "Unpickl" in type(error).__name__:
        what = f"more than tensors ({kind[1]})" if kind else "something else than tensors"
        return (
            what,
            expected,
            "It is not loaded, since that could run code of the file's. Save its state dict alone, best as .safetensors.",
        )
    words = said if len(said) <= 300 else said[:300].rsplit(" ", 1)[0] + " …"
    return words or type(error).__name__, expected, remedy
