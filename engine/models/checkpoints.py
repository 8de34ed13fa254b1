"""CLIP models: built from an open_clip name or configuration, loaded from local checkpoints only.

Nothing here reaches a network: architectures come from open_clip's own configurations or a JSON file of the
same form, weights from files the user names (`.pt` of open_clip's training, `.safetensors`).
"""

import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from traklens.engine.models.preprocessing import Preprocessing, apply, preprocessing_of, published
from traklens.engine.models.vocabulary import WordPieces
from traklens.engine.models.weights import check_file, load_weights, ready
from traklens.stores.atomic import read_json
from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec

Tokenizer = Callable[[Sequence[str]], Tensor]
FROZEN = ("logit_scale", "logit_bias")  # they do not change a single pair's cosine (TRAK keeps them fixed)


def model_spec(name: str, captions: Sequence[str] | None = None) -> ModelSpec:
    """Describe a model by `tiny` or `tiny_resnet`, an open_clip architecture name or the path of a configuration JSON.

    With `captions`, a model whose configuration is ours (or a JSON file) gets the vocabulary that occurs
    in them. Raises ModelError for an unknown name or an unreadable configuration.
    """
    config, own = _configuration(name)
    made = preprocessing_of(name, config["preprocess_cfg"]) if "preprocess_cfg" in config else published(name)
    made = made or Preprocessing()
    vocabulary = None
    if own and captions is not None:
        pieces = WordPieces.from_captions(captions, config["text_cfg"]["context_length"])
        vocabulary = pieces.vocabulary
        config["text_cfg"] |= {"vocab_size": pieces.size, "context_length": pieces.context_length}
    return apply(ModelSpec(name, config, made.mean, made.std, vocabulary), made)


def _configuration(name: str) -> tuple[dict, bool]:
    """The configuration as a fresh dict, and whether it is a JSON of ours or the user's."""
    path = _cached(name) if name.startswith("hf-hub:") else Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:"):
        path = path / "open_clip_config.json"
    if path.suffix == ".json":
        config = _read_configuration(path)
    elif (resources.files("traklens.engine.models.configs") / f"{name}.json").is_file():
        text = (resources.files("traklens.engine.models.configs") / f"{name}.json").read_text(encoding="utf-8")
        return json.loads(text), True
    else:
        config = open_clip.get_model_config(name)
        if config is None:
            raise ModelError(
                f"model {name!r}",
                "no such architecture",
                "`tiny`, `tiny_resnet`, a configuration JSON or an open_clip name such as ViT-B-32 or RN50",
                'List the names with `python -c "import open_clip; print(open_clip.list_models())"`.',
            )
        config = json.loads(json.dumps(config))
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise ModelError(f"model {name!r}", f"no {', '.join(missing)}", "a CLIP configuration", "Check the file.")
    if "multimodal_cfg" in config:
        raise ModelError(f"model {name!r}", "a CoCa configuration", "a CLIP", "Choose a CLIP architecture.")
    return config, path.suffix == ".json"


def _cached(name: str) -> Path:
    """The configuration of a Hugging Face model in the local cache. ModelError when it is not there: nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name.removeprefix("hf-hub:").split("@")[0], "open_clip_config.json")
    except HFValidationError:
        found = None
    if not isinstance(found, str):
        raise ModelError(
            f"model {name!r}",
            "nothing of that name in the local Hugging Face cache",
            "a model that is on this machine",
            "Nothing is downloaded here. Fetch it first, or give its configuration JSON as --model and its weights as "
            "--checkpoint.",
        )
    return Path(found)


def _read_configuration(path: Path) -> dict:
    """A configuration of ours or the user's, or open_clip's `open_clip_config.json` (model_cfg and preprocess_cfg)."""
    found = read_json(path, "a model configuration", "Check the path.", ModelError)
    if isinstance(found, dict) and isinstance(found.get("model_cfg"), dict):
        found = found["model_cfg"] | (
            {"preprocess_cfg": found["preprocess_cfg"]} if "preprocess_cfg" in found else {}
        )
    if not isinstance(found, dict):
        raise ModelError(f"model configuration {path}", "no object", "a CLIP configuration", "Check the file.")
    return found


def build_model(spec: ModelSpec, *, seed: int = 0) -> nn.Module:
    """Build the architecture with random weights drawn from `seed` alone (the global generator is untouched)."""
    config = json.loads(json.dumps(spec.config))
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    for key in ("preprocess_cfg", "tokenizer_kwargs"):
        config.pop(key, None)
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return (CustomTextCLIP if custom_text else CLIP)(**config)
        except (TypeError, OSError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"model {spec.name!r}",
                str(error),
                "a configuration open_clip can build",
                "Check the configuration.",
            ) from error


def load_checkpoint(spec: ModelSpec, path: Path) -> nn.Module:
    """Build the model of `spec` and load the weights at `path`, in evaluation mode and float32.

    Raises ModelError for a directory, an unreadable file or weights of another architecture.
    """
    check_file(path)
    model = build_model(spec)
    load_weights(model, path, spec.name)
    return ready(model, path)


def make_tokenizer(spec: ModelSpec) -> Tokenizer:
    """Captions → int64 [B, context length]. ModelError when the tokenizer would need a download."""
    if spec.vocabulary is not None:
        return WordPieces(tuple(spec.vocabulary), spec.config["text_cfg"]["context_length"])
    text = spec.config["text_cfg"]
    if "hf_tokenizer_name" in text or "hf_model_name" in text:
        raise ModelError(
            f"model {spec.name!r}",
            "a Hugging Face tokenizer",
            "open_clip's own tokenizer",
            "Choose another model.",
        )
    tokenizer = open_clip.SimpleTokenizer(context_length=text.get("context_length", 77))
    return lambda captions: tokenizer(list(captions))


def temperature(model: nn.Module, kind: str) -> Tensor:
    """The logit scale s of the model output: the checkpoint's own, or 1 (`kind` = "checkpoint" | "one")."""
    scale: Tensor = model.logit_scale.detach().exp()  # type: ignore[union-attr,operator]
    return scale if kind == "checkpoint" else torch.ones_like(scale)
