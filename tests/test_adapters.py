"""Adapters of peft on a model of transformers: loaded, attributed alone, and asked from the command line."""

import json
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
from test_text import TEXTS, assert_hooks_are_autograd
from typer.testing import CliRunner

from traklens.engine.cli.main import app
from traklens.engine.models.adapters import CONFIG, adapter_of
from traklens.engine.models.parameters import attributed_parameters
from traklens.engine.models.text import ordered, text_spec
from traklens.engine.models.tokenization import Codec
from traklens.engine.models.weights import shards_of, weights_digest, weights_in
from traklens.engine.tasks.registry import task_named
from traklens.stores.errors import ModelError, UsageError
from traklens.stores.specs import ModelOutputSpec

TARGETS = {"causal_lm": ["c_attn", "c_proj"], "text_classifier": ["query", "value"], "seq2seq": ["q", "v", "wo"]}
KINDS = {"causal_lm": "CAUSAL_LM", "text_classifier": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM"}


def _base(folder: Path, name: str) -> tuple[Any, Any]:
    """A small model of transformers in a folder, with its tokenizer; the model, and the spec it was made of."""
    from transformers import PreTrainedTokenizerFast

    made = {"text_classifier": "tiny_bert", "seq2seq": "tiny_t5", "causal_lm": "tiny_gpt2"}[name]
    classes = ("a", "b") if name == "text_classifier" else ()
    spec = text_spec(name, made, TEXTS, classes)
    model = cast("Any", task_named(name)).bind(spec, ModelOutputSpec()).build_model(spec, seed=1)
    model.save_pretrained(folder)
    backend = Codec(spec.config["tokenizer"], 0, 64).tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(folder)
    return model, spec


def _adapter(folder: Path, name: str, model: Any, seed: int, **options: Any) -> Any:
    """An adapter with random weights, saved as peft does; the adapted model."""
    config = peft.LoraConfig(task_type=KINDS[name], r=4, target_modules=TARGETS[name], **options)
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(str(folder))
    return adapted.eval()


def _asked(name: str, base: Path, checkpoint: Path) -> tuple[Any, Any]:
    """The task bound to an adapted model, and that model."""
    task = cast("Any", task_named(name))
    file = weights_in(checkpoint)
    spec = text_spec(name, str(base), (), ("a", "b") if name == "text_classifier" else (), [file])
    task = task.bind(spec, ModelOutputSpec())
    return task, task.load_checkpoint(spec, file)


def _batch(task: Any, name: str) -> Any:
    if name == "text_classifier":
        return task.batch([{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS)])
    if name == "seq2seq":
        return task.batch([{"input": text, "target": text.split()[-1]} for text in TEXTS])
    return task.batch([{"text": text} for text in TEXTS])


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "bias": "lora_only"}], ids=["lora", "rslora with biases"]
)
@pytest.mark.parametrize("name", list(TARGETS))
def test_an_adapted_model_is_that_of_peft_and_its_gradients_are_the_adapters(tmp_path, name, options):
    model, _ = _base(tmp_path / "base", name)
    adapted = _adapter(tmp_path / "one", name, model, 5, **options)
    task, loaded = _asked(name, tmp_path / "base", tmp_path / "one")
    batch = _batch(task, name)
    with torch.no_grad():
        expected = task.model_output(adapted, batch, {})
        torch.testing.assert_close(task.model_output(loaded, batch, {}), expected, rtol=1e-4, atol=1e-5)
    names = attributed_parameters(loaded)
    trained = {key for key, parameter in adapted.base_model.model.named_parameters() if parameter.requires_grad}
    assert set(names) == trained
    assert 0 < len(names) < len(list(loaded.named_parameters()))
    assert_hooks_are_autograd(task, loaded, batch, names)


def test_adapters_of_another_configuration_or_of_another_model_are_named(tmp_path):
    model, _ = _base(tmp_path / "base", "causal_lm")
    _adapter(tmp_path / "one", "causal_lm", model, 1)
    file = weights_in(tmp_path / "one")
    other = json.loads((tmp_path / "one" / CONFIG).read_text()) | {"r": 8}
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / CONFIG).write_text(json.dumps(other))
    (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="another adapter than the first"):
        adapter_of([file, tmp_path / "two" / file.name])
    with pytest.raises(ModelError, match="another adapter than the first"):
        adapter_of([file, tmp_path / "base" / "model.safetensors"])
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UsageError, match="requires gradients"):
        attributed_parameters(frozen)
    with pytest.raises(ModelError, match=r"shape|size|fit"):
        _asked("causal_lm", tmp_path / "base", tmp_path / "two")
    (tmp_path / "two" / CONFIG).write_text("{")
    with pytest.raises(ModelError, match="adapter's configuration"):
        adapter_of([tmp_path / "two" / file.name])
    weights = tmp_path / "base" / "model.safetensors"
    task = cast("Any", task_named("causal_lm"))
    spec = text_spec("causal_lm", str(tmp_path / "base"), (), (), [file])
    task = task.bind(spec, ModelOutputSpec())
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ModelError, match="other weights"):
        task.load_checkpoint(spec, file)
    weights.unlink()
    with pytest.raises(ModelError, match="no weights"):
        task.load_checkpoint(spec, file)


def test_weights_in_shards_are_one_model_and_each_is_part_of_the_digest(tmp_path):
    model, spec = _base(tmp_path / "whole", "text_classifier")
    model.save_pretrained(tmp_path / "parts", max_shard_size="1MB")
    index = weights_in(tmp_path / "parts")
    assert len(shards_of(index)) > 1
    task = cast("Any", task_named("text_classifier")).bind(spec, ModelOutputSpec())
    loaded = task.load_checkpoint(spec, index)
    for name, values in model.state_dict().items():
        assert torch.equal(values, loaded.state_dict()[name])
    before = weights_digest(index)
    last = shards_of(index)[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\xff")
    assert weights_digest(index) != before
    last.unlink()
    with pytest.raises(ModelError, match=r"checkpoint .*index\.json"):
        task.load_checkpoint(spec, index)


def test_classes_are_numbered_as_the_model_names_them():
    classes = ("negative", "positive")
    assert ordered(classes, {"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}}) == ["positive", "negative"]
    assert ordered(classes, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) == list(classes)
    assert ordered(classes, {}) == list(classes)
    with pytest.raises(ModelError, match="joy"):
        ordered(classes, {"id2label": {"0": "joy", "1": "anger"}})


def test_from_adapters_to_an_answer_on_the_command_line(tmp_path):
    model, _ = _base(tmp_path / "base", "causal_lm")
    for number in range(2):
        _adapter(tmp_path / f"adapter{number}", "causal_lm", model, number)
        model, _ = _base(tmp_path / "again", "causal_lm")
    data = tmp_path / "data"
    data.mkdir()
    lines = [{"text": f"{text} and the {what}"} for text in TEXTS for what in ("hill", "sea", "moon")]
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    store = tmp_path / "store"
    folders = [f"--checkpoint={tmp_path / f'adapter{number}'}" for number in range(2)]
    built = CliRunner().invoke(
        app,
        ["build", str(data), "--task", "causal_lm", "--text-column", "text", "--model", str(tmp_path / "base"), *folders,
         "--store", str(store), "--proj-dim", "64"],
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    asked = CliRunner().invoke(
        app, ["query", str(store), "--prompt", "a small dog and", "--answer", "the sea", "--top", "3", "--json"]
    )
    assert asked.exit_code == 0, asked.output
    assert len(json.loads(asked.stdout)["proponents"]) == 3
    manifest = json.loads((store / "manifest.json").read_text())
    assert Path(manifest["model"]["config"]["base"]["folder"]) == (tmp_path / "base").resolve()
