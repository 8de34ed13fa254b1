"""A classifier in a real Chromium: the confusion table, a click on a square, the question behind an example; narrow too."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.conftest import own_port, serving, settle, shot
from tests.written import write_classifier
from traklens.engine.explore.confusion import confusion_of

pytestmark = pytest.mark.browser
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
READY = (".js-plotly-plot .point",)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A server on a written classifier: its store and address."""
    store = write_classifier(tmp_path_factory.mktemp("classifier") / "store")
    with serving(store.path, own_port(8870)) as url:
        yield store, url


def test_a_square_shows_its_examples_and_one_of_them_asks_why(visit, own):
    store, url = own
    found = confusion_of(store, "heldout")
    label, taken, count = found.most_frequent(1)[0]
    page = visit(f"{url}/confusion", ready=READY)
    box = page.locator(".js-plotly-plot .point").nth(label * len(found.classes) + taken).bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)  # plotly's own layer takes the pointer
    page.mouse.click(*middle)
    said = f"{found.classes[label]} taken for {found.classes[taken]}: {count}"
    page.locator(".tl-head").get_by_text(said).wait_for()
    settle(page)
    shot(page, "confusion")
    first = int(found.cell(label, taken)[0])
    page.locator(f".st-key-why-{first} button").click(force=True)  # it lies over its card, unseen
    page.wait_for_url(
        f"**/?id={store.examples.id[first]}&caption={found.classes[taken]}&contrast={found.classes[label]}"
    )
    page.wait_for_selector(".tl-target")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["confusion", ""])
def test_the_pages_of_a_classifier_fit_a_phone_and_break_no_rule_of_accessibility(visit, own, path, scheme):
    _, url = own
    page = visit(f"{url}/{path}", width=390, scheme=scheme, ready=(".js-plotly-plot",))
    settle(page)
    shot(page, f"classifier-{path or 'explore'}-narrow-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []
