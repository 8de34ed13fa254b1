"""The Hunt page without a browser: what it shows, what its buttons record, and that it imports no torch."""

import shutil
import subprocess
import sys

import pytest
from streamlit.testing.v1 import AppTest

from tests.conftest import HOSTILE, html_of
from traklens.app.caches import STORE_VARIABLE
from traklens.engine.label_errors.suspects import find_suspects
from traklens.stores.reviews import Reviews
from traklens.stores.store import Store, open_store


def _hunt() -> None:
    from traklens.app.caches import current_store
    from traklens.app.views import hunt

    hunt.show(current_store())


def _remove() -> None:
    from traklens.app.caches import current_store
    from traklens.app.views import remove

    remove.show(current_store())


@pytest.fixture
def store(shown_store) -> Store:
    return open_store(shown_store)


@pytest.fixture
def at(store) -> AppTest:
    return AppTest.from_function(_hunt, default_timeout=60).run()


def _queue(store: Store) -> list[str]:
    return [str(store.examples.id[row]) for row in find_suspects(store).order]


def _id(at: AppTest) -> str:
    found = at.query_params["id"]
    return found if isinstance(found, str) else found[0]


def test_the_most_suspect_pair_comes_first_with_its_reasons(store, at):
    page = html_of(at)
    assert _id(at) == _queue(store)[0]
    assert "Why it is suspect" in page
    assert page.count('class="tl-why"') == 6
    assert "suspect 1 of" in page
    assert "Likelier caption" in page


def test_a_decision_is_recorded_and_the_next_pair_follows(store, at):
    queue = _queue(store)
    for decision, place in (("wrong", 0), ("keep", 1), ("duplicate", 2), ("unsure", 3)):
        assert _id(at) == queue[place]
        at.button(f"decide-{decision}").click().run()
        assert Reviews(store.path).current()[queue[place]].decision == decision
    assert _id(at) == queue[4]
    assert "4 of" in at.get("progress")[0].proto.text
    assert "50% confirmed" in at.get("progress")[0].proto.text


def test_undo_goes_back_to_the_pair_it_was_about(store, at):
    queue = _queue(store)
    at.button("decide-wrong").click().run()
    at.button("decide-keep").click().run()
    at.button("hunt-undo").click().run()
    assert _id(at) == queue[1]
    assert list(Reviews(store.path).current()) == [queue[0]]
    at.button("hunt-undo").click().run()
    at.button("hunt-undo").click().run()  # nothing left to undo
    assert _id(at) == queue[0]
    assert Reviews(store.path).current() == {}


def test_undo_is_ones_own(store, at):
    queue = _queue(store)
    Reviews(store.path).decide([queue[5]], "wrong", reviewer="somebody else")
    at.text_input("reviewer").set_value("ann").run()
    at.button("decide-keep").click().run()
    at.button("hunt-undo").click().run()
    at.button("hunt-undo").click().run()
    assert list(Reviews(store.path).current()) == [queue[5]]


def test_the_likelier_caption_can_be_taken(store, at):
    queue = _queue(store)
    at.button("decide-better").click().run()
    review = Reviews(store.path).current()[queue[0]]
    assert review.decision == "wrong"
    assert review.caption in set(store.examples.words[: store.n_train])
    assert "0 pairs left out, 1 captions corrected" in html_of(at)


def test_next_and_back_move_without_deciding(store, at):
    queue = _queue(store)
    at.button("hunt-next").click().run()
    assert _id(at) == queue[1]
    at.button("hunt-back").click().run()
    at.button("hunt-back").click().run()
    last = int(at.selectbox("queue").value)  # as many as the estimate asks for: what the models learned decides
    assert _id(at) == queue[last - 1]
    assert Reviews(store.path).current() == {}


def test_a_link_opens_the_pair_it_names(store):
    queue = _queue(store)
    at = AppTest.from_function(_hunt, default_timeout=60)
    at.query_params["id"] = queue[3]
    at.run()
    assert "suspect 4 of" in html_of(at)
    at = AppTest.from_function(_hunt, default_timeout=60)
    at.query_params["id"] = "no such pair"
    at.run()
    assert "suspect 1 of" in html_of(at)


def test_the_table_decides_many_at_once(store, at):
    at.session_state["hunt-mode"] = "table"
    at.session_state["hunt-table"] = {"selection": {"rows": [0, 2], "columns": [], "cells": []}}
    at.run()
    assert not at.exception
    at.button("bulk-duplicate").click().run()
    queue = _queue(store)
    assert {id: review.decision for id, review in Reviews(store.path).current().items()} == {
        queue[0]: "duplicate",
        queue[2]: "duplicate",
    }
    at.button("bulk-undo").click().run()
    assert Reviews(store.path).current() == {}


def test_what_was_found_is_drawn_beside_cosine_and_chance(store, at):
    at.button("decide-wrong").click().run()
    at.session_state["hunt-mode"] = "found"
    at.run()
    page = html_of(at)
    assert "true_text" in page
    spec = at.get("plotly_chart")[0].proto.spec
    for name in ("confirmed by you", "this ranking", "CLIP cosine", "at random"):
        assert name in spec


def test_confirmed_pairs_can_be_removed(store):
    queue = _queue(store)
    reviews = Reviews(store.path)
    at = AppTest.from_function(_remove, default_timeout=60)
    at.query_params.update({"id": str(store.examples.id[store.n - 1]), "choice": "confirmed"})
    at.run()
    assert "No pair is confirmed" in html_of(at)
    reviews.decide(queue[:3], "wrong")
    reviews.decide([queue[3]], "wrong", caption="mended")
    at.run()
    page = html_of(at)
    assert "Without 3 training pairs" in page
    assert "predicted mean change of f" in page


def test_a_log_that_cannot_be_written_is_said_and_the_pair_stays(store, at):
    (store.path / "reviews.sqlite").write_bytes(b"this is no database, only text" * 50)
    at.run()
    assert "not a database" in at.exception[0].message


def test_hostile_captions_stay_text(hostile_store, tmp_path, monkeypatch):
    shutil.copytree(hostile_store, tmp_path / "store")
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    store = open_store(tmp_path / "store")
    at = AppTest.from_function(_hunt, default_timeout=60).run()
    for _ in range(len(HOSTILE)):
        page = html_of(at)
        assert "<script>" not in page
        assert "<img src=x" not in page
        at.button("decide-better").click().run()
    assert len(Reviews(store.path).current()) == len(HOSTILE)


def test_the_page_imports_no_torch(store):
    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        "from tests.test_app_hunt import _hunt\n"
        "at = AppTest.from_function(_hunt, default_timeout=60).run(); assert not at.exception\n"
        "assert 'traklens.app.views.hunt' in sys.modules\n"
        "sys.exit('torch' in sys.modules and 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
