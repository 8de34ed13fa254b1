"""A store that is damaged, truncated, half-written, foreign or newer gives one clear line; a whole one opens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from traklens.engine.attribution.scores import rank, stored_target
from traklens.stores.checksums import digest
from traklens.stores.errors import StoreError
from traklens.stores.examples import ExampleRow, ExampleTable, write_examples
from traklens.stores.layout import SCHEMA
from traklens.stores.specs import CLIP
from traklens.stores.store import open_store
from traklens.stores.verified import VerifiedFiles

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def copy(tiny_store, tmp_path) -> Path:
    shutil.copytree(tiny_store, tmp_path / "store")
    return tmp_path / "store"


def _edit_manifest(store: Path, **values) -> None:
    found = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps(found | values))


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        open_store(tmp_path / "nowhere")


def test_a_folder_without_manifest_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"without manifest\.json"):
        open_store(tmp_path)


def test_a_build_under_way_says_how_to_go_on(copy):
    copy.rename(copy.with_name("store.building"))
    with pytest.raises(StoreError, match=r"not finished.*Run the same"):
        open_store(copy)


def test_a_foreign_manifest_is_refused(copy):
    _edit_manifest(copy, magic="other")
    with pytest.raises(StoreError, match="something else"):
        open_store(copy)


def test_a_newer_store_names_its_writer(copy):
    _edit_manifest(copy, schema=SCHEMA + 1, libraries={"traklens": "9.9"})
    with pytest.raises(StoreError, match=rf"schema {SCHEMA + 1}, written by traklens 9\.9.*Update"):
        open_store(copy)


def test_a_damaged_manifest_is_one_line(copy):
    (copy / "manifest.json").write_text('{"magic": ')
    with pytest.raises(StoreError, match="damaged JSON") as error:
        open_store(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["projection", "n_train"])
def test_a_manifest_that_lacks_a_field_names_it(copy, field):
    found = json.loads((copy / "manifest.json").read_text())
    del found[field]
    (copy / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(StoreError, match=field):
        open_store(copy)


@pytest.mark.parametrize("name", ["influence.faiss", "similarity.faiss", "examples.parquet", "thumbnails/small.bin"])
def test_a_truncated_file_is_named_when_opening(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-3])
    with pytest.raises(StoreError, match=rf"{name}.*found {len(content) - 3} bytes"):
        open_store(copy)


@pytest.mark.parametrize("name", ["influence.faiss", "influence.json", "examples.parquet"])
def test_a_missing_file_is_named_when_opening(copy, name):
    (copy / name).unlink()
    with pytest.raises(StoreError, match=rf"{name}.*found no file"):
        open_store(copy)


def test_verify_finds_changed_bytes_that_keep_the_size(copy):
    assert open_store(copy).verify() == []
    chunk = next(path for path in (copy / "features.zarr/checkpoint_0/phi").rglob("0") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(bytes(content))
    (copy / "stray.txt").write_text("?")
    problems = open_store(copy).verify()
    assert len(problems) == 2
    assert any("phi" in line for line in problems)
    assert any("stray.txt: not part" in line for line in problems)


def test_reviews_are_no_part_of_the_checksums(copy):
    (copy / "reviews.sqlite").write_bytes(b"decisions")
    assert open_store(copy).verify() == []


def test_one_row_read_alone_equals_the_array(tiny_store):
    store = open_store(tiny_store)
    for name in ("phi", "f", "p", "image_embedding"):
        whole = np.asarray(store.array(1, name)[:])
        for row in (0, 17, store.n - 1):
            np.testing.assert_array_equal(store.row(1, name, row), whole[row])


def test_rows_and_ids_outside_the_store_are_refused(tiny_store):
    store = open_store(tiny_store)
    with pytest.raises(StoreError, match="row 80"):
        stored_target(store, 80)
    with pytest.raises(StoreError, match="'nobody'"):
        stored_target(store, "nobody")
    with pytest.raises(StoreError, match="row -1"):
        store.thumbnail(-1)


def test_nothing_in_a_store_is_a_pickle(tiny_store):
    for path in tiny_store.rglob("*"):
        if path.is_file():
            assert path.suffix in {"", ".json", ".parquet", ".bin", ".npy", ".npz", ".faiss", ".sha256"}, path
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    assert all(arrays[name] is not None for name in arrays.files), path
            assert not path.read_bytes()[:2].startswith(b"\x80\x04"), path


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_golden_store_still_answers_as_when_it_was_written(tmp_path, schema):
    shutil.unpack_archive(GOLDEN / f"store_v{schema}.zip", tmp_path)
    expected = json.loads((GOLDEN / f"store_v{schema}.json").read_text())
    store = open_store(tmp_path / "store")
    assert store.verify() == []
    found = rank(store, stored_target(store, expected["id"]), top=3)
    assert [pair.id for pair in found.proponents] == [pair["id"] for pair in expected["proponents"]]
    assert [pair.id for pair in found.opponents] == [pair["id"] for pair in expected["opponents"]]
    for pair, score in zip((*found.proponents, *found.opponents), expected["scores"], strict=True):
        assert pair.score == pytest.approx(score, rel=1e-4)
    assert store.examples.words[0] == expected["first_caption"]
    assert len(store.thumbnail(0)) == expected["thumbnail_bytes"]


def test_an_index_in_parts_of_a_later_version_is_refused_and_not_half_read(copy):
    facts = json.loads((copy / "checksums.json").read_text())
    (copy / "influence.00001.faiss").write_bytes(b"more")
    facts["influence.00001.faiss"] = {"bytes": 4, "sha256": digest(copy / "influence.00001.faiss")}
    (copy / "checksums.json").write_text(json.dumps(facts))
    (copy / "checksums.sha256").unlink()
    with pytest.raises(StoreError, match=r"several parts \(influence\.00001\.faiss\)"):
        open_store(copy)


def test_a_table_of_several_parts_reads_as_one(tmp_path):
    rows = [
        ExampleRow(
            f"{row:016x}",
            f"{row // 2:016x}",
            {"image": f"{row}.png", "caption": f"c {row}"},
            "train",
            {"n": str(row)},
        )
        for row in range(23)
    ]
    for per_part in (5, 100):
        store = tmp_path / str(per_part)
        store.mkdir()
        write_examples(store, CLIP, rows, per_part=per_part)
        names = sorted(path.name for path in store.iterdir())
        assert len(names) == -(-len(rows) // per_part)
        verified = VerifiedFiles(store)
        verified.__dict__["facts"] = {
            name: {"bytes": (store / name).stat().st_size, "sha256": digest(store / name)} for name in names
        }
        table = ExampleTable(store, CLIP, verified)
        assert [table.example(row) for row in range(len(table))] == rows
