"""Data in: every form is read, what cannot be used is reported and left out, ids come from content."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from traklens.engine.data import load_again, load_dataset
from traklens.engine.data.demo import EVEN_CHARACTERS, Plate, draw_plate, write_demo_dataset
from traklens.stores.errors import DataError


def _picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def _imagefolder(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


def test_problems_are_reported_and_the_rest_goes_on(tmp_path):
    _picture(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [
        {"file_name": "good.png", "text": "a fine picture"},
        {"file_name": "good.png", "text": "a fine picture"},
        {"file_name": "good.png", "text": "   "},
        {"file_name": "good.png", "text": "x" * 10_001},
        {"file_name": "broken.png", "text": "broken"},
        {"file_name": "missing.png", "text": "missing"},
    ]
    dataset = load_dataset(_imagefolder(tmp_path, rows))
    assert [example.fields["caption"] for example in dataset.examples] == ["a fine picture"]
    assert dataset.problems.counts() == {
        "duplicate pair": 1,
        "empty caption": 1,
        "overlong caption": 1,
        "unreadable image": 1,
        "missing image": 1,
    }


def test_ids_come_from_content_not_from_place(tmp_path):
    for name in ("one", "two"):
        _picture(tmp_path / name / f"{name}.png")
        _imagefolder(tmp_path / name, [{"file_name": f"{name}.png", "text": "same"}])
    one, two = (load_dataset(tmp_path / name) for name in ("one", "two"))
    assert one.examples[0].id == two.examples[0].id
    assert one.spec.fingerprint == two.spec.fingerprint


@pytest.mark.parametrize("caption", ["<b>bold</b>", "# *markdown* [x](y)", "שלום עולם", "🦊 fox", "a" * 10_000])
def test_hostile_captions_are_kept_as_text(tmp_path, caption):
    _picture(tmp_path / "a.png")
    found = load_dataset(_imagefolder(tmp_path, [{"file_name": "a.png", "text": caption}]))
    assert found.examples[0].fields["caption"] == caption


def test_one_list_of_several_in_a_folder_is_read_again_alone(tmp_path):
    for i in range(4):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for name, rows in (("a", (0, 1)), ("b", (2, 3))):
        lines = "".join(f"{i}.png,caption {i}\n" for i in rows)
        (tmp_path / f"{name}.csv").write_text(f"filepath,title\n{lines}")
    first = load_dataset(tmp_path / "b.csv")
    assert load_again(tmp_path, first.spec).spec.fingerprint == first.spec.fingerprint


def test_open_clip_list(tmp_path):
    _picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("filepath\ttitle\na.png\ta cat, sitting\n", encoding="utf-8")
    dataset = load_dataset(tmp_path / "train.csv")
    assert (dataset.spec.reader, dataset.examples[0].fields["caption"]) == ("open_clip_csv", "a cat, sitting")


def test_flickr8k_captions(tmp_path):
    _picture(tmp_path / "Images" / "a.jpg")
    (tmp_path / "captions.txt").write_text(
        'image,caption\na.jpg,A dog runs .\na.jpg,"Big, brown dog"\n', encoding="utf-8"
    )
    dataset = load_dataset(tmp_path)
    assert [e.fields["caption"] for e in dataset.examples] == ["A dog runs .", "Big, brown dog"]
    assert dataset.examples[0].group == dataset.examples[1].group


def test_class_folders_fill_the_template(tmp_path):
    _picture(tmp_path / "red_fox" / "1.png")
    assert load_dataset(tmp_path).examples[0].fields["caption"] == "a photo of a red fox"


def test_unknown_folder_is_named_with_what_it_holds(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"notes\.md"):
        load_dataset(tmp_path)


def test_demo_data_is_the_same_for_the_same_seed_and_records_what_was_planted(tmp_path):
    one, two = (write_demo_dataset(tmp_path / name, n=100, seed=3) for name in "ab")
    assert (one / "metadata.jsonl").read_bytes() == (two / "metadata.jsonl").read_bytes()
    assert (one / "images/00007.png").read_bytes() == (two / "images/00007.png").read_bytes()
    rows = [json.loads(line) for line in (one / "metadata.jsonl").read_text().splitlines()]
    wrong = [row for row in rows if row["planted"] == "wrong caption"]
    assert len(wrong) == 5
    assert all(row["text"] != row["true_text"] for row in wrong)
    assert all(row["text"] == row["true_text"] for row in rows if row["planted"] != "wrong caption")


def test_even_plates_show_every_character_about_equally_often_and_no_two_look_or_read_alike(tmp_path):
    data = write_demo_dataset(tmp_path / "even", n=1200, even=True)
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = Counter(row["character"] for row in rows)
    assert set(counts) == set(EVEN_CHARACTERS)
    assert max(counts.values()) <= 1200 * 0.035  # 2 % of the pairs hold most of what any target hangs on
    plates = [Plate("circle", "red", character, jitter=0) for character in EVEN_CHARACTERS]
    assert len({plate.caption() for plate in plates}) == len({draw_plate(plate).tobytes() for plate in plates}) == 58


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "options", "reader", "count"),
    [
        ("stamps", {}, "imagefolder", 784),
        ("tiny_coco", {}, "coco", 500),
        ("cifar10n/train", {"caption_template": "a photo of a {random_label1}", "sample": 200}, "imagefolder", 200),
    ],
)
def test_real_data_sets_are_read(real_data, folder, options, reader, count):
    dataset = load_dataset(real_data / folder, **options)
    assert (dataset.spec.reader, len(dataset.examples)) == (reader, count)


def test_a_part_without_the_caption_column_is_left_out_and_reported(tmp_path):
    for split, column in (("train", "noisy"), ("test", "clean")):
        for i in range(4):
            _picture(tmp_path / split / f"{i}.png", colour=f"rgb({i * 40},0,{len(split)})")
        rows = "\n".join(f"{i}.png,cat" for i in range(4))
        (tmp_path / split / "metadata.csv").write_text(f"file_name,{column}\n{rows}\n")
    dataset = load_dataset(tmp_path, caption_template="a photo of a {noisy}", sample=3)
    assert len(dataset.examples) == 3
    assert {example.split for example in dataset.examples} == {"train"}
    assert dataset.problems.counts() == {"no caption column": 4}
    with pytest.raises(DataError, match="dirty"):
        load_dataset(tmp_path, caption_template="a photo of a {dirty}")
