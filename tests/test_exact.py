"""The checkpoint is the trained model or it is refused; pictures are prepared as it was trained, and scaled, not clipped."""

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform
from PIL import Image
from safetensors.torch import save_file

from traklens.engine.data.images import open_image
from traklens.engine.models.checkpoints import build_model, load_checkpoint, model_spec
from traklens.engine.models.preprocessing import (
    Preprocessing,
    apply,
    image_pixels,
    normalise,
    preprocessing_of,
    with_preprocessing,
)
from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return model_spec("tiny", ["a red cup", "a blue cup"])


@pytest.fixture(scope="module")
def weights(spec) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in build_model(spec, seed=1).state_dict().items()}


def _saved(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(weights, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def test_the_exact_weights_are_loaded_with_or_without_a_prefix(spec, weights, tmp_path):
    for prefix in ("", "module."):
        loaded = load_checkpoint(spec, _saved({prefix + k: v for k, v in weights.items()}, tmp_path)).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_position_embeddings_are_never_resized(spec, weights, tmp_path):
    config = json.loads(json.dumps(spec.config))
    config["vision_cfg"]["image_size"] *= 2
    with pytest.raises(ModelError, match=r"of another shape: visual\.positional_embedding"):
        load_checkpoint(replace(spec, config=config), _saved(weights, tmp_path))
    config = json.loads(json.dumps(spec.config))
    config["text_cfg"]["context_length"] += 4
    with pytest.raises(ModelError, match="of another shape: positional_embedding"):
        load_checkpoint(replace(spec, config=config), _saved(weights, tmp_path))


def test_missing_and_unexpected_weights_are_named_and_counted(spec, weights, tmp_path):
    few = {name: value for name, value in weights.items() if "resblocks.1" not in name} | {"extra": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"missing: .* … and \d+ more; 1 unexpected: extra"):
        load_checkpoint(spec, _saved(few, tmp_path))


def test_pickled_objects_are_refused_without_advice_to_load_them(spec, weights, tmp_path):
    file = tmp_path / "epoch_3.pt"
    torch.save({"state_dict": weights, "args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(ModelError, match="more than tensors") as error:
        load_checkpoint(spec, file)
    assert "weights_only" not in str(error.value)
    assert "safetensors" in str(error.value)


CONFIGURATIONS = [
    {"resize_mode": mode, "interpolation": interpolation, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    for mode in ("shortest", "longest", "squash")
    for interpolation in ("bicubic", "bilinear")
]


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda c: f"{c['resize_mode']}-{c['interpolation']}")
@pytest.mark.parametrize("size", [(90, 50), (20, 64), (32, 32)])
def test_pictures_are_prepared_as_open_clip_prepares_them(spec, config, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    made = apply(spec, preprocessing_of("x", config))
    cfg = PreprocessCfg(size=image_pixels(made)(picture).shape[-1], **config)
    evaluate: Any = image_transform(
        cfg.size, is_train=False, mean=cfg.mean, std=cfg.std, resize_mode=cfg.resize_mode,
        interpolation=cfg.interpolation, fill_color=cfg.fill_color,
    )  # fmt: skip
    torch.testing.assert_close(normalise(made, image_pixels(made)(picture)[None])[0], evaluate(picture))


def test_the_configuration_of_a_checkpoint_is_used_and_a_contradiction_named(spec, tmp_path):
    plain = tmp_path / "model.json"
    plain.write_text(json.dumps({"model_cfg": spec.config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    assert model_spec(str(plain)).image_mean == (0.5, 0.5, 0.5)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": {"resize_mode": "squash"}}))
    weights = tmp_path / "weights.safetensors"
    assert with_preprocessing(spec, [weights]).resize_mode == "squash"
    with pytest.raises(ModelError, match="different preprocessing"):
        with_preprocessing(model_spec(str(plain)), [weights])
    with pytest.raises(ModelError, match="preprocessing to 64 pixels"):
        apply(spec, Preprocessing(size=64))


@pytest.mark.parametrize(
    "found", [{"mean": "x"}, {"std": [0, 1, 1]}, {"resize_mode": "fit"}, {"interpolation": 3}, {"size": -1}, []]
)
def test_a_preprocessing_that_makes_no_sense_is_refused(found):
    with pytest.raises(ModelError, match="preprocessing"):
        preprocessing_of("x", found)


def test_names_of_a_hub_are_looked_up_in_the_local_cache_only(monkeypatch, tmp_path):
    import socket

    def nowhere(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("hf-hub:someone/some-clip", "hf-hub:", "hf-hub:a/b/c@main"):
        with pytest.raises(ModelError, match="hf-hub"):
            model_spec(name)


RAMP = np.linspace(0, 1, 64).reshape(1, 64).repeat(8, axis=0)
GREY = {
    "16 bits, PNG": (Image.fromarray((RAMP * 65_535).astype(np.uint16)), "PNG"),
    "16 bits, TIFF": (Image.fromarray((RAMP * 65_535).astype(np.uint16)), "TIFF"),
    "16 bits, big-endian": (
        Image.frombytes("I;16B", (64, 8), (RAMP * 65_535).astype(">u2").tobytes()),
        "TIFF",
    ),
    "32 bits": (Image.fromarray((RAMP * 2_000_000).astype(np.int32)), "TIFF"),
    "floats to 1": (Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "floats around 0": (Image.fromarray((RAMP * 8 - 4).astype(np.float32)), "TIFF"),
    "8 bits": (Image.fromarray((RAMP * 255).astype(np.uint8)), "PNG"),
}


@pytest.mark.parametrize("kind", GREY)
def test_a_ramp_stays_a_ramp_however_many_bits_it_has(kind):
    picture, form = GREY[kind]
    content = io.BytesIO()
    picture.save(content, form)
    found = np.asarray(open_image(io.BytesIO(content.getvalue())))[0, :, 0].astype(int)
    assert np.abs(found - RAMP[0] * 255).max() <= 1.5


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1), (20_000, 1), (3, 9_000)])
def test_a_long_picture_is_cropped_before_it_is_enlarged(spec, size, monkeypatch):
    largest = []
    resize = Image.Image.resize

    def noted(self, size, *arguments, **options):
        largest.append(size[0] * size[1])
        return resize(self, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    pixels = image_pixels(spec)(Image.new("RGB", size, (200, 10, 30)))
    assert pixels[:, 0, 0].tolist() == [200, 10, 30]
    assert max(largest) < 1_000_000
