"""Quick keys on the Hunt page decide what was on screen, and nothing is lost in silence."""

import pytest

from tests.conftest import recorded, serving_a_copy, settle
from traklens.stores.reviews import Reviews

pytestmark = pytest.mark.browser
READY = (".tl-suspect[data-pair]", ".st-key-hunt-next button", "[role=status]")
# At every key, before anybody else hears of it: which pair's card and which picture are on the screen.
WATCH = """
window.pressed = [];
window.addEventListener("keydown", (event) => {
  const card = document.querySelector(".tl-suspect"), picture = card.querySelector("img");
  window.pressed.push({ key: event.key, id: card.dataset.pair, picture: picture.currentSrc, whole: picture.complete });
}, true);
"""


@pytest.fixture(scope="module")
def own(tiny_demo, tmp_path_factory):
    with serving_a_copy(tiny_demo, tmp_path_factory.mktemp("keys"), 8795) as served:
        yield served


@pytest.mark.parametrize("pause", [0, 60, 120, 200, 400])
def test_every_press_decides_the_pair_on_screen_or_is_visibly_not_taken(visit, own, pause):
    path, url = own
    page = visit(f"{url}/hunt", ready=READY)
    page.add_init_script(WATCH)
    page.reload()
    for selector in READY:
        page.wait_for_selector(selector, state="attached")
    recorded(page)
    before = Reviews(path).count()
    status = page.locator("[role=status]").last
    refused = int(status.get_attribute("data-refused") or 0)
    for key in "wkkwdukw":
        page.keyboard.press(key)
        page.wait_for_timeout(pause)
    recorded(page)
    pressed = page.evaluate("window.pressed")
    refused = int(status.get_attribute("data-refused") or 0) - refused
    log = [(r.id, r.decision) for r in Reviews(path).current().values() if r.number > before]
    names = {"w": "wrong", "k": "keep", "d": "duplicate", "u": "unsure"}
    shown = [(press["id"], names[press["key"]]) for press in pressed]
    assert len(log) + refused == len(pressed) == 8
    remaining = iter(shown)
    assert all(decision in remaining for decision in log)  # each one as it was on screen, in the order of the presses
    assert all(press["whole"] for press in pressed if (press["id"], names[press["key"]]) in log)
    assert len({id for id, _ in log}) == len(log)


def test_a_double_click_decides_once(visit, own):
    path, url = own
    page = visit(f"{url}/hunt", ready=READY)
    recorded(page)
    before, id = Reviews(path).count(), page.locator(".tl-suspect").get_attribute("data-pair")
    page.locator(".st-key-decide-keep button").first.dblclick()
    recorded(page)
    log = [r for r in Reviews(path).current().values() if r.number > before]
    assert log[0].id == id
    assert len({r.id for r in log}) == len(log) <= 2


def test_back_after_simulate_finds_the_tray_again(visit, own):
    _, url = own
    page = visit(url)
    for place in range(3):
        page.locator("[class*='st-key-pick-']").nth(place).locator("button").click()
        settle(page)
    there = page.url
    assert there.count("%2C") + there.count(",") == 2
    page.keyboard.press("s")
    page.wait_for_url("**/remove?**")
    page.wait_for_selector(".tl-big")
    settle(page)
    page.go_back()
    page.wait_for_selector(".tl-target")
    settle(page)
    assert page.url.split("pick=")[1] == there.split("pick=")[1]
    assert "3" in page.locator(".st-key-tray").inner_text()
