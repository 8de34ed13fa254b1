"""Training: the loss is CLIP's, the split and subsets are recorded and respected, held-out figures are as defined."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from traklens.engine.data import load_dataset
from traklens.engine.data.demo import write_demo_dataset
from traklens.engine.models.checkpoints import load_checkpoint
from traklens.engine.models.preprocessing import augmented
from traklens.engine.tasks.clip import contrastive_loss
from traklens.engine.training.run_directory import open_run
from traklens.engine.training.split import draw_by_group, split_dataset
from traklens.engine.training.train import train
from traklens.stores.errors import DataError, StoreError, UsageError


def test_without_repeats_the_loss_is_clips():
    torch.manual_seed(0)
    u, v = (F.normalize(torch.randn(6, 4), dim=1) for _ in range(2))
    logits = 7.0 * u @ v.T
    clip = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    found = contrastive_loss(u, v, torch.tensor(7.0), torch.eye(6, dtype=torch.bool))
    torch.testing.assert_close(found, clip)


def test_a_repeated_caption_is_no_negative():
    u = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    scale = torch.tensor(50.0)
    expected = np.log(2) * 2 / 3  # two pairs share their target evenly, the third is certain
    assert float(contrastive_loss(u, u, scale, same)) == pytest.approx(expected, abs=1e-5)
    assert float(contrastive_loss(u, u, scale, torch.eye(3, dtype=torch.bool))) == pytest.approx(expected, abs=1e-5)
    swapped = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert contrastive_loss(u, swapped, scale, same) > 10


def test_the_captions_of_one_image_stay_on_one_side(tmp_path):
    from PIL import Image

    rows = []
    for i in range(40):
        Image.new("RGB", (8, 8), (i * 6, 0, 0)).save(tmp_path / f"{i}.png")
        rows += [{"file_name": f"{i}.png", "text": f"caption {j} of {i}"} for j in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load_dataset(tmp_path)
    split = split_dataset(dataset, heldout=0.25, subset=0.5, checkpoints=3, seed=0)
    image = np.array([example.group for example in dataset.examples])
    assert not {*image[split.train]} & {*image[split.heldout]}
    assert len({*image[split.heldout]}) == 10
    for members in split.subsets:
        assert len({*image[split.train[members]]}) == 15
        assert not {*image[split.train[members]]} & {*image[split.train[~members]]}
    assert not np.array_equal(split.subsets[0], split.subsets[1])


@pytest.mark.parametrize(("share", "seen_by"), [(0.5, {1}), (0.75, {1, 2}), (0.25, {0, 1})])
def test_checkpoints_come_in_pairs_that_share_as_little_as_they_can(tiny_demo, share, seen_by):
    split = split_dataset(load_dataset(tiny_demo / "data"), heldout=0, subset=share, checkpoints=4, seed=3)
    for pair in (split.subsets[:2], split.subsets[2:]):
        assert set(pair.sum(axis=0).tolist()) == seen_by
    assert not np.array_equal(split.subsets[0], split.subsets[2])


def test_drawing_by_group_marks_whole_groups():
    groups = np.array(list("aabbbcdde"))
    drawn = draw_by_group(groups, 0.4, np.random.default_rng(0))
    assert len({*groups[drawn]}) == 2
    assert not {*groups[drawn]} & {*groups[~drawn]}


def test_a_run_records_what_each_checkpoint_saw(tiny_demo):
    run, dataset = open_run(tiny_demo / "run"), load_dataset(tiny_demo / "data")
    split = run.split(dataset)
    assert split.subsets.shape == (2, split.train.size)
    assert split.subsets.sum(axis=1).tolist() == [32, 32]
    assert {*split.train} | {*split.heldout} == set(range(80))
    assert set(run.quality) == {"0", "1"}
    assert all(0 <= quality["recall@1"] <= quality["recall@10"] <= 1 for quality in run.quality.values())
    epochs = [json.loads(line) for line in (tiny_demo / "run/log.jsonl").read_text().splitlines()]
    assert [(line["checkpoint"], line["epoch"]) for line in epochs] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_training_moves_the_weights_and_checkpoints_differ(tiny_demo):
    run = open_run(tiny_demo / "run")
    one, two = (load_checkpoint(run.spec.model, run.checkpoint(m)) for m in range(2))
    differing = [name for name, p in one.named_parameters() if not torch.equal(p, two.get_parameter(name))]
    assert "visual.conv1.weight" in differing
    assert "token_embedding.weight" in differing


def test_training_lowers_the_loss(tmp_path):
    dataset = load_dataset(write_demo_dataset(tmp_path / "data", n=120, seed=0))
    train(dataset, tmp_path / "run", checkpoints=1, epochs=12, batch_size=30, subset=1.0, heldout=0.1)
    loss = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert min(loss[-3:]) < loss[0]


def test_another_recipe_does_not_continue_a_run(tiny_demo):
    dataset = load_dataset(tiny_demo / "data")
    with pytest.raises(StoreError, match=r"recipe\.epochs: 2, 3"):
        train(dataset, tiny_demo / "run", checkpoints=2, epochs=3, batch_size=16, heldout=0.2)


def test_a_run_is_not_read_with_other_data(tiny_demo, tmp_path):
    other = load_dataset(write_demo_dataset(tmp_path / "data", n=80, seed=9))
    with pytest.raises(StoreError, match="unknown"):
        open_run(tiny_demo / "run").split(other)


@pytest.mark.parametrize(
    ("options", "item"),
    [({"checkpoints": 0}, "training options"), ({"heldout": 1.0}, "heldout"), ({"subset": 0.0}, "subset"),
     ({"augment": "twist"}, "augment")],
)  # fmt: skip
def test_options_out_of_range_are_named(tiny_demo, tmp_path, options, item):
    with pytest.raises(UsageError, match=item):
        train(load_dataset(tiny_demo / "data"), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_too_few_training_pairs_are_refused(tiny_demo, tmp_path):
    with pytest.raises(DataError, match="at least 8"):
        train(load_dataset(tiny_demo / "data", sample=8), tmp_path / "run", heldout=0.5)


def test_shifting_moves_whole_pictures_and_repeats_edges():
    pixels = torch.arange(32 * 32).view(1, 1, 32, 32).expand(5, 3, -1, -1).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    moved = augmented(pixels, "shift", generator)
    assert moved.shape == pixels.shape
    offsets = {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    for picture in moved:
        inner = picture[:, 4:-4, 4:-4]
        found = [o for o in offsets if torch.equal(inner, pixels[0][:, 4 + o[0] : 28 + o[0], 4 + o[1] : 28 + o[1]])]
        assert len(found) == 1
    assert augmented(pixels, "none", generator) is pixels
