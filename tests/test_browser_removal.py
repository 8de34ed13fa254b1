"""Remove in a real Chromium: pick pairs on Explore, simulate, retrain to check, reload in the middle, cancel."""

from pathlib import Path

import pytest

from tests.conftest import serving_a_copy, shot
from traklens.stores.retrained import Retrained
from traklens.stores.store import open_store

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def own(tiny_demo, tmp_path_factory):
    """A server on a copy of the tiny store, with its run beside it: its store and address."""
    with serving_a_copy(tiny_demo, tmp_path_factory.mktemp("removal"), 8760) as served:
        yield served


def _big(page) -> str:
    return page.locator(".tl-big").inner_text()


def test_pairs_picked_on_explore_are_simulated_on_remove(visit, own):
    path, url = own
    store = open_store(path)
    page = visit(f"{url}/?id={store.examples.id[store.n - 1]}")
    for place in (1, 3):
        button = page.locator(f".st-key-pick-0-{place} button")
        button.click()
        page.wait_for_function(
            "place => document.querySelector(`.st-key-pick-0-${place} button`)?.innerText === 'Picked'", arg=place
        )
    assert page.locator(".tl-title").inner_text() == str(store.examples.words[store.n - 1])  # nothing was opened
    shot(page, "explore-picked")
    page.get_by_role("link", name="Remove").click()
    page.wait_for_selector(".tl-big")
    assert f"id={store.examples.id[store.n - 1]}" in page.url
    page.get_by_text("Picked by hand (2)").click()
    page.wait_for_function(
        "() => document.querySelector('.tl-head')?.innerText.startsWith('Without 2 training pairs')"
    )
    seen = _big(page)
    link = page.url
    assert "pick=" in link
    shot(page, "remove-picked")
    other = visit(link)
    other.wait_for_selector(".tl-big")
    assert _big(other) == seen


def test_a_retraining_survives_a_reload_and_ends_beside_its_prediction(visit, own):
    path, url = own
    store = open_store(path)
    page = visit(f"{url}/remove?id={store.examples.id[store.n - 2]}&k=4")
    page.get_by_role("button", name="Retrain to check").click()
    page.wait_for_selector('[data-testid="stProgress"]')
    page.reload()
    page.wait_for_selector(".tl-big")
    page.wait_for_function("() => document.body.innerText.includes('Measured with 3 seeds')", timeout=120_000)
    page.locator(".st-key-check .js-plotly-plot").wait_for()
    page.get_by_role("button", name="Retrain with more seeds").wait_for()  # drawn after the plot, in the same rerun
    page.locator('[data-testid="stProgress"]').wait_for(state="detached")
    page.locator(".st-key-retraining").scroll_into_view_if_needed()
    shot(page, "remove-retrained")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_a_cancelled_retraining_is_gone(visit, own):
    path, url = own
    store = open_store(path)
    before = Retrained(path).jobs()
    page = visit(f"{url}/remove?id={store.examples.id[store.n - 3]}&k=7")
    page.get_by_role("button", name="Retrain to check").click()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(".st-key-retrain button")
    page.wait_for_function("() => !document.querySelector('[data-testid=stProgress]')")
    for _ in range(200):
        if Retrained(path).jobs() == before:
            break
        page.wait_for_timeout(100)
    assert Retrained(path).jobs() == before
    assert not list((path / "retrained" / "work").glob("*.partial*"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_fit_a_telephone(visit, own, scheme):
    path, url = own
    store = open_store(path)
    page = visit(f"{url}/remove?id={store.examples.id[store.n - 2]}&k=4", width=390, height=844, scheme=scheme)
    page.wait_for_selector(".tl-big")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, f"remove-390-{scheme}")
    assert Path(path, "manifest.json").is_file()
