"""Finding and collecting pairs: filters, sort orders, the story of a pair, the map, the tray."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from tests.conftest import html_of
from tests.written import write_store
from traklens.app import caches
from traklens.app.caches import STORE_VARIABLE
from traklens.app.parts.keys import EVERYWHERE, EXPLORE, HUNT
from traklens.engine.attribution.scores import rank, rival_of, stored_target
from traklens.engine.explore.filters import attributes_of, decided, having, order_values
from traklens.engine.explore.highlights import story, trust
from traklens.engine.explore.search import find_pairs
from traklens.engine.features.embedding_map import flattened, map_of, paint
from traklens.stores.layout import CHECKSUMS, MAP, SEAL
from traklens.stores.reviews import Reviews
from traklens.stores.store import open_store


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_store(tiny_store)


@pytest.fixture
def at(shown_store):
    return AppTest.from_file(str(Path(caches.__file__).with_name("main.py")), default_timeout=60)


def _parameter(at: AppTest, name: str) -> str:
    found = at.query_params[name]
    return found if isinstance(found, str) else found[0]


def test_pairs_are_filtered_by_what_the_data_set_records(store):
    names = attributes_of(store)
    assert "colour" in names
    value = names["colour"][0]
    mask = having(store, "colour", value)
    assert mask.tolist() == [store.examples.attributes(row)["colour"] == value for row in range(store.n)]
    found = find_pairs(store, split="train", where=mask, per_page=store.n)
    assert list(found.rows) == [row for row in range(store.n_train) if mask[row]]


def test_pairs_are_filtered_by_review(store):
    ids = [str(store.examples.id[row]) for row in (2, 5)]
    assert decided(store, ids, "any") is None
    among, rest = decided(store, ids, "reviewed"), decided(store, ids, "not reviewed")
    assert among is not None
    assert rest is not None
    assert np.flatnonzero(among).tolist() == [2, 5]
    assert (among ^ rest).all()


def test_sorting_by_match_and_by_influence_is_in_order(store):
    f = np.mean([np.asarray(store.array(m, "f")[:]) for m in range(store.n_checkpoints)], axis=0)
    worst = find_pairs(store, by=order_values(store, "worst"), per_page=store.n).rows
    assert (np.diff(f[list(worst)]) >= 0).all()
    target = stored_target(store, store.n - 1)
    found = find_pairs(store, by=order_values(store, "proponents", target.influence_query), per_page=5).rows
    assert list(found) == [pair.row for pair in rank(store, target, top=5).proponents]
    against = find_pairs(store, by=order_values(store, "opponents", target.influence_query), per_page=5).rows
    assert list(against) == [pair.row for pair in rank(store, target, top=5).opponents]
    last = find_pairs(store, by=order_values(store, "opponents", target.influence_query), per_page=store.n).rows
    assert all(row >= store.n_train for row in last[store.n_train :])


def test_the_story_counts_what_the_rankings_hold(store):
    for row in (*range(5), *range(store.n_train, store.n)):
        target = stored_target(store, row)
        trak, clip = rank(store, target, top=5), rank(store, target, top=5, method="clip")
        shared = len({p.row for p in trak.proponents} & {p.row for p in clip.proponents} - {row})
        others = sum(p.row != row for p in trak.proponents)
        same = sum(store.examples.words[i] == target.words for i in range(store.n_train) if i != row)
        first, second = story(store, target, trak, clip)
        assert second.startswith(f"{shared} of the {others} top proponents")
        assert (first.startswith("No ")) == (same == 0)
        assert (f"training pairs of {store.n_train} have" in first) == (same > 1)
        assert ("other training pair" in first) == (row < store.n_train)


def test_without_an_evaluation_the_story_says_so(store):
    assert "not been evaluated" in trust(store)


def test_the_map_is_made_by_the_build_and_shows_the_main_components(tmp_path):
    store = write_store(tmp_path / "store")  # whose axes are told apart by their spread
    kept = np.load(store.path / MAP, allow_pickle=False)
    np.testing.assert_array_equal(kept, map_of(store))
    np.testing.assert_allclose(
        kept, flattened(store, store.task, store.n_checkpoints, store.n_train, store.n), atol=1e-5
    )
    images = np.concatenate(
        [np.asarray(store.array(m, "image_embedding")[:], dtype=np.float64) for m in range(store.n_checkpoints)],
        axis=1,
    )
    centred = images - images[: store.n_train].mean(axis=0)
    _, _, axes = np.linalg.svd(centred[: store.n_train], full_matrices=False)
    expected = centred @ axes[:2].T
    np.testing.assert_allclose(np.abs(kept[:, :2]), np.abs(expected), atol=1e-3)


def test_a_store_built_without_a_map_still_has_one(tmp_path):
    store = write_store(tmp_path / "store")
    old = shutil.copytree(store.path, tmp_path / "old")
    (old / MAP).unlink()
    checksums = json.loads((old / CHECKSUMS).read_text(encoding="utf-8"))
    del checksums[MAP]
    (old / CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")
    (old / SEAL).unlink()  # stores of that time had none
    np.testing.assert_allclose(map_of(open_store(old)), map_of(store), atol=1e-5)


def test_points_are_drawn_with_the_strongest_last(store):
    values = np.linspace(-3, 1, store.n_train)
    found = paint(store, map_of(store), 1, values, store.n - 1)
    assert (np.diff(np.abs(found.values)) >= 0).all()
    np.testing.assert_allclose(found.xy, map_of(store)[found.rows, 2:])
    assert found.target == pytest.approx(tuple(map_of(store)[store.n - 1, 2:]))


def test_the_page_lists_what_the_filters_leave(at, store):
    at.run()
    at.session_state["filter-name"] = "colour"
    at.run()
    value = attributes_of(store)["colour"][0]
    expected = int(having(store, "colour", value).sum())
    assert f"{expected:,} pairs" in html_of(at)
    at.selectbox(key="filter-reviewed").set_value("reviewed").run()
    assert "No pair has all this" in html_of(at)


def test_picked_pairs_wait_in_the_tray_of_every_page(at, store):
    ids = [str(store.examples.id[row]) for row in (4, 9)]
    at.query_params["pick"] = ",".join([*ids, "nobody"])
    at.run()
    assert "2 pairs picked" in html_of(at)
    at.button(key="tray-empty").click().run()
    assert "pick" not in at.query_params
    assert "picked</b>" not in html_of(at)


def test_the_tray_leads_to_a_removal_and_to_a_review(at, store):
    ids = [str(store.examples.id[row]) for row in (4, 9)]
    at.query_params["pick"] = ",".join(ids)
    at.run()
    at.button(key="tray-remove").click().run()
    assert "Without 2 training pairs" in html_of(at)
    at.button(key="tray-hunt").click().run()
    assert "suspect 1 of 2" in html_of(at)
    at.button(key="decide-keep").click().run()
    assert set(Reviews(Path(os.environ[STORE_VARIABLE])).current()) < set(ids)
    assert "suspect 2 of 2" in html_of(at)


def test_the_rival_is_the_other_caption_the_models_match_best(tmp_path):
    store = write_store(tmp_path / "store", captions=[f"caption {row % 9}" for row in range(72)])
    for row in (0, store.n - 1):
        target = stored_target(store, row)
        matches = np.mean(
            [
                np.asarray(store.array(m, "text_embedding")[: store.n_train]) @ store.row(m, "image_embedding", row)
                for m in range(store.n_checkpoints)
            ],
            axis=0,
        )
        captions = store.examples.words[: store.n_train]
        others = [i for i in range(store.n_train) if captions[i] != target.words]
        rival = max(matches[i] for i in others if captions[i] == rival_of(store, target))
        assert rival == pytest.approx(max(matches[others]), abs=1e-3)  # the index keeps float16


def test_asking_why_not_the_rival_makes_it_the_contrast(at, store):
    at.run()
    target = stored_target(store, store.examples.row_of(_parameter(at, "id")))
    at.button(key="rival-contrast").click().run()
    assert _parameter(at, "contrast") == rival_of(store, target)
    assert "rather than" in html_of(at)


@pytest.mark.parametrize(("page", "keys"), [(None, EXPLORE), ("hunt", HUNT)])
def test_the_legend_names_the_shortcuts_that_the_buttons_have(at, store, page, keys):
    at.query_params["pick"] = str(store.examples.id[4])
    at.run()
    if page == "hunt":
        at.button(key="tray-hunt").click().run()
    shortcuts = {button.proto.shortcut for button in at.button if button.proto.shortcut}
    assert shortcuts == {key for key in {**EVERYWHERE, **keys} if len(key) == 1 and key.isalnum()}
