"""Image classifiers: labels from every form, models by name and by file, and a page on which a confusion is asked about."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner
from written import write_classifier

from traklens.app.caches import STORE_VARIABLE
from traklens.engine.attribution.scores import rival_of, stored_target
from traklens.engine.cli.main import app
from traklens.engine.data import load_dataset, open_stored
from traklens.engine.explore.confusion import confusion_of
from traklens.engine.gradients import per_sample_gradients, reference_gradients
from traklens.engine.label_errors.suggestion import suggestions
from traklens.engine.label_errors.suspects import find_suspects
from traklens.engine.models.classifiers import build_classifier, classifier_spec, load_classifier
from traklens.engine.tasks.contract import ModelOutput
from traklens.engine.tasks.image_classifier import ImageClassifierTask
from traklens.stores.errors import DataError, ModelError, UsageError
from traklens.stores.specs import ModelOutputSpec

TASK = ImageClassifierTask()


def _load(path: Path, **options):
    return load_dataset(path, fields=TASK.fields, **options)


def _picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(path)


def _labels(dataset) -> list[str]:
    return [str(example.fields["label"]) for example in dataset.examples]


def test_class_folders_are_labels_in_torchvisions_order_and_splits_are_kept(tmp_path):
    for number, name in enumerate(["train/b_2/1.png", "train/B 1/2.png", "train/a/3.png", "val/a/4.png"]):
        _picture(tmp_path / name, number)
    found = _load(tmp_path)
    assert found.account.classes == tuple(sorted(["b_2", "B 1", "a"]))
    assert [e.split for e in found.examples] == ["train", "train", "train", "heldout"]
    assert set(_labels(found)) == {"b_2", "B 1", "a"}


def test_imagenets_folders_get_their_words_and_equal_words_are_told_apart(tmp_path):
    for number, folder in enumerate(["n01440764", "n02012849", "n03126707"]):
        _picture(tmp_path / "train" / folder / f"{number}.JPEG", number)
    names = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane, machine\n"
    (tmp_path / "LOC_synset_mapping.txt").write_text(names)
    assert _load(tmp_path).account.classes == ("tench", "crane (n02012849)", "crane (n03126707)")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_column_of_labels_in_every_kind_of_list(tmp_path, form):
    for number in range(3):
        _picture(tmp_path / f"{number}.png", number)
    rows = [{"file_name": f"{n}.png", "label": n * 5, "clean_label": "ab"[n % 2]} for n in range(3)]
    if form == "csv":
        text = "file_name,label,clean_label\n" + "".join(
            f"{r['file_name']},{r['label']},{r['clean_label']}\n" for r in rows
        )
        (tmp_path / "metadata.csv").write_text(text)
    elif form == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    found = _load(tmp_path)
    assert _labels(found) == ["0", "5", "10"]
    assert found.account.classes == ("0", "5", "10")  # whole numbers by size
    assert found.examples[0].attributes["clean_label"] == "a"
    assert _labels(_load(tmp_path, label_column="clean_label")) == ["a", "b", "a"]
    with pytest.raises(DataError, match=r"nothing.*--label-column"):
        _load(tmp_path, label_column="nothing")


def test_hugging_faces_numbered_labels_get_their_names_and_order(tmp_path):
    pictures = []
    for number in range(3):
        _picture(tmp_path / f"{number}.png", number)
        pictures.append({"bytes": (tmp_path / f"{number}.png").read_bytes(), "path": None})
    table = pa.table({"image": pictures, "label": [1, 0, -1]})
    features = {"image": {"_type": "Image"}, "label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "hf").mkdir()
    pq.write_table(table, tmp_path / "hf" / "train-00000-of-00001.parquet")
    found = _load(tmp_path / "hf")
    assert _labels(found) == ["ant", "zebra"]
    assert found.account.classes == ("zebra", "ant")
    assert found.problems.counts() == {"no label": 1}


def test_a_label_that_is_missing_or_none_is_listed(tmp_path):
    for number in range(4):
        _picture(tmp_path / f"{number}.png", number)
    labels = ["a", None, "", ["x"]]
    lines = [json.dumps({"file_name": f"{n}.png", "label": label}) for n, label in enumerate(labels)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found = _load(tmp_path)
    assert _labels(found) == ["a"]
    assert found.problems.counts() == {"no label": 2, "label that is no text": 1}


def test_cifars_binary_files_as_they_unpack(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    for name, part in (("data_batch_1.bin", slice(0, 3)), ("test_batch.bin", slice(3, 4))):
        records = [bytes([n % 2]) + picture.tobytes() for n, picture in enumerate(pixels[part])]
        (tmp_path / name).write_bytes(b"".join(records))
    (tmp_path / "batches.meta.txt").write_text("airplane\ntruck\n\n")
    found = _load(tmp_path)
    assert found.spec.reader == "cifar"
    assert _labels(found) == ["airplane", "truck", "airplane", "airplane"]
    assert [e.split for e in found.examples] == ["train", "train", "train", "heldout"]
    for example, picture in zip(found.examples, pixels, strict=True):
        decoded = np.asarray(open_stored(found.root, example.fields["image"]))
        np.testing.assert_array_equal(decoded.transpose(2, 0, 1), picture)


def test_cifar_100_has_a_fine_and_a_coarse_label(tmp_path):
    pixels = np.arange(3072, dtype=np.int64).astype(np.uint8).tobytes()
    (tmp_path / "train.bin").write_bytes(b"\1\0" + pixels + b"\0\1" + pixels[::-1])
    (tmp_path / "fine_label_names.txt").write_text("apple\nfish\n")
    (tmp_path / "coarse_label_names.txt").write_text("fruit\nanimal\n")
    found = _load(tmp_path)
    assert [(e.fields["label"], e.attributes["coarse_label"]) for e in found.examples] == [
        ("apple", "animal"),
        ("fish", "fruit"),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_mnists_idx_files_as_they_unpack(tmp_path, packed):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6), dtype=np.uint8)
    for name, values in (
        ("train-images-idx3-ubyte", pixels),
        ("train-labels-idx1-ubyte", np.arange(5, dtype=np.uint8)),
    ):
        content = (
            struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
        )
        file = tmp_path / (f"{name}.gz" if packed else name)
        file.write_bytes(gzip.compress(content) if packed else content)
    found = _load(tmp_path)
    assert (found.spec.reader, _labels(found)) == ("mnist", ["0", "1", "2", "3", "4"])
    assert found.account.classes == tuple("0123456789")
    np.testing.assert_array_equal(
        np.asarray(open_stored(found.root, found.examples[3].fields["image"]))[..., 0], pixels[3]
    )


OWN_MODEL = (
    "from torch import nn\ndef net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
)


@pytest.mark.parametrize("name", ["resnet9", "resnet18", "torchvision:resnet18", "timm:resnet10t", "net.py:net"])
def test_hooks_give_autograds_gradients_of_every_family(tmp_path, monkeypatch, name):
    """Convolution, batch norm in evaluation mode, pooling, residuals: as autograd, whatever the architecture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(OWN_MODEL)
    spec = classifier_spec(name, ["a", "b", "c"], size=32)
    model = build_classifier(spec, seed=1)
    with torch.no_grad():  # batch norm that has seen something
        model.train()(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    model.eval()
    task = ImageClassifierTask(spec, ModelOutputSpec())
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    batch = {"pixels": pixels, "label": torch.tensor([0, 1, 2])}
    embedded = task.embed(model, batch)["image_embedding"]
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3), rtol=1e-4, atol=1e-4)
    model.double()  # a ReLU at its kink would turn the last bits of a float32 sum into another gradient
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    names = [f"model.{parameter}" for parameter, _ in model.named_parameters()]
    module = ModelOutput(task, model, tuple(batch), ()).eval()
    expected = reference_gradients(module, tuple(batch.values()), names)
    found = {key: torch.zeros_like(values) for key, values in expected.items()}

    def sink(key, gradients, rows):
        found[key][rows] += gradients

    for strategy in ("hooks", "vmap"):
        for values in found.values():
            values.zero_()
        per_sample_gradients(module, tuple(batch.values()), sink, strategy=strategy, names=names)
        for key, values in expected.items():
            scale = max(1e-6, float(values.abs().max()))
            torch.testing.assert_close(found[key], values, rtol=1e-6, atol=1e-8 * scale, msg=f"{strategy} {key}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_local_weights_load_whole_or_are_refused(tmp_path, suffix):
    spec = classifier_spec("resnet9", ["a", "b"])
    weights = {name: tensor.contiguous() for name, tensor in build_classifier(spec, seed=3).state_dict().items()}
    file = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, file)
    else:
        save_file(weights, file)
    loaded = load_classifier(spec, file).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    with pytest.raises(ModelError, match="of another shape"):
        load_classifier(classifier_spec("resnet9", ["a", "b", "c"]), file)
    with pytest.raises(ModelError, match="no architecture"):
        classifier_spec("resnet9000", ["a", "b"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("classifier") / "store")


def test_the_confusion_table_counts_and_lists_the_surest_first(written):
    found = confusion_of(written, "heldout")
    assert found.table().sum() == written.n_heldout
    assert found.accuracy == pytest.approx(np.trace(found.table()) / written.n_heldout)
    label, taken, count = found.most_frequent(1)[0]
    rows = found.cell(label, taken)
    assert rows.size == count == found.table()[label, taken]
    sure = [stored_target(written, int(row)).guess.p for row in rows]  # type: ignore[union-attr]
    assert sure == sorted(sure, reverse=True)
    for row in rows:
        target = stored_target(written, int(row))
        assert (target.words, target.guess.predicted) == (found.classes[label], found.classes[taken])  # type: ignore[union-attr]
        assert rival_of(written, target) == found.classes[taken]
        assert suggestions(written, int(row), find_suspects(written))[0] == found.classes[taken]


def test_the_page_lists_a_confusion_and_the_examples_behind_it(written, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, str(written.path))
    found = confusion_of(written, "heldout")
    label, taken, count = found.most_frequent(1)[0]
    script = "from traklens.app.views import confusion\nfrom traklens.app.caches import current_store\n"
    at = AppTest.from_string(script + "confusion.show(current_store())\n", default_timeout=60).run()
    listed = at.button(key=f"confused-{label}-{taken}")
    assert listed.label == f"{found.classes[label]} taken for {found.classes[taken]}: {count}"
    at = listed.click().run()
    assert not at.exception
    why = {button.key for button in at.button if str(button.key).startswith("why-")}
    assert why == {
        f"why-{row}" for row in found.cell(label, taken)
    }  # the click itself: tests/test_browser_classifier.py


def test_the_command_line_says_labels_and_what_was_predicted(written):
    id = str(written.examples.id[0])
    done = CliRunner().invoke(app, ["query", str(written.path), "--id", id, "--top", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["target"]["predicted"]) == {"label", "p"}
    assert found["target"]["label"] == written.examples.words[0]
    assert set(found["proponents"][0]) == {"id", "score", "label", "image"}
    with pytest.raises(UsageError, match="one of them"):
        CliRunner().invoke(app, ["query", str(written.path), "--image", "x", "--label", "a", "--caption", "b"],
                           catch_exceptions=False)  # fmt: skip
