"""The click path in a real Chromium: pick a pair, see its proponents, ask a live question, open the link again.

Screenshots are left in `artifacts/` for people to look at.
"""

import pytest

from tests.conftest import own_port, serving, settle, shot
from traklens.app import markup
from traklens.engine.attribution.scores import rank, stored_target
from traklens.stores.store import open_store

pytestmark = pytest.mark.browser
TITLE_IS = "caption => document.querySelector('.tl-title')?.innerText === caption"
BARS_ARE = "bars => [...document.querySelectorAll('.tl-row .tl-number')].map(x => x.innerText).join() === bars.join()"


def _bars(page) -> list[str]:
    return page.locator(".tl-row .tl-number").all_inner_texts()


def test_pick_a_pair_see_proponents_ask_live_and_share_the_link(visit, address, tiny_store):
    store = open_store(tiny_store)
    page = visit(address)
    page.get_by_role("button", name="Choose pair 4", exact=True).click()
    page.wait_for_function(TITLE_IS, arg=store.examples.words[4])
    page.wait_for_url(f"**id={store.examples.id[4]}*")
    expected = rank(store, stored_target(store, 4), top=10)
    bars = [markup.number(pair.score) for pair in (*expected.proponents, *expected.opponents)]
    page.wait_for_function(BARS_ARE, arg=bars)  # the lists come after the heading
    page.wait_for_function(
        "() => { const i = document.querySelector('.tl-thumb'); return i.complete && i.naturalWidth }"
    )
    shot(page, "explore")

    page.get_by_text("Side by side").click()
    page.get_by_text("Most similar", exact=True).wait_for()
    shot(page, "side-by-side")

    page.get_by_text("Ask with another caption").click()
    settle(page)
    page.get_by_label("Another caption").fill("a green circle sign with the letter <b>a</b>")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("your caption", exact=True).wait_for()
    settle(page)  # the lists come after the heading
    assert page.locator(".tl-title").inner_text() == "a green circle sign with the letter <b>a</b>"
    assert page.locator(".tl-title b").count() == 0
    shot(page, "live-query")

    again = visit(page.url)
    assert again.locator(".tl-title").inner_text() == "a green circle sign with the letter <b>a</b>"
    again.wait_for_function(BARS_ARE, arg=_bars(page))


def test_a_proponent_opens_with_the_keyboard_alone(visit, address, tiny_store):
    page = visit(f"{address}/?id={open_store(tiny_store).examples.id[4]}")
    row = page.locator(".tl-row .tl-thumb").nth(1).get_attribute("src").split("/")[-1].split(".")[0]
    page.get_by_role("button", name=f"Open pair {row}", exact=True).first.focus()
    page.keyboard.press("Enter")
    caption = open_store(tiny_store).examples.words[int(row)]
    page.wait_for_url(f"**id={open_store(tiny_store).examples.id[int(row)]}*")
    page.wait_for_function(TITLE_IS, arg=caption)


def test_the_back_button_brings_back_the_view(visit, address, tiny_store):
    page = visit(f"{address}/?id={open_store(tiny_store).examples.id[4]}")
    page.get_by_text("Opponents", exact=True).wait_for()
    page.get_by_text("Side by side").click()
    page.get_by_text("Most similar", exact=True).wait_for()
    page.wait_for_url("**method=both*")
    page.go_back()
    page.get_by_text("Opponents", exact=True).wait_for()
    assert "method" not in page.url


def test_an_upload_is_asked_and_a_file_that_is_no_image_is_one_message(visit, address, tiny_demo, tmp_path):
    page = visit(address)
    page.get_by_text("Ask with another caption").click()
    settle(page)
    page.set_input_files("input[type=file]", next((tiny_demo / "data/images").iterdir()))
    page.get_by_text(".png").first.wait_for()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("your image", exact=True).wait_for()
    assert page.locator(".tl-picture").get_attribute("src").startswith("data:image/webp")
    form = page.get_by_role("button", name="Ask", exact=True)
    form.wait_for(state="hidden")  # it closes when a question is sent
    page.get_by_text("Ask with another caption").click()
    settle(page)
    form.wait_for()
    (tmp_path / "letter.png").write_text("<script>alert(1)</script>")
    page.set_input_files("input[type=file]", tmp_path / "letter.png")
    page.get_by_text("letter.png").first.wait_for()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".tl-error").wait_for()
    assert "no image format" in page.locator(".tl-error").inner_text()
    shot(page, "no-image")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_telephone(visit, address, scheme):
    page = visit(address, 390, 844, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for image in page.locator(".tl-picture").all():
        box = image.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    shot(page, f"telephone-{scheme}")


def test_hostile_captions_run_nothing_and_break_no_layout(visit, hostile_store):
    with serving(hostile_store, own_port(8720)) as url:
        for width, height in ((1440, 900), (390, 844)):
            page = visit(url, width, height)
            for id in open_store(hostile_store).examples.id[:7]:
                page.goto(f"{url}/?id={id}")
                page.wait_for_selector(".js-plotly-plot")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert (
                    page.locator(".tl-title script, .tl-title img, .tl-caption script, .tl-caption img").count() == 0
                )
            shot(page, f"hostile-{width}")
