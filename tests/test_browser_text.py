"""Texts in a real Chromium: a text of one's own, a prompt that the models answer, a contrast; narrow too."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from typer.testing import CliRunner

from tests.conftest import own_port, serving, settle, shot
from tests.worlds import WORLDS
from traklens.engine.cli.main import app

pytestmark = pytest.mark.browser
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
PORTS = {"text_classifier": 8880, "seq2seq": 8890}


@pytest.fixture(scope="module", params=list(PORTS))
def own(request, tmp_path_factory):
    """A server on a small store of the task: its name and address."""
    folder = tmp_path_factory.mktemp(request.param)
    data = WORLDS[request.param].data(folder)
    train = ["train", str(data), "--task", request.param, "--out", str(folder / "run"), "--checkpoints", "2"]
    for command in (
        [*train, "--epochs", "4", "--batch-size", "16"],
        ["build", str(data), "--run", str(folder / "run"), "--store", str(folder / "store"), "--proj-dim", "32"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    with serving(folder / "store", own_port(PORTS[request.param])) as url:
        yield request.param, url


def test_a_text_of_ones_own_is_asked_about(visit, own):
    name, url = own
    page = visit(url, ready=(".tl-row", ".js-plotly-plot"))
    settle(page)
    shot(page, f"{name}-explore")
    page.get_by_text("Ask with another").click()
    mine = "the film was bright and warm ." if name == "text_classifier" else "In which town does Kim number 2 live?"
    page.get_by_label("Your own").first.fill(mine)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".tl-target .tl-content").get_by_text(mine).wait_for()
    page.locator(".tl-chip").get_by_text("your text").wait_for()
    settle(page)
    shot(page, f"{name}-asked")
    assert page.locator(".tl-row .tl-content").count() == page.locator(".tl-row").count()
    page.get_by_role("button", name="Back to the stored").click()
    page.locator(".tl-chip").get_by_text("your text").wait_for(state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_texts_fits_a_phone_and_breaks_no_rule_of_accessibility(visit, own, scheme):
    name, url = own
    page = visit(url, width=390, scheme=scheme, ready=(".js-plotly-plot",))
    settle(page)
    shot(page, f"{name}-narrow-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []
