"""docs/own-task.md runs as it stands: three tasks from data to proponents on the page; mistakes are said in plain words."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

import traklens
from traklens.app.caches import STORE_VARIABLE
from traklens.engine.cli.main import app
from traklens.engine.tasks.registry import TASK_VARIABLE, task_named
from traklens.stores.errors import UsageError

PAGE = Path(__file__).resolve().parent.parent / "docs/own-task.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
IMPORTS = "from PIL import Image\n" + BLOCKS[0].split("\n\nclass")[0]
N = 40


def _data(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    split = np.array(["train"] * 32 + ["test"] * 8)
    if kind == "houses":
        x = rng.standard_normal((N, 4)).astype(np.float32)
        return {"x": x, "y": (x @ np.array([1, -2, 0.5, 0])).astype(np.float32), "split": split}
    if kind == "segments":
        image = rng.random((N, 3, 8, 8)).astype(np.float32)
        return {"image": image, "mask": (image[:, 0] > 0.5).astype(np.uint8), "split": split}
    a = rng.standard_normal((N, 6)).astype(np.float32)
    return {"a": a, "b": a + 0.1 * rng.standard_normal((N, 6)).astype(np.float32), "split": split}


def _source(kind: str) -> str:
    """The file that the page lets its reader write."""
    if kind == "houses":
        return f"{BLOCKS[0]}\n{BLOCKS[1]}"
    return f"{IMPORTS}\n\n\n{BLOCKS[2 if kind == 'segments' else 3]}"


@pytest.fixture(params=["houses", "segments", "views"])
def own(request, tmp_path, monkeypatch):
    """A folder with data, task file and weights as a reader of the page has them; the task's class; its FILE:CLASS."""
    kind = request.param
    (tmp_path / "my_task.py").write_text(_source(kind))
    np.savez(tmp_path / "data.npz", **_data(kind))  # type: ignore[arg-type]
    named = f"{tmp_path / 'my_task.py'}:{kind.capitalize()}"
    task = task_named(named)
    torch.manual_seed(0)
    torch.save(task.build_model(None, seed=0).state_dict(), tmp_path / "weights.pt")  # type: ignore[arg-type]
    monkeypatch.setenv(TASK_VARIABLE, named)
    return tmp_path, kind, named


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_from_weights_to_proponents_on_the_page(own, monkeypatch):
    folder, kind, named = own
    _run("build", folder / "data.npz", "--task", named, "--checkpoint", folder / "weights.pt", "--proj-dim", 32,
         "--store", folder / "store")  # fmt: skip
    store = traklens.open(folder / "store", task=named)
    seen = store.attribute(id=store._store.examples.id[-1])
    assert len(seen.proponents) + len(seen.opponents) > 20
    again = store.attribute(values={name: values[-1] for name, values in _data(kind).items() if name != "split"})
    assert again.f == pytest.approx(seen.f, abs=1e-4)
    assert store.remove(seen.proponents[:3]).effect_on(seen).group != 0
    monkeypatch.setenv(STORE_VARIABLE, str(folder / "store"))
    for page in ("explore", "map", "remove"):
        script = f"from traklens.app.views import {page} as view\nfrom traklens.app.caches import current_store\n"
        at = AppTest.from_string(script + "view.show(current_store())\n", default_timeout=120).run()
        assert not at.exception, (page, at.exception)
        assert page != "explore" or any("Proponents" in html.proto.body for html in at.get("html"))


def test_training_and_retraining_with_a_loss(own):
    folder, kind, named = own
    arguments = (
        "train",
        folder / "data.npz",
        "--task",
        named,
        "--out",
        folder / "run",
        "--checkpoints",
        2,
        "--epochs",
        2,
    )
    if kind == "views":  # its f needs a context, of which the default loss knows nothing
        assert CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code != 0
        return
    _run(*arguments)
    _run("build", folder / "data.npz", "--task", named, "--run", folder / "run", "--proj-dim", 32, "--store",
         folder / "store")  # fmt: skip
    store = traklens.open(folder / "store", task=named)
    seen = store.attribute(id=store._store.examples.id[-1])
    measured = store.remove(seen.proponents[:3]).measure(seen, seeds=1, progress=False)
    assert np.isfinite(measured.change)


def _edited(folder: Path, old: str, new: str) -> str:
    text = _source("houses")
    assert old in text
    file = folder / "edited.py"
    file.write_text(text.replace(old, new))
    return f"{file}:Houses"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("(model(batch[\"x\"])[:, 0] - batch[\"y\"]) ** 2)", "(model(batch[\"x\"])[:, 0] - batch[\"y\"].mean()) ** 2)",
         "depends on no other example"),
        ("return -((model(batch[\"x\"])[:, 0] - batch[\"y\"]) ** 2)", "return -((model(batch[\"x\"]) - 1) ** 2)",
         "one number per example"),
        ("return -((model(batch[\"x\"])[:, 0] - batch[\"y\"]) ** 2)", "return batch[\"x\"][:, 0] * batch[\"z\"]",
         r"KeyError: 'z' in line \d+ of edited.py: return batch"),
        ("return -((model(batch[\"x\"])[:, 0] - batch[\"y\"]) ** 2)",
         "return batch[\"x\"][:, 0] + (0 * model(batch[\"x\"])).sum(1)",
         "gradient of zero"),
    ],
    ids=["mixes the batch", "another shape", "the user's line", "no gradient"],
)  # fmt: skip
def test_a_mistake_is_said_before_anything_is_built(tmp_path, old, new, said):
    named = _edited(tmp_path, old, new)
    np.savez(tmp_path / "data.npz", **_data("houses"))  # type: ignore[arg-type]
    torch.save(task_named(named).build_model(None, seed=0).state_dict(), tmp_path / "w.pt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        traklens.build(
            tmp_path / "data.npz", out=tmp_path / "store", task=named, checkpoints=[tmp_path / "w.pt"], progress=False
        )
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "store.building").exists()


def test_a_task_in_python_needs_no_file(tmp_path):
    class Here(traklens.Task):
        name = "here"
        fields = (traklens.Field("x", "tensor"),)

        def build_model(self, spec, *, seed=0):
            return torch.nn.Linear(3, 1)

        def batch(self, examples):
            return {"x": torch.tensor(np.stack([e["x"] for e in examples]))}

        def model_output(self, model, batch, context):
            return model(batch["x"])[:, 0]

    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32))
    torch.save(Here().build_model(None).state_dict(), tmp_path / "w.pt")  # type: ignore[arg-type]
    store = traklens.build(
        tmp_path / "data.npz",
        out=tmp_path / "store",
        task=Here(),
        checkpoints=[tmp_path / "w.pt"],
        dim=8,
        progress=False,
    )
    assert len(store.attribute(values={"x": np.ones(3, dtype=np.float32)}).proponents)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "clip, image_classifier, .*causal_lm, or FILE"),
        ("gone.py:Task", "no file"),
        ("my_task.py:Nobody", "no such class.*Houses"),
        ("broken.py:Task", r"ZeroDivisionError.*line 1 of broken.py"),
    ],
)
def test_a_task_that_is_none_is_named(tmp_path, monkeypatch, name, said):
    (tmp_path / "my_task.py").write_text(_source("houses"))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        task_named(name)
    assert not [module for module in sys.modules if module == "my_task"]


@pytest.mark.parametrize("method", ["batch", "model_output", "build_model"])
def test_a_method_that_only_the_task_can_know_is_asked_for_by_name(tmp_path, method):
    named = _edited(tmp_path, f"def {method}(", f"def not_{method}(")
    np.savez(tmp_path / "data.npz", **_data("houses"))  # type: ignore[arg-type]
    weights = {
        "0.weight": torch.zeros(16, 4),
        "0.bias": torch.zeros(16),
        "2.weight": torch.zeros(1, 16),
        "2.bias": torch.zeros(1),
    }
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=rf"no {method}\("):
        traklens.build(
            tmp_path / "data.npz", out=tmp_path / "store", task=named, checkpoints=[tmp_path / "w.pt"], progress=False
        )
