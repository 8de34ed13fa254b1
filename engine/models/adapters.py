"""Adapters (LoRA and its kin) as the `peft` library saves them: a folder with adapter_config.json and the adapter's weights.

The model below an adapter is loaded from its own folder, and stays as it is: gradients are those of the adapter alone, and
of the layers that were trained whole beside it (`modules_to_save`). Nothing is fetched from a hub.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from traklens.engine.models.weights import read_state, ready, weights_digest, weights_in
from traklens.stores.atomic import read_json
from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG = "adapter_config.json"
NOT_KEPT = (
    "base_model_name_or_path",
    "inference_mode",
    "revision",
)  # of its configuration: where and how it was trained


def adapter_of(checkpoints: Sequence[Path]) -> dict[str, Any] | None:
    """The configuration of the adapters that some weights files are, None where they are whole models.

    ModelError where some are adapters and others are not, or adapters of different configurations.
    """
    found = []
    for file in checkpoints:
        beside = file.parent / CONFIG
        whole = not beside.is_file() or not file.name.startswith("adapter")
        found.append(
            None if whole else read_json(beside, "an adapter's configuration", "Save the adapter again.", ModelError)
        )
    kept = [None if one is None else {key: one[key] for key in one if key not in NOT_KEPT} for one in found]
    for file, one in zip(checkpoints, kept, strict=True):
        if one != kept[0]:
            raise ModelError(
                f"checkpoint {file}",
                "another adapter than the first checkpoint, or a whole model",
                "adapters of one configuration, or whole models",
                f"Compare {CONFIG} in their folders.",
            )
    return kept[0] if kept else None


def base_of(folder: Path) -> dict[str, str]:
    """The model below adapters as a store keeps it: its folder, and a digest of its weights. ModelError without weights."""
    return {"folder": str(folder.resolve()), "sha256": weights_digest(_base_weights(folder))}


def _base_weights(folder: Path) -> Path:
    file = weights_in(folder)
    if not file.is_file():
        raise ModelError(
            f"model {folder}",
            "no weights",
            "config.json, a tokenizer and model.safetensors",
            "An adapter needs the model that it was trained on: name that folder with --model, or put it back.",
        )
    return file


def load_adapted(kind: Any, config: "PretrainedConfig", spec: ModelSpec, path: Path) -> nn.Module:
    """The model of a spec with an adapter: class `kind` of transformers with `config`, the base's weights and a file's.

    In evaluation mode and float32; only what was trained requires gradients. ModelError where weights are other than the
    store's, or do not fit.
    """
    peft = _library()
    base, adapter = spec.config["base"], dict(spec.config["adapter"])
    folder = Path(base["folder"])
    if weights_digest(_base_weights(folder)) != base["sha256"]:
        raise ModelError(
            f"model {folder}", "other weights", f"sha256 {base['sha256'][:12]}…", "Put the original back."
        )
    state = read_state(path, f"the weights of an adapter for {spec.name!r}")
    try:
        with torch.random.fork_rng(devices=[]):  # a head that the base lacks is drawn, and then given by the adapter
            torch.manual_seed(0)
            model, said = kind.from_pretrained(
                str(folder), config=config, local_files_only=True, dtype=torch.float32,
                attn_implementation="eager", output_loading_info=True,
            )  # fmt: skip
            wanted = peft.PeftConfig.from_peft_type(**adapter, inference_mode=False)
            wrapped = peft.get_peft_model(model, wanted)
            missing = peft.set_peft_model_state_dict(wrapped, state)
    except Exception as error:  # peft and transformers raise whatever their files make them
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"checkpoint {path}", words, f"an adapter for {folder.name}", f"Compare its {CONFIG} with the model."
        ) from error
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    lacking = [name for name in missing.missing_keys if name in trained]
    drawn = [
        name for name in said["missing_keys"] if not any(f".{name.rpartition('.')[0]}." in one for one in trained)
    ]
    if wanted.is_prompt_learning or missing.unexpected_keys or lacking or drawn or not trained:
        what = "a learned prompt, no layers" if wanted.is_prompt_learning else ""
        what = what or f"{len(missing.unexpected_keys)} tensors that do not fit, {len(lacking) + len(drawn)} missing"
        example = next(iter([*missing.unexpected_keys, *lacking, *drawn]), "")
        raise ModelError(
            f"checkpoint {path}",
            f"{what}{f' ({example})' if example else ''}",
            f"an adapter of layers of {folder.name}",
            f"Compare its {CONFIG} with the model.",
        )
    return ready(wrapped.get_base_model(), path)


def _library() -> Any:
    """Hugging Face's peft. ModelError where it is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError("peft", "not installed", "the library for adapters", "pip install 'traklens[adapters]'.")
    import peft

    return peft
