"""Local checkpoints of every usual form load; everything else is refused in one message, and no code is unpickled."""

import os
import subprocess
import sys
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from traklens.engine.models.checkpoints import (
    build_model,
    load_checkpoint,
    make_tokenizer,
    model_spec,
)
from traklens.engine.models.parameters import attributed_parameters
from traklens.engine.models.preprocessing import Preprocessing, image_pixels, normalise
from traklens.engine.models.vocabulary import WordPieces
from traklens.engine.tasks.clip import ClipTask
from traklens.stores.errors import ModelError

CAPTIONS = ["a red circle sign with the letter k", "ein schöner Tag 🦊"]


@pytest.fixture(scope="module")
def spec():
    return model_spec("tiny", CAPTIONS)


def _same(a, b) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_checkpoint_of_open_clips_training_loads(spec, tmp_path):
    model = build_model(spec, seed=3)
    weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(
        {"epoch": 1, "name": "run", "state_dict": weights, "optimizer": {"state": {}}}, tmp_path / "epoch_1.pt"
    )
    assert _same(load_checkpoint(spec, tmp_path / "epoch_1.pt"), model)


def test_a_plain_state_dict_loads(spec, tmp_path):
    model = build_model(spec, seed=4)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    assert _same(load_checkpoint(spec, tmp_path / "plain.pt"), model)


def test_safetensors_load_in_evaluation_mode_and_float32(spec, tmp_path):
    model = build_model(spec, seed=5)
    save_file({name: t.contiguous().half() for name, t in model.state_dict().items()}, tmp_path / "half.safetensors")
    found = load_checkpoint(spec, tmp_path / "half.safetensors")
    assert not found.training
    assert {p.dtype for p in found.parameters()} == {torch.float32}


def test_another_architecture_is_refused(spec, tmp_path):
    other = model_spec("tiny", ["quite other words here, and many more of them"])
    torch.save(build_model(other).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ModelError, match="token_embedding"):
        load_checkpoint(spec, tmp_path / "other.pt")


class _Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-run",)


def test_pickled_code_is_never_run(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="without pickled code"):
        load_checkpoint(spec, tmp_path / "evil.pt")
    assert not (tmp_path / "evil-was-run").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04garbage"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_holds_no_weights_is_refused(spec, tmp_path, content, suffix):
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"bad.{suffix}"):
        load_checkpoint(spec, path)


def test_directories_and_missing_files_are_refused(spec, tmp_path):
    with pytest.raises(ModelError, match="a directory"):
        load_checkpoint(spec, tmp_path)
    with pytest.raises(ModelError, match="found nothing"):
        load_checkpoint(spec, tmp_path / "nowhere.pt")


def test_weights_that_are_not_finite_name_the_parameter(spec, tmp_path):
    weights = build_model(spec).state_dict()
    weights["visual.proj"][0, 0] = float("nan")
    torch.save(weights, tmp_path / "nan.pt")
    with pytest.raises(ModelError, match=r"NaN or infinity in visual\.proj"):
        load_checkpoint(spec, tmp_path / "nan.pt")


def test_unknown_names_are_refused():
    with pytest.raises(ModelError, match="no such architecture"):
        model_spec("ViT-Z-99")


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator(spec):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert _same(build_model(spec, seed=1), build_model(spec, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not _same(build_model(spec, seed=1), build_model(spec, seed=2))


def test_the_logit_scale_is_not_attributed(spec):
    names = attributed_parameters(build_model(spec), frozen=ClipTask().frozen())
    assert "logit_scale" not in names
    assert "visual.proj" in names
    assert "text_projection" in names


def test_pixels_are_those_of_open_clips_own_evaluation():
    spec = model_spec("ViT-B-32")
    picture = Image.linear_gradient("L").resize((300, 260)).convert("RGB")
    ours = normalise(spec, image_pixels(spec)(picture)[None])[0]
    evaluate: Any = open_clip.image_transform(224, is_train=False, mean=spec.image_mean, std=spec.image_std)
    theirs = evaluate(picture)
    torch.testing.assert_close(ours, theirs)


def test_named_models_take_clips_own_tokens():
    tokens = make_tokenizer(model_spec("ViT-B-32"))(CAPTIONS)
    assert torch.equal(tokens, open_clip.get_tokenizer("ViT-B-32")(CAPTIONS))


def test_word_pieces_give_every_known_piece_its_own_number():
    pieces = WordPieces.from_captions(CAPTIONS, 64)
    tokens = pieces(CAPTIONS)
    assert tokens.shape[1] % 8 == 0
    assert (tokens < pieces.size).all()
    assert tokens.max() == pieces.size - 1  # the end of text, which the text tower pools
    assert (tokens.argmax(dim=1) == (tokens != 0).sum(dim=1) - 1).all()
    known = tokens[0][1 : tokens[0].argmax()]
    assert (known > 1).all()
    unknown = pieces(["zebra xylophone"])[0]
    assert (unknown == 1).any()
    assert len({tuple(row.tolist()) for row in tokens}) == 2


def test_a_caption_of_any_length_fits():
    pieces = WordPieces.from_captions(CAPTIONS, 64)
    tokens = pieces(["sign " * 2_000, ""])
    assert tokens.shape == (2, pieces.context_length)
    assert tokens[0, -1] == pieces.size - 1


def test_only_clip_waits_for_clips_libraries():
    """They take seconds to import. Measured by what is imported, not by a clock."""
    script = (
        "import sys, traklens.engine.build.stages, traklens.engine.training.train, traklens.engine.attribution.new_text\n"
        "from traklens.engine.tasks.registry import task_named\n"
        "task_named('causal_lm'), task_named('text_classifier')\n"
        "print([name for name in ('open_clip', 'transformers', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "[]"


def test_clips_colours_are_those_of_open_clip():
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    assert Preprocessing().mean == OPENAI_DATASET_MEAN
    assert Preprocessing().std == OPENAI_DATASET_STD
