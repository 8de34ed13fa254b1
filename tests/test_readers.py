"""Every form people have is read as written; what is of no form is refused by name, and captions are never invented."""

import csv
import json
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests import forms
from tests.forms import EXPECTED, FORMS, picture, put
from traklens.engine.data import load_dataset, open_stored
from traklens.stores.errors import DataError, TrakLensError, UsageError


def captions(path: Path, **options) -> list[str]:
    dataset = load_dataset(path, **options)
    for example in dataset.examples:
        assert open_stored(dataset.root, example.fields["image"]).size == (6, 6)
    return sorted(example.fields["caption"] for example in dataset.examples)


@pytest.mark.parametrize("make", FORMS, ids=[form.__name__ for form in FORMS])
def test_a_form_is_read_as_written(tmp_path, make):
    make(tmp_path / "set")
    assert captions(tmp_path / "set") == EXPECTED


def test_what_was_read_is_said_with_examples_and_with_what_was_not(tmp_path):
    put(tmp_path, "a.png", "b.png", ".ipynb_checkpoints/a-checkpoint.png")
    (tmp_path / "list.tsv").write_text("filepath\ttitle\na.png\tone\nb.png\ttwo\nc.png\tthree\n")
    (tmp_path / "other.json").write_text("{}")
    account = load_dataset(tmp_path).account
    assert (account.reader, account.lists, account.pairs, account.images) == ("open_clip_csv", ("list.tsv",), 2, 2)
    assert account.passed_over == ("other.json", ".ipynb_checkpoints (hidden)")
    assert account.samples == (("a.png", "one"), ("b.png", "two"))
    assert account.left_out == {"missing image": 1}


@pytest.mark.parametrize("name", ["list.csv", "notes.json", "captions.jsonl", "shard.tar.txt", "things.parquet"])
def test_folders_are_no_classes_where_something_may_be_a_list(tmp_path, name):
    put(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / name).write_text('"something" of no form known\n1,2,3\n')
    with pytest.raises(DataError, match="class_folders") as error:
        load_dataset(tmp_path)
    assert name in str(error.value)
    assert captions(tmp_path, reader="class_folders") == ["a photo of a images"] * 2


def test_class_folders_in_depth_and_in_splits(tmp_path):
    put(tmp_path / "deep", "cup/1.png", "animals/ant/2.png", "animals/bee/3.jfif", ".ipynb_checkpoints/1.png")
    (tmp_path / "deep/README.txt").write_text("made by hand")
    assert captions(tmp_path / "deep") == ["a photo of a ant", "a photo of a bee", "a photo of a cup"]
    put(tmp_path / "split", "train/ant/1.png", "train/bee/2.png", "val/ant/3.png")
    found = load_dataset(tmp_path / "split").examples
    assert [(e.fields["caption"][-3:], e.split) for e in found] == [
        ("ant", "train"),
        ("bee", "train"),
        ("ant", "heldout"),
    ]


def test_addresses_without_files_are_named_as_such(tmp_path):
    put(tmp_path, "images/x.png")
    (tmp_path / "Train.tsv").write_text("a cat\thttp://example.org/cat.jpg\na dog\thttp://example.org/dog.jpg\n")
    with pytest.raises(DataError, match=r"Train\.tsv.*img2dataset"):
        load_dataset(tmp_path)


def _rows(tmp_path: Path, lines: list[str], name: str = "list.csv") -> tuple[list[str], dict[str, int]]:
    put(tmp_path, "a.png", "b.png", "c.png", "d, e.png")
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    dataset = load_dataset(tmp_path)
    return [example.fields["caption"] for example in dataset.examples], dataset.problems.counts()


def test_a_row_is_whole_or_listed_never_mangled(tmp_path):
    lines = [
        "filepath,title",
        'a.png,"an open mark',
        "b.png,a cat, a dog",
        '"d, e.png","a ""quoted"" word"',
        "c.png,fine",
    ]
    found, left_out = _rows(tmp_path, lines)
    assert found == ['"an open mark', 'a "quoted" word', "fine"]
    assert left_out == {"row of another length": 1}


def test_a_quoted_field_may_go_over_several_lines(tmp_path):
    found, left_out = _rows(tmp_path, ["filepath,title", 'a.png,"first line', 'and second"', "b.png,next"])
    assert found == ["first line\nand second", "next"]
    assert left_out == {}


def test_captions_that_are_no_text_are_listed_and_lists_are_several(tmp_path):
    values = [1987, True, None, float("nan"), {"en": "a cat"}, ["one", "two"], [], [1, 2], "right"]
    put(tmp_path, *(f"{i}.png" for i in range(len(values))))
    lines = [json.dumps({"file_name": f"{i}.png", "text": value, "n": i}) for i, value in enumerate(values)]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines, "{broken", "[1]"]))
    dataset = load_dataset(tmp_path)
    assert [example.fields["caption"] for example in dataset.examples] == ["one", "two", "right"]
    assert sum(dataset.problems.counts().values()) == 9
    assert {p.item for p in dataset.problems.problems} >= {
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "4.png",
        "6.png",
        "7.png",
    }


def test_text_beside_the_captions_can_always_be_stored(tmp_path):
    put(tmp_path, "a.png")
    row = '{"file_name": "a.png", "text": "fine", "note": "cut \\ud83d", "zero": "a\\u0000b", "n": 3, "none": null}'
    (tmp_path / "metadata.jsonl").write_text(row)
    attributes = load_dataset(tmp_path).examples[0].attributes
    assert dict(attributes) == {"note": "cut \ufffd", "zero": "a\ufffdb", "n": "3", "none": ""}


def test_names_that_are_no_text_are_listed_before_anything_is_trained(tmp_path):
    put(tmp_path / "cups", "a.png")
    (tmp_path / "cups").joinpath(b"gr\xfcn.png".decode("utf-8", "surrogateescape")).write_bytes(picture(2))
    dataset = load_dataset(tmp_path)
    assert len(dataset.examples) == 1
    assert dataset.problems.problems[0].item == "cups/gr\\xfcn.png"


def test_only_regular_files_below_the_root_are_opened(tmp_path):
    data = put(tmp_path / "data", "a.png", "sub/b.png")
    put(tmp_path, "outside.png")
    os.mkfifo(data / "pipe.png")
    (data / "zero.png").symlink_to("/dev/zero")
    names = [
        "a.png",
        "sub/../a.png",
        "../outside.png",
        "/dev/random",
        "/dev/zero",
        "pipe.png",
        "zero.png",
        "nul\\u0000.png",
    ]
    lines = [f'{{"file_name": "{name}", "text": "picture {i}"}}' for i, name in enumerate(names)]
    (data / "metadata.jsonl").write_text("\n".join(lines))
    dataset = load_dataset(data)
    assert [example.fields["image"] for example in dataset.examples] == ["a.png", "a.png"]
    assert len(dataset.problems.problems) == 6


@pytest.mark.parametrize("template", ["{a:>1000000000}", "{a!r}", "{", "{}", "{a.__class__}", "{a[0]}", "{0}"])
def test_a_template_names_columns_and_does_nothing_else(tmp_path, template):
    put(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,a\na.png,x\n")
    with pytest.raises((UsageError, DataError)):
        load_dataset(tmp_path, caption_template=template)


def test_a_template_may_name_columns_with_dots(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,meta.kind\na.png,cup\n")
    assert captions(tmp_path, caption_template="a {meta.kind}") == ["a cup"]


def test_one_bad_annotation_does_not_condemn_coco_captions(tmp_path):
    put(tmp_path / "images", "a.jpg", "b.jpg")
    annotations = [
        {"image_id": 1, "caption": "right"},
        {"image_id": 99, "caption": "nowhere"},
        {"image_id": 2},
        {"image_id": 2, "caption": 42},
        "nothing",
        {"image_id": 3, "caption": "without a name"},
    ]
    images = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 2, "file_name": "b.jpg"},
        {"id": 3, "coco_url": "http://x"},
        "x",
    ]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    dataset = load_dataset(tmp_path)
    assert [example.fields["caption"] for example in dataset.examples] == ["right"]
    assert len(dataset.problems.problems) == 5


def test_a_long_column_costs_no_row(tmp_path):
    put(tmp_path, "a.png")
    with (tmp_path / "metadata.csv").open("w") as file:
        csv.writer(file).writerows([("file_name", "text", "ocr"), ("a.png", "short", "word " * 40_000)])
    assert captions(tmp_path) == ["short"]


def test_all_pictures_missing_names_one_and_where_it_was_looked_for(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}')
    with pytest.raises(DataError, match=r"gone\.png"):
        load_dataset(tmp_path)


INSERTED = [b'"', b"\0", b"\xff\xfe", b"\n", b",", b"[" * 50_000, b"null", b"1e999", b"\xed\xa0\x80"]
MUTATED = [
    forms.img2dataset_files,
    forms.webdataset,
    forms.parquet_bytes,
    forms.flickr8k,
    forms.flickr30k,
    forms.karpathy,
    forms.coco_by_another_name,
    forms.label_studio,
    forms.metadata_in_each_folder,
    forms.fiftyone,
    forms.utf16,
    forms.datasets_on_disk,
]


@pytest.mark.parametrize("make", MUTATED, ids=[form.__name__ for form in MUTATED])
def test_a_damaged_list_is_read_in_part_or_refused_never_a_traceback(tmp_path, make):
    make(tmp_path)
    draw = random.Random(make.__name__)
    lists = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".png", ".jpg"))
    for _ in range(45):
        file = draw.choice(lists)
        whole = file.read_bytes()
        content = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(content) + 1)
            change = draw.randrange(4)
            if change == 0 and at < len(content):
                content[at] = draw.randrange(256)
            elif change == 1:
                del content[at : at + draw.randint(1, 40)]
            elif change == 2:
                content[at:at] = draw.choice(INSERTED)
            else:
                content[at:at] = content[: draw.randint(1, 200)]
        file.write_bytes(bytes(content))
        with suppress(TrakLensError):
            for example in load_dataset(tmp_path).examples:
                assert example.fields["caption"].encode()
        file.write_bytes(whole)
