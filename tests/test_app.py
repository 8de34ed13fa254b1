"""The Explore page without a browser: what it shows, what the URL means, and that captions stay text."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from tests.conftest import HOSTILE, html_of
from traklens.app import markup
from traklens.app.caches import STORE_VARIABLE
from traklens.engine.attribution.scores import Ranked, rank, score_histogram, stored_target
from traklens.engine.attribution.shades import Shade
from traklens.engine.explore.search import find_pairs, striking_pair
from traklens.stores.store import open_store

SCRIPT = Path(markup.__file__).with_name("main.py")


@pytest.fixture
def at(tiny_store, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, str(tiny_store))
    return AppTest.from_file(str(SCRIPT), default_timeout=60)


def test_the_page_shows_both_ends_of_the_ranking(at, tiny_store):
    at.run()
    assert not at.exception
    store = open_store(tiny_store)
    target = stored_target(store, striking_pair(store))
    found, shown = rank(store, target, top=10), html_of(at)
    assert "Proponents" in shown
    assert "Opponents" in shown
    for pair in (*found.proponents, *found.opponents):
        assert markup.number(pair.score) in shown
        assert f"/app/static/thumb/{pair.row}.webp" in shown


def test_a_link_opens_the_same_view(at, tiny_store):
    store = open_store(tiny_store)
    id = str(store.examples.id[7])
    at.query_params.update({"id": id, "method": "clip", "top": "5"})
    at.run()
    shown = html_of(at)
    assert "Most similar" in shown
    assert "Least similar" in shown
    assert shown.count('class="tl-row"') == 10
    assert "/app/static/large/7.webp" in shown
    assert at.query_params["id"] == id


def test_the_widgets_follow_a_url_that_changes_under_them(at):
    at.run()
    at.segmented_control(key="method").set_value("both").run()
    assert at.query_params["method"] == "both"
    at.query_params.update({"method": "clip", "top": "5"})
    at.run()
    assert not at.exception
    assert at.segmented_control(key="method").value == "clip"
    assert html_of(at).count('class="tl-row"') == 10
    at.selectbox(key="top").set_value(20).run()
    assert at.query_params["top"] == "20"
    assert at.query_params["method"] == "clip"


def test_side_by_side_says_how_many_are_shared(at):
    at.query_params["method"] = "both"
    at.run()
    shown = html_of(at)
    assert "Proponents" in shown
    assert "Most similar" in shown
    assert "most similar training pairs" in shown


def test_choosing_a_pair_changes_the_url_and_the_target(at, tiny_store):
    at.run()
    at.button(key="browse-3").click().run()
    assert at.query_params["id"] == str(open_store(tiny_store).examples.id[3])
    assert "/app/static/large/3.webp" in html_of(at)
    store = open_store(tiny_store)
    proponents = rank(store, stored_target(store, 3)).proponents
    place = next(i for i, pair in enumerate(proponents) if pair.row != 3)
    at.button(key=f"open-0-{place + 1}").click().run()
    assert at.query_params["id"] == proponents[place].id
    assert not at.exception


def test_search_narrows_the_list(at, tiny_store):
    at.run()
    word = open_store(tiny_store).examples.words[0].split()[1]
    at.text_input(key="search").set_value(word).run()
    expected = find_pairs(open_store(tiny_store), word).total
    assert 0 < expected < 80
    assert f"{expected:,} pairs" in html_of(at)
    at.text_input(key="search").set_value("no caption has this").run()
    assert "No pair has all this" in html_of(at)
    assert not at.exception


def test_search_by_meaning_orders_pairs_by_the_models_own_text_tower(at, tiny_store):
    from traklens.engine.attribution.new_target import LiveModels
    from traklens.engine.explore.search import find_by_meaning

    store = open_store(tiny_store)
    words = LiveModels(store).meaning("a red sign")
    cosines = np.mean(
        [np.asarray(store.array(m, "image_embedding")[:]) @ words[m] for m in range(store.n_checkpoints)], axis=0
    )
    assert find_by_meaning(store, words).total == store.n
    found = find_by_meaning(store, words, per_page=store.n).rows
    np.testing.assert_allclose(cosines[list(found)], np.sort(cosines)[::-1], atol=2e-3)
    heldout = list(find_by_meaning(store, words, split="heldout", per_page=5).rows)
    assert min(heldout) >= store.n_train
    np.testing.assert_allclose(cosines[heldout], np.sort(cosines[store.n_train :])[::-1][:5], atol=2e-3)
    at.run()
    at.session_state["search-by"] = "meaning"
    at.run()
    at.text_input(key="search").set_value("a red sign").run()
    assert not at.exception
    assert at.button(key=f"browse-{found[0]}")


def test_another_caption_asks_the_models(at, tiny_store):
    at.query_params["id"] = str(open_store(tiny_store).examples.id[2])
    at.run()
    at.text_input(key="ask-caption").set_value("a purple square sign with the letter q")
    at.text_input(key="ask-contrast").set_value("a red circle sign")
    next(b for b in at.button if b.label == "Ask").click().run()
    assert not at.exception
    assert at.query_params["caption"] == "a purple square sign with the letter q"
    shown = html_of(at)
    assert "your caption" in shown
    assert "rather than" in shown
    at.button(key="back").click().run()
    assert "caption" not in at.query_params
    assert "your caption" not in html_of(at)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_captions_in_a_link_stay_text(at, hostile):
    at.query_params["caption"] = hostile
    at.run()
    assert not at.exception
    shown = html_of(at)
    assert "<script" not in shown
    assert "<img src=x" not in shown
    assert markup.text(hostile) in shown


def test_a_store_full_of_hostile_captions_is_shown_as_text(at, hostile_store, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, str(hostile_store))
    store = open_store(hostile_store)
    for id in store.examples.id[:7]:
        at.query_params["id"] = str(id)
        at.run()
        assert not at.exception
        shown = html_of(at)
        assert "<script" not in shown
        assert "<img src=x" not in shown
        assert "<i>value" not in shown
        assert "&lt;i&gt;value" in shown
        assert markup.text(store.examples.words[store.examples.row_of(id)]) in shown


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_captions_of_the_data_stay_text(hostile):
    pair = Ranked(row=1, id="x", score=0.5, words=hostile, image="x.png", split="train")
    for html in (markup.ranked_card(pair, 1, 1.0, 0), markup.browse_card(1, hostile, 0, False)):
        assert "<script" not in html
        assert "<img src=x" not in html
        assert len(html) < 8_000


@pytest.mark.parametrize(
    "query",
    [{"id": "nobody"}, {"id": "<b>x"}, {"method": "magic"}, {"top": "-1"}, {"top": "9" * 400}, {"caption": "x" * 10_001}],
)  # fmt: skip
def test_links_that_make_no_sense_show_a_pair_all_the_same(at, query):
    at.query_params.update(query)
    at.run()
    assert not at.exception
    shown = html_of(at)
    assert 'class="tl-target"' in shown
    assert "<b>x" not in shown


def test_a_store_that_is_gone_is_one_message(at, monkeypatch, tmp_path):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "nowhere"))
    at.run()
    assert not at.exception
    assert "no such folder" in html_of(at)


def _upload(at: AppTest, content: bytes, name: str = "x.png") -> AppTest:
    at.run()
    at.file_uploader(key="ask-image").upload(name, content, "image/png")
    return next(b for b in at.button if b.label == "Ask").click().run()


def test_an_image_of_ones_own_takes_the_nearest_caption(at, tiny_demo):
    _upload(at, next((tiny_demo / "data/images").iterdir()).read_bytes())
    assert not at.exception
    assert "your image" in html_of(at)
    assert "nearest training caption" in html_of(at)


def _bomb(tmp_path) -> bytes:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    return (tmp_path / "bomb.png").read_bytes()


@pytest.mark.parametrize("kind", ["text", "empty", "html", "bomb", "truncated"])
def test_uploads_that_are_no_usable_image_are_one_message(at, tmp_path, tiny_demo, kind):
    whole = next((tiny_demo / "data/images").iterdir()).read_bytes()
    content = {
        "text": lambda: b"hello",
        "empty": lambda: b"",
        "html": lambda: b"<svg onload=alert(1)>",
        "bomb": lambda: _bomb(tmp_path),
        "truncated": lambda: whole[: len(whole) // 2],
    }[kind]()
    _upload(at, content)
    assert not at.exception
    shown = html_of(at)
    assert 'role="alert"' in shown
    assert "svg onload" not in shown
    assert 'class="tl-target"' in shown


def test_opening_the_page_imports_neither_torch_nor_cupy(tiny_store):
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"os.environ[{STORE_VARIABLE!r}] = {str(tiny_store)!r}\n"
        f"at = AppTest.from_file({str(SCRIPT)!r}, default_timeout=60).run()\n"
        "assert not at.exception, at.exception\n"
        "print(json.dumps([m for m in ('torch', 'cupy', 'open_clip') if m in sys.modules]))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (0.1234, "+0.123"), (-2.5, "−2.5"), (3e-5, "+3.0e-05")])
def test_numbers_carry_their_sign(value, shown):
    assert markup.number(value) == shown


def test_no_bar_of_the_histogram_mixes_the_signs():
    import numpy as np

    scores = np.random.default_rng(0).normal(0.3, 1.0, size=500).astype(np.float32)
    edges, counts = score_histogram(scores)
    assert np.abs(edges).min() < 1e-9
    assert counts.sum() == 500
    assert counts[edges[:-1] < -1e-9].sum() == (scores < 0).sum()
    assert score_histogram(np.zeros(5, dtype=np.float32))[1].sum() == 5


def test_shaded_words_are_inert_and_say_their_numbers():
    words = (Shade(0, 3, 0.02), Shade(3, 11, -0.01))
    html = markup.shaded_text('<b> "of" it</b>', words, 0.02)
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert html.count('class="tl-shade') == 2
    assert 'title="+0.02"' in html
    assert 'title="−0.01"' in html
    assert f"--tl-share:{markup.MOST_TINT}%" in html
    assert "strongest words" in html
    assert "tl-shade" not in markup.shaded_text("", (), 0.0)


def test_labels_that_are_read_as_markdown_show_what_they_hold():
    assert markup.plain("a*b :x: $1$ é") == r"a\*b \:x\: \$1\$ é"
