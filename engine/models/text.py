"""Transformers for text by Hugging Face's library: small ones trained here, any other from a local folder.

Nothing here reaches a network, and no code of a model's folder is run.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from traklens.engine.models import tokenization
from traklens.engine.models.adapters import adapter_of, base_of, load_adapted
from traklens.engine.models.weights import load_state
from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec

CLASSES = {  # of transformers, by task
    "text_classifier": "AutoModelForSequenceClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "causal_lm": "AutoModelForCausalLM",
}
TINY = {"text_classifier": "tiny_bert", "seq2seq": "tiny_t5", "causal_lm": "tiny_gpt2"}
LONGEST = 512  # ids of a text, where a folder's configuration does not say
LIMITS = ("max_position_embeddings", "n_positions", "n_ctx")


def text_spec(
    task: str, name: str, texts: Iterable[str], classes: Sequence[str] = (), checkpoints: Sequence[Path] = ()
) -> ModelSpec:
    """Describe a model for a task of text: one of ours (tiny_bert, tiny_t5, tiny_gpt2), with pieces made of `texts`, or a
    folder with config.json and a tokenizer. Where `checkpoints` are adapters, the folder holds the weights below them.
    Raises ModelError for anything else.
    """
    transformers = library()
    ours = resources.files("traklens.engine.models.configs") / f"{name}.json"
    if name in TINY.values() and ours.is_file():
        made = json.loads(ours.read_text(encoding="utf-8"))
        tokenizer, pad = tokenization.trained(made["tokenizer"]["kind"], made["tokenizer"]["size"], texts), 0
        ends = (tokenizer.token_to_id(mark) for mark in ("</s>", "<|endoftext|>"))
        end = next((number for number in ends if number is not None), None)
        architecture = made["architecture"] | {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": pad}
        architecture |= {"eos_token_id": end, "bos_token_id": end} if end is not None else {}
        longest = made["longest"]
    else:
        folder = Path(name)
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model {name!r}",
                "no architecture of ours and no folder with config.json",
                f"{', '.join(TINY.values())}, or a folder that save_pretrained wrote",
                "Check the name; nothing is fetched from a hub.",
            )
        architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer, pad = tokenization.read(folder)
        longest = min((int(architecture[key]) for key in LIMITS if architecture.get(key)), default=LONGEST)
    config: dict[str, Any] = {
        "architecture": architecture,
        "tokenizer": tokenizer.to_str(),
        "pad": pad,
        "longest": longest,
        "library": transformers.__version__,
    }
    adapter = adapter_of(checkpoints)
    if adapter is not None:
        config |= {"adapter": adapter, "base": base_of(Path(name))}
    if classes:
        config["classes"] = ordered(classes, architecture)
    spec = ModelSpec(name, config, (0.0,), (1.0,))
    found = _configuration(task, spec)  # says what is wrong with it
    config["two_kinds"] = getattr(found, "type_vocab_size", 0) > 1  # tells two texts of a pair apart
    return spec


def ordered(classes: Sequence[str], architecture: Mapping[str, Any]) -> list[str]:
    """The classes of a data set in the order of a model that names them (`id2label`), whatever their case; else as they are.

    ModelError for a model that names others.
    """
    own = {int(number): str(name) for number, name in (architecture.get("id2label") or {}).items()}
    names = [own[number] for number in sorted(own)]
    if not own or all(name == f"LABEL_{number}" for number, name in own.items()):
        return list(classes)
    by_name = {label.lower(): label for label in classes}
    if sorted(by_name) != sorted(name.lower() for name in names):
        raise ModelError(
            "model's labels",
            ", ".join(names[:12]),
            f"those of the data: {', '.join(list(classes)[:12])}",
            "Name them alike, in id2label of config.json or in the data.",
        )
    return [by_name[name.lower()] for name in names]


def library() -> Any:
    """Hugging Face's transformers. ModelError where it is not installed."""
    tokenization.library()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _configuration(task: str, spec: ModelSpec) -> Any:
    """The configuration of transformers. ModelError for an architecture that it does not know."""
    transformers = library()
    found = dict(spec.config["architecture"])
    kind = found.pop("model_type", None)
    found.pop("architectures", None)
    found.pop("auto_map", None)  # code of the folder's own is not run
    if spec.config.get("classes"):
        names = spec.config["classes"]
        found |= {"num_labels": len(names), "id2label": dict(enumerate(names))}
        found["label2id"] = {name: number for number, name in enumerate(names)}
    found["pad_token_id"] = spec.config["pad"]
    try:
        return transformers.AutoConfig.for_model(kind, **found)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"model {spec.name!r}",
            f"model_type {kind!r}: {' '.join(str(error).split())[:120]}",
            f"an architecture of transformers {transformers.__version__} for {task}",
            "Check config.json.",
        ) from error


def build_text_model(task: str, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
    """The architecture with random weights drawn from `seed` alone. ModelError when it cannot be built."""
    transformers, config = library(), _configuration(task, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return getattr(transformers, CLASSES[task]).from_config(config, attn_implementation="eager")
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"model {spec.name!r}",
                " ".join(str(error).split())[:200],
                f"an architecture that {CLASSES[task]} builds",
                "Choose another model or task.",
            ) from error


def load_text_model(task: str, spec: ModelSpec, path: Path) -> nn.Module:
    """The model with the weights of a file, in evaluation mode and float32. ModelError as `load_state`, `load_adapted`."""
    if "adapter" in spec.config:
        return load_adapted(getattr(library(), CLASSES[task]), _configuration(task, spec), spec, path)
    return load_state(build_text_model(task, spec), path, spec.name)
