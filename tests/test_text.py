"""Text through the contract: tokens, spans, tied weights, hidden words, gradients of each architecture."""

from typing import Any, cast

import pytest
import torch
from typer.testing import CliRunner
from worlds import WORLDS

from traklens.engine.cli.main import app
from traklens.engine.gradients import per_sample_gradients, reference_gradients
from traklens.engine.models.text import build_text_model, load_text_model, text_spec
from traklens.engine.models.tokenization import Codec, trained
from traklens.engine.tasks.contract import ModelOutput
from traklens.engine.tasks.language import SPAN
from traklens.engine.tasks.registry import task_named
from traklens.engine.training.fit import save_weights
from traklens.stores.errors import ModelError
from traklens.stores.specs import FieldSpec, ModelOutputSpec

TEXTS = ["a small dog runs over the green hill", "the dog sleeps", "a cat and a dog", "nothing is as it was"]


def _bound(name, *, classes=(), output="margin", longest=None):
    task = task_named(name)
    spec = text_spec(name, {"text_classifier": "tiny_bert", "seq2seq": "tiny_t5", "causal_lm": "tiny_gpt2"}[name],
                     TEXTS, classes)  # fmt: skip
    if longest:
        spec.config["longest"] = longest
    task = task.bind(spec, ModelOutputSpec(output=output))
    return cast("Any", task), task.build_model(spec, seed=1).eval(), spec


def _examples(name):
    if name == "text_classifier":
        return [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS)]
    if name == "seq2seq":
        return [{"input": text, "target": text.split()[-1]} for text in TEXTS]
    return [{"text": text} for text in TEXTS]


CLASSES = {"text_classifier": ("a", "b"), "seq2seq": (), "causal_lm": ()}


@pytest.mark.parametrize("kind", ["pairs", "end", "both"])
def test_the_same_texts_give_the_same_pieces_and_texts_come_back(kind):
    one, two = (trained(kind, 300, TEXTS).to_str() for _ in range(2))
    assert one == two
    codec = Codec(one, 0, 64)
    for text in (*TEXTS, "unseen: naïve ☃ words"):
        ids = codec.encoded([text])[0].ids
        assert codec.decoded(ids).strip() == text


@pytest.mark.parametrize("name", list(CLASSES))
def test_padding_changes_nothing_beyond_rounding(name):
    task, model, _ = _bound(name, classes=CLASSES[name])
    batch = task.batch(_examples(name))
    longer = {
        key: torch.nn.functional.pad(values, (0, 7)) if values.ndim == 2 else values for key, values in batch.items()
    }
    with torch.no_grad():
        torch.testing.assert_close(
            task.model_output(model, batch, {}), task.model_output(model, longer, {}), rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(task.loss(model, batch), task.loss(model, longer), rtol=1e-4, atol=1e-5)


def assert_hooks_are_autograd(task, model, batch, of=None):
    """Parameter by parameter, each against its own size (a key's bias has gradient zero but for rounding); all, or `of`."""
    module = ModelOutput(task, model, tuple(batch), ()).eval()
    names = [f"model.{key}" for key in (of or dict(model.named_parameters()))]
    expected = reference_gradients(module, tuple(batch.values()), names)
    found = {key: torch.zeros_like(values) for key, values in expected.items()}

    def sink(key, gradients, rows):
        found[key][rows] += gradients

    per_sample_gradients(module, tuple(batch.values()), sink, strategy="hooks", names=names)
    largest = max(float(values.abs().max()) for values in expected.values())
    for key, values in expected.items():
        scale = max(1e-6 * largest, float(values.abs().max()))
        torch.testing.assert_close(found[key], values, rtol=1e-3, atol=1e-4 * scale, msg=key)


@pytest.mark.parametrize("name", list(CLASSES))
@pytest.mark.parametrize("size", [4, 8])
def test_a_batch_of_the_size_of_something_else_gives_the_same_gradients(name, size):
    """Of as many examples as heads or tokens: what is the batch is not told by its size."""
    task, model, _ = _bound(name, classes=CLASSES[name], longest=8)
    examples = (_examples(name) * 2)[:size]
    batch = task.batch(examples)
    assert_hooks_are_autograd(task, model, batch)


@pytest.mark.parametrize("name", ["seq2seq", "causal_lm"])
def test_the_gradient_of_the_loss_is_that_of_minus_the_mean_log_probability(name):
    """Q = 1, and no prompt, padding or mark of the beginning is part of either."""
    task, model, _ = _bound(name, output="log_probability")
    batch = task.batch(_examples(name)[:1])
    parameters = list(model.parameters())
    assert task.output_to_loss(model, batch, {}).tolist() == [1.0]
    of_loss = torch.autograd.grad(task.loss(model, batch), parameters, allow_unused=True)
    of_f = torch.autograd.grad(task.model_output(model, batch, {}).sum(), parameters, allow_unused=True)
    for a, b in zip(of_loss, of_f, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, -b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["seq2seq", "causal_lm"])
def test_f_is_the_mean_over_the_tokens_of_a_span(name):
    task, model, _ = _bound(name)
    title = task.title
    example = (
        {"input": "which dog", "target": "the small dog"} if name == "seq2seq" else {"text": "see the small dog"}
    )
    words = example[title]
    start = words.index("small")
    whole, part = (task.batch([{**example, **more}]) for more in ({}, {SPAN: (start, start + 5)}))
    each, _, asked = task.of_tokens(model, part)
    assert 0 < int(asked.sum()) < int(task.of_tokens(model, whole)[2].sum())
    expected = (each * asked).sum() / asked.sum()
    torch.testing.assert_close(task.model_output(model, part, {})[0], expected)
    encoded = task.codec.encoded([words])[0]
    counted = [words[a:b] for (a, b), hit in zip(encoded.offsets, part["asked"][0].tolist(), strict=True) if hit]
    assert "".join(counted).strip() == "small"


def test_only_models_that_tell_two_texts_apart_are_told_which_is_which():
    """BERT has two kinds of tokens; GPT-2 would take their numbers for words."""
    for model, kinds in (("tiny_bert", True), ("tiny_gpt2", False)):
        spec = text_spec("text_classifier", model, TEXTS, ("a", "b"))
        fields = (FieldSpec("one", "text"), FieldSpec("two", "text"), FieldSpec("label", "label"))
        task = task_named("text_classifier").with_fields(fields).bind(spec, ModelOutputSpec())
        batch = task.batch(
            [{"one": "a dog", "two": "a cat", "label": "a"}, {"one": "no", "two": TEXTS[0], "label": "b"}]
        )
        assert ("kinds" in batch) == kinds
        together = task.model_output(task.build_model(spec).eval(), batch, {})
        assert torch.isfinite(together).all()
        if kinds:
            assert set(batch["kinds"].unique().tolist()) == {0, 1}


def test_tied_weights_are_stored_once_and_found_under_both_names(tmp_path):
    _, model, spec = _bound("causal_lm")
    save_weights(model, tmp_path / "w.safetensors")
    again = load_text_model("causal_lm", spec, tmp_path / "w.safetensors")
    state = again.state_dict()
    assert torch.equal(state["lm_head.weight"], state["transformer.wte.weight"])
    assert torch.equal(state["transformer.wte.weight"], model.state_dict()["transformer.wte.weight"])
    assert sum(name.endswith(("wte.weight", "lm_head.weight")) for name, _ in again.named_parameters()) == 1


def test_a_folder_of_transformers_is_a_model(tmp_path):
    from transformers import PreTrainedTokenizerFast

    _, model, spec = _bound("text_classifier", classes=("a", "b"))
    model.save_pretrained(tmp_path / "bert")  # type: ignore[operator]
    backend = Codec(spec.config["tokenizer"], 0, 64).tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(tmp_path / "bert")
    found = text_spec("text_classifier", str(tmp_path / "bert"), (), ("a", "b"))
    loaded = load_text_model("text_classifier", found, tmp_path / "bert" / "model.safetensors")
    a, b = (cast("Any", task_named("text_classifier").bind(s, ModelOutputSpec())) for s in (spec, found))
    examples = _examples("text_classifier")
    with torch.no_grad():
        torch.testing.assert_close(a.logits(model, a.batch(examples)), b.logits(loaded, b.batch(examples)))


def test_a_model_that_is_none_is_named(tmp_path):
    with pytest.raises(ModelError, match="nothing is fetched from a hub"):
        text_spec("causal_lm", "gpt2-xl", ())
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ModelError):
        text_spec("causal_lm", str(tmp_path), ())
    _, _, spec = _bound("causal_lm")
    with pytest.raises(ModelError, match="nothing"):
        load_text_model("causal_lm", spec, tmp_path / "none.pt")
    assert build_text_model("causal_lm", spec, seed=3).training


def test_hidden_words_are_drawn_anew_and_marks_stay():
    task, _, _ = _bound("seq2seq")
    sentence = " ".join(TEXTS)
    batch = task.batch([{"input": f"{sentence} [MASK]", "target": "dog"}, {"input": "a [MASK]", "target": "cat"}])
    assert task.augmented(batch, "none", torch.Generator()) is batch
    one, two, again = (task.augmented(batch, "words", torch.Generator().manual_seed(seed)) for seed in (0, 1, 0))
    assert torch.equal(one["tokens"], again["tokens"])
    assert not torch.equal(one["tokens"], two["tokens"])
    changed = one["tokens"] != batch["tokens"]
    assert changed.any()
    assert (one["tokens"][changed] == task.codec.pad).all()
    assert not changed[batch["mask"] == 0].any()
    marks = torch.isin(batch["tokens"], torch.tensor(task.codec.marks))
    assert int(marks[0].sum()) == 2  # [MASK], and the mark of the end
    assert not changed[marks].any()
    assert all(torch.equal(one[name], batch[name]) for name in ("mask", "target", "asked"))


def test_a_kind_of_augmentation_that_a_task_does_not_know_is_refused(tmp_path):
    data = WORLDS["causal_lm"].data(tmp_path)
    done = CliRunner().invoke(
        app, ["train", str(data), "--task", "causal_lm", "--augment", "words", "--out", str(tmp_path / "run")]
    )
    assert "augment" in str(done.exception)
    assert "none" in str(done.exception)


def _config(kind, vocabulary):
    import transformers

    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    common["bos_token_id"] = 1
    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    small["num_key_value_heads"] = 2  # grouped queries, rotary positions, a gated MLP
    if kind == "llama":
        return transformers.LlamaConfig(**common, **small)
    if kind == "qwen2":
        return transformers.Qwen2Config(**common, **small, tie_word_embeddings=True)
    parts: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        parts |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 48}
    return transformers.BartConfig(**common, **parts, d_model=32, decoder_start_token_id=1)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "bart"])
def test_the_gradients_of_other_architectures_are_those_of_plain_autograd(kind, tmp_path):
    from transformers import PreTrainedTokenizerFast

    tokenizer = trained("end", 300, TEXTS)
    _config(kind, tokenizer.get_vocab_size()).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(tmp_path)
    name = "seq2seq" if kind == "bart" else "causal_lm"
    spec = text_spec(name, str(tmp_path), ())
    task = task_named(name).bind(spec, ModelOutputSpec())
    model = task.build_model(spec, seed=1).eval()
    batch = task.batch(_examples(name))
    assert_hooks_are_autograd(task, model, batch)
