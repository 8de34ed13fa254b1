"""What happens to a page when things go wrong around it: two tabs, ten visitors, a store rebuilt or deleted, odd captions."""

import os
import shutil

import pytest

from tests.conftest import own_port, serving, serving_a_copy, settle
from traklens.app.server import UPLOAD_MB
from traklens.stores.store import open_store

pytestmark = pytest.mark.browser
TITLE_IS = "caption => document.querySelector('.tl-title')?.innerText === caption"
PAGES = ("", "map", "remove", "hunt", "evaluate", "store")


@pytest.fixture
def own(tiny_demo, tmp_path):
    """A server on a copy of the tiny store: its store and address."""
    with serving_a_copy(tiny_demo, tmp_path, 8860) as served:
        yield served


def _choose(page, row: int) -> None:
    page.get_by_role("button", name=f"Choose pair {row}", exact=True).click()


def test_two_tabs_do_not_disturb_each_other(visit, address, tiny_store):
    captions = open_store(tiny_store).examples.words
    one, two = visit(address), visit(address)
    _choose(one, 3)
    _choose(two, 8)
    one.wait_for_function(TITLE_IS, arg=captions[3])
    two.wait_for_function(TITLE_IS, arg=captions[8])
    one.locator(".st-key-pick-0-2 button").click()
    one.get_by_text("1 pair picked").wait_for()
    assert two.locator(".tl-tray").count() == 0


def test_ten_visitors_at_once_each_see_their_own_pair(browser, address, tiny_store):
    store = open_store(tiny_store)
    contexts = [browser.new_context() for _ in range(10)]
    try:
        pages = [context.new_page() for context in contexts]
        rows = [row * 7 % store.n for row in range(1, 11)]
        for page, row in zip(pages, rows, strict=True):
            page.goto(f"{address}/?id={store.examples.id[row]}", wait_until="commit")
        for page, row in zip(pages, rows, strict=True):
            page.wait_for_function(TITLE_IS, arg=store.examples.words[row], timeout=120_000)
            page.wait_for_selector(".js-plotly-plot", timeout=120_000)
            assert page.locator('[data-testid="stException"], .tl-error').count() == 0
    finally:
        for context in contexts:
            context.close()


def test_a_store_built_again_under_the_page_is_said_and_shown(visit, own):
    path, url = own
    page = visit(url)
    aside = path.with_name("aside")
    path.rename(aside)
    shutil.copytree(aside, path)
    os.utime(path / "manifest.json")
    _choose(page, 5)
    page.get_by_text("built again while you were looking").wait_for()
    page.wait_for_function(TITLE_IS, arg=open_store(path).examples.words[5])
    _choose(page, 6)
    page.wait_for_function(TITLE_IS, arg=open_store(path).examples.words[6])
    page.get_by_text("built again while you were looking").wait_for(state="detached")


def test_a_deleted_store_is_one_message_and_comes_back(visit, own):
    path, url = own
    page = visit(url)
    path.rename(path.with_name("gone"))
    _choose(page, 5)
    page.locator(".tl-error").wait_for()
    assert "Traceback" not in page.inner_text("body")
    path.with_name("gone").rename(path)
    page.reload()
    page.wait_for_selector(".tl-row")


def test_an_oversize_upload_is_refused(visit, address, tmp_path):
    page = visit(address)
    big = tmp_path / "big.png"
    big.write_bytes(b"\x89PNG" + bytes((UPLOAD_MB + 1) * 2**20))
    page.get_by_text("Ask with another caption").click()
    settle(page)
    refused = "/smaller|exceed|too large/i.test(document.body.innerText)"
    page.locator('input[type="file"]').wait_for(state="attached")
    assert not page.evaluate(refused)
    page.locator('input[type="file"]').set_input_files(big)
    page.wait_for_function(f"() => {refused}")


@pytest.mark.parametrize("path", PAGES)
def test_hostile_captions_are_text_on_every_page(visit, hostile_store, tmp_path, path):
    shutil.copytree(hostile_store, tmp_path / "store")
    store = open_store(tmp_path / "store")
    picked = ",".join(str(store.examples.id[row]) for row in range(4))
    with serving(tmp_path / "store", own_port(8880)) as url:
        page = visit(
            f"{url}/{path}?pick={picked}&choice=picked&queue=picked",
            ready=('[data-testid="stMainBlockContainer"] .tl-title, .tl-title',),
        )
        settle(page)
        inside = "script, img[src='x'], iframe, a[href^='javascript'], svg[onload]"
        shown = (
            ".tl-title, .tl-caption, .tl-cell-caption, .tl-story, .tl-suggestion, .tl-others, .tl-table, .tl-against"
        )
        assert page.locator(shown).locator(inside).count() == 0
        assert page.locator('[data-testid="stException"]').count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440
