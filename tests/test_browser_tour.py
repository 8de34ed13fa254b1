"""The first minute in a real Chromium, as the docs show it; and every page against the rules of accessibility."""

import csv
import io

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.conftest import serving_a_copy, settle, shot
from tests.tour import first_minute
from traklens.stores.reviews import Reviews
from traklens.stores.store import open_store

pytestmark = pytest.mark.browser
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
PAGES = {
    "": ".js-plotly-plot",
    "map": ".js-plotly-plot",
    "remove": ".st-key-curves .js-plotly-plot",
    "hunt": ".st-key-hunt-next",
    "evaluate": ".tl-title",
    "store": ".js-plotly-plot",
}


@pytest.fixture(scope="module")
def own(tiny_demo, tmp_path_factory):
    """A server on a copy of the tiny store, with its run beside it: its store and address."""
    with serving_a_copy(tiny_demo, tmp_path_factory.mktemp("tour"), 8830) as served:
        yield served


def test_the_first_minute(visit, own):
    path, url = own
    store = open_store(path)
    page, other = (visit(f"{url}/store", ready=(".tl-title",)) for _ in range(2))
    seen = first_minute(
        page, other, url, lambda at, name: shot(at, f"tour-{name}"), caption="a red circle sign with the number 7"
    )
    assert len(seen["reranked"]) > 1  # type: ignore[arg-type]
    assert seen["asked"] == "a red circle sign with the number 7"
    assert seen["predicted elsewhere"] == seen["predicted"]
    assert "5 pairs picked" in str(seen["tray elsewhere"])
    decided = Reviews(path).current()
    assert len(decided) == 5
    gone = [id for id, review in decided.items() if review.decision == "wrong"]
    assert len(gone) == 4
    kept = list(csv.DictReader(io.StringIO(str(seen["exported"])), delimiter="\t"))
    assert len(kept) == store.n_train - len(gone)
    assert "5 of" in str(seen["progress"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_no_page_breaks_a_rule_of_accessibility(visit, own, path, scheme):
    _, url = own
    page = visit(f"{url}/{path}", scheme=scheme, ready=(PAGES[path],))
    settle(page)
    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []


def test_every_key_of_the_legend_works(visit, own):
    _, url = own
    page = visit(url)
    before = page.url
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("undo your last decision").wait_for()
    shot(page, "legend")
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.getAttribute('placeholder')") == "Search captions"
    page.keyboard.type("?")
    page.wait_for_function("document.activeElement.value === '?'")
    settle(page)
    assert page.get_by_role("dialog").count() == 0  # typed, not asked
    page.locator(".tl-story").click()
    page.keyboard.press("n")
    page.wait_for_function("before => location.href !== before", arg=before)
    settle(page)  # the address comes before the buttons of the new pair
    page.keyboard.press("b")
    id = before.split("id=")[-1]
    page.wait_for_url(f"**id={id}*")


def test_a_lasso_on_the_map_fills_the_tray(visit, own):
    path, url = own
    page = visit(f"{url}/map", ready=(".js-plotly-plot .nsewdrag", ".tl-target-small"))
    settle(page)
    box = page.locator(".js-plotly-plot .nsewdrag").bounding_box()
    corners = ((0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.01))
    at = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=8)
    page.mouse.up()
    n = open_store(path).n_train
    page.get_by_text(f"{n} pairs selected").wait_for()
    page.get_by_role("button", name="Put all into the tray").click()
    page.get_by_text(f"{n} pairs picked").wait_for()
    shot(page, "map")


def test_every_choice_of_the_map_is_seen_on_a_telephone(visit, own):
    _, url = own
    page = visit(f"{url}/map", width=390, height=844, ready=(".js-plotly-plot",))
    choices = page.locator(".st-key-map-side button, .st-key-map-colour button").all()
    assert len(choices) == 5
    for choice in choices:
        box = choice.bounding_box()
        assert box["x"] + box["width"] <= 390
