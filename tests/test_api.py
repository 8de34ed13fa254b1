"""`import traklens`: light, complete, and its answers are those of the engine, drawn without a script."""

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import traklens
from tests.conftest import HOSTILE, own_port
from traklens.engine.attribution.scores import rank, stored_target
from traklens.engine.label_errors.suspects import find_suspects
from traklens.engine.removal.simulation import prediction_of
from traklens.stores.errors import StoreError, UsageError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tiny_store):
    return traklens.open(tiny_store)


def test_importing_it_imports_nothing_that_takes_time(tiny_store):
    code = (
        "import sys, traklens\n"
        "assert not {'torch', 'numpy', 'faiss', 'zarr', 'streamlit', 'pandas'} & set(sys.modules)\n"
        "store = traklens.open(sys.argv[1])\n"
        "seen = store.attribute(id=sys.argv[2])\n"
        "store.remove(seen.proponents[:2]).effect_on(seen); seen._repr_html_(); store.suspects(3, progress=False)\n"
        "assert not {'torch', 'streamlit'} & set(sys.modules)\n"
    )
    id = traklens.open(tiny_store)._store.examples.id[0]
    subprocess.run([sys.executable, "-c", code, str(tiny_store), str(id)], check=True, timeout=120)


def test_the_documented_names_are_the_exported_ones():
    assert sorted(traklens.__all__) == traklens.__all__
    assert all(getattr(traklens, name) is not None for name in traklens.__all__)
    documented = re.findall(r"^## `(?:class )?traklens\.(\w+)", (ROOT / "docs/python.md").read_text(), re.MULTILINE)
    assert sorted(documented) == traklens.__all__
    shown = re.findall(r"traklens\.(\w+)\(", (ROOT / "README.md").read_text())
    assert shown
    assert set(shown) <= set(traklens.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        traklens.nothing  # noqa: B018
    assert (ROOT / "traklens/py.typed").is_file()


def test_an_attribution_is_the_engines_ranking(store):
    inner = store._store
    id = str(inner.examples.id[inner.n - 1])
    seen, target = store.attribute(id=id), stored_target(inner, id)
    expected = rank(inner, target, top=inner.n_train)
    assert [pair.row for pair in seen.proponents] == [pair.row for pair in expected.proponents]
    assert [pair.row for pair in seen.opponents] == [pair.row for pair in expected.opponents]
    assert seen.proponents[0] == expected.proponents[0]
    assert seen.proponents[1:3].ids == [pair.id for pair in expected.proponents[1:3]]
    table = seen.to_pandas()
    assert list(table.columns) == ["id", "score", "caption", "image", "split"]
    assert len(table) == inner.n_train
    assert table["score"].is_monotonic_decreasing
    assert seen.f == target.f
    assert str(target.words) in repr(seen)


def test_a_removal_is_predicted_as_on_the_page(store):
    inner = store._store
    seen = store.attribute(id=str(inner.examples.id[inner.n - 1]))
    chosen = seen.proponents[:3]
    expected = prediction_of(inner, seen.target, chosen.rows)
    for given in (chosen, list(chosen), chosen.ids):
        assert store.remove(given).effect_on(seen) == expected
    with pytest.raises(UsageError, match="none"):
        store.remove([])
    with pytest.raises(StoreError, match="no such id"):
        store.remove(["nobody"])


def test_a_removal_is_measured_by_retraining(own_store):
    store = traklens.open(own_store)
    seen = store.attribute(id=str(store._store.examples.id[-1]))
    found = store.remove([str(id) for id in store._store.examples.id[:2]]).measure(seen, seeds=1, progress=False)
    assert len(found.changes) == 1
    with pytest.raises(UsageError, match="seeds: found 0"):
        store.remove([str(store._store.examples.id[0])]).measure(seen, seeds=0)


def test_a_group_is_the_mean_of_its_members(store):
    inner = store._store
    ids = [str(id) for id in inner.examples.id[[3, 70, 75]]]
    group, alone = store.attribute(group=ids), [store.attribute(id=id) for id in ids]
    assert group.f == pytest.approx(np.mean([one.f for one in alone]))
    scale = np.abs(np.stack([one.scores for one in alone])).max()
    np.testing.assert_allclose(group.scores, np.mean([one.scores for one in alone], axis=0), atol=1e-5 * scale)
    assert "the mean of 3 pairs" in group._repr_html_()


def test_questions_about_new_images_and_captions(store, tiny_demo):
    inner = store._store
    image = tiny_demo / "data" / str(inner.examples.image[2])
    asked = store.attribute(image=image, caption="a red square", contrast="a blue one")
    assert store.attribute(image=image.read_bytes(), caption="a red square", contrast="a blue one").f == asked.f
    assert asked.picture is not None
    other = store.attribute(id=str(inner.examples.id[2]), caption="a red square", contrast="a blue one")
    assert other.f == pytest.approx(asked.f, abs=1e-3)
    words = store.attribute(id=str(inner.examples.id[2]), caption="a red square")
    assert words.picture == inner.thumbnail(2, "large")


@pytest.mark.parametrize("given", [{}, {"id": "a", "group": ["b"]}, {"group": []}, {"group": ["a"], "caption": "b"}])
def test_what_is_no_target_is_refused(store, given):
    with pytest.raises(UsageError):
        store.attribute(**given)


def test_suspects_are_those_of_the_hunt(own_store):
    store = traklens.open(own_store)
    found, suspects = find_suspects(store._store), store.suspects(5, progress=False)
    assert suspects.rows.tolist() == found.order[:5].tolist()
    assert {"id", "caption", *found.signals} <= set(suspects.to_pandas().columns)
    assert suspects.expected_wrong == found.expected_wrong


def test_a_notebook_shows_pictures_and_runs_nobodys_caption(hostile_store):
    store = traklens.open(hostile_store)
    for id in store._store.examples.id[: len(HOSTILE)]:
        seen = store.attribute(id=str(id))
        for html in (seen._repr_html_(), seen.proponents._repr_html_()):
            assert "<script" not in html
            assert "<img src=x" not in html
            assert "data:image/webp;base64," in html
            assert all(rule.startswith(".traklens") for rule in re.findall(r"^[.\w:]\S*(?= .*{)", html, re.MULTILINE))


def test_a_store_is_built_and_opened_in_one_call(tiny_demo, tmp_path):
    run = traklens.train(
        tiny_demo / "data", out=tmp_path / "run", checkpoints=1, epochs=1, batch_size=16, progress=False
    )
    store = traklens.build(tiny_demo / "data", run=run, out=tmp_path / "store", dim=32, references=8, progress=False)
    assert "1 checkpoints" in repr(store) or "1 checkpoint" in repr(store)
    with pytest.raises(UsageError, match="exactly one"):
        traklens.build(tiny_demo / "data", out=tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_an_evaluation_is_in_words_and_in_numbers(own_store):
    found = traklens.open(own_store).evaluate(subsets=4, targets=4, methods=("trak", "random"), progress=False)
    assert set(found.lds) == {"trak", "random"}
    assert "rank correlation" in repr(found)


def test_the_application_opens_and_ends(tiny_store):
    port = own_port(8940)
    process = traklens.open(tiny_store).app(port=port, browser=False)
    try:
        for _ in range(300):
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("it never answered")
    finally:
        process.terminate()
        process.wait(timeout=30)
