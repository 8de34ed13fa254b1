"""Hunt in a real Chromium: ten pairs by keyboard alone, two undone, a reload, the export read back."""

import pytest

from tests.conftest import recorded, serving_a_copy, shot
from traklens.engine.data import load_dataset
from traklens.engine.label_errors.suspects import find_suspects
from traklens.stores.reviews import Reviews
from traklens.stores.store import open_store

pytestmark = pytest.mark.browser
READY = (".tl-suspect", ".st-key-hunt-next button")  # the button itself: its code comes after the page


@pytest.fixture(scope="module")
def own(tiny_demo, tmp_path_factory):
    """A server on a copy of the tiny store, with its run beside it: its store and address."""
    with serving_a_copy(tiny_demo, tmp_path_factory.mktemp("hunt"), 8790) as served:
        yield served


def _wait_for(page, place: int) -> None:
    page.wait_for_function(
        """place => [...document.querySelectorAll('.tl-suspect')].some(x =>
        x.innerText.startsWith(`suspect ${place} of`) && x.querySelector('img').complete)""",
        arg=place,
        timeout=20_000,
    )


def test_ten_pairs_by_keyboard_two_undone_a_reload_and_an_export(visit, own, tmp_path):
    path, url = own
    store = open_store(path)
    page = visit(f"{url}/hunt", ready=READY)
    _wait_for(page, 1)
    queue = [str(store.examples.id[row]) for row in find_suspects(store).order]
    keys = "wkwduwkwwk"
    for place, key in enumerate(keys, start=1):
        page.keyboard.press(key)
        _wait_for(page, place + 1)
    recorded(page)
    for place in (10, 9):
        page.keyboard.press("z")
        _wait_for(page, place)
        recorded(page)
    names = {"w": "wrong", "k": "keep", "d": "duplicate", "u": "unsure"}
    expected = {id: names[key] for id, key in zip(queue, keys[:8], strict=False)}
    assert {id: review.decision for id, review in Reviews(path).current().items()} == expected
    shot(page, "hunt")
    page.reload()
    _wait_for(page, 9)
    assert "8 of" in page.locator('[data-testid="stProgress"]').inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    out = tmp_path / download.value.suggested_filename
    download.value.save_as(out)
    kept = load_dataset(out, reader="open_clip_csv").examples
    gone = {id for id, decision in expected.items() if decision in ("wrong", "duplicate")}
    every = {str(id) for id in store.examples.id[: store.n_train]}
    assert {example.id for example in kept} == every - gone
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_the_keys_do_nothing_while_a_name_is_typed(visit, own):
    path, url = own
    page = visit(f"{url}/hunt", ready=READY)
    before = Reviews(path).count()
    name = page.get_by_role("textbox", name="Your name")
    name.click()
    name.press_sequentially("wkd")
    page.keyboard.press("Enter")
    recorded(page)
    assert name.input_value() == "wkd"
    assert Reviews(path).count() == before


def test_table_curve_and_removal_of_the_confirmed(visit, own):
    path, url = own
    if not Reviews(path).current():
        store = open_store(path)
        Reviews(path).decide([str(store.examples.id[row]) for row in find_suspects(store).order[:4]], "wrong")
    page = visit(f"{url}/hunt", width=390, height=844, scheme="dark", ready=READY)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, "hunt-narrow-dark")
    page = visit(f"{url}/hunt", ready=READY)
    page.get_by_text("Table", exact=True).click()
    page.wait_for_selector('[data-testid="stDataFrame"] canvas')
    shot(page, "hunt-table")
    page.get_by_text("Found so far").click()
    page.wait_for_selector(".js-plotly-plot")
    shot(page, "hunt-found")
    link = page.get_by_role("link", name="Simulate removing all")
    address = link.get_attribute("href")
    assert address is not None
    page = visit(f"{url}/{address.lstrip('/')}")
    page.wait_for_selector(".tl-big")
    assert "held-out pairs: predicted mean change of f" in page.inner_text("body")
    shot(page, "remove-confirmed")
