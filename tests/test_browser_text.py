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


@pytest.mark.parametrize("own", ["seq2seq"], indirect=True)
def test_a_marked_word_of_the_answer_is_what_is_asked_about(visit, own):
    page = visit(own[1], ready=(".tl-row",))
    settle(page)
    before = page.locator(".tl-row .tl-number").first.inner_text()
    page.get_by_text("Ask with another").click()
    group = page.get_by_role("toolbar", name="Ask about these words")
    word = group.get_by_role("button").last
    marked = word.inner_text()
    word.click()
    page.locator(".tl-target mark").get_by_text(marked, exact=True).wait_for()
    page.locator(".tl-chip").get_by_text("part of the answer").wait_for()
    settle(page)
    shot(page, "seq2seq-marked")
    assert "span=" in page.url
    assert page.locator(".tl-row .tl-number").first.inner_text() != before
    page.reload()
    page.locator(".tl-target mark").get_by_text(marked, exact=True).wait_for()
    page.get_by_role("button", name="Back to the stored").click()
    page.locator(".tl-target mark").wait_for(state="detached")


def test_words_are_shaded_and_words_in_common_stand_beside_influence(visit, own):
    name, url = own
    page = visit(url, ready=(".tl-row",))
    settle(page)
    page.get_by_text("Shade words by what they contribute").click()
    page.locator(".tl-row .tl-shade").first.wait_for()
    settle(page)
    shaded = page.locator(".tl-row .tl-shade").first
    assert shaded.get_attribute("title")
    card = page.locator(".tl-row").first
    assert "strongest words" in card.inner_text()
    assert page.locator(".tl-row").count() == page.locator(".tl-row:has(.tl-shade)").count()
    page.get_by_text("Side by side").click()
    page.locator(".tl-head").get_by_text("Most words in common").wait_for()
    settle(page)
    page.mouse.move(0, 0)  # what the pointer lies on has a tint of its own
    settle(page)
    shot(page, f"{name}-side-by-side")
    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []
    page.get_by_text("Same words (BM25)").click()
    page.locator(".tl-head").get_by_text("Most similar").wait_for(state="detached")
    page.locator(".tl-head").get_by_text("Most words in common").wait_for()


def test_only_what_shares_no_content_word_is_listed(visit, own):
    name, url = own
    page = visit(f"{url}?unshared=1", ready=(".tl-head",))
    settle(page)
    shot(page, f"{name}-unshared")
    rows = page.locator(".tl-row")
    assert rows.count() == page.locator(".tl-row").filter(has_text="shares no content word").count()
    page.get_by_text("Only what shares no content word").click()
    page.locator(".tl-row").first.wait_for()
    settle(page)
    assert "unshared" not in page.url
    assert rows.count() > 0


@pytest.mark.parametrize("own", ["seq2seq"], indirect=True)
def test_an_answer_is_asked_about_rather_than_another(visit, own):
    page = visit(own[1], ready=(".tl-row",))
    settle(page)
    before = page.locator(".tl-row .tl-number").all_inner_texts()
    page.get_by_text("Ask with another").click()
    page.get_by_label("Another answer").fill("in Fels")
    page.get_by_label("Why that rather than").fill("in Gond")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".tl-target").get_by_text("in Gond").wait_for()
    settle(page)
    shot(page, "seq2seq-contrast")
    assert "contrast=" in page.url
    assert "in Fels" in page.locator(".tl-target").inner_text()
    assert page.locator(".tl-row .tl-number").all_inner_texts() != before
    page.get_by_role("button", name="Back to the stored").click()
    page.locator(".tl-target").get_by_text("in Gond").wait_for(state="detached")


def test_texts_are_taken_out_and_a_model_is_trained_to_check(visit, own):
    name, url = own
    page = visit(f"{url}/remove?k=4", ready=(".tl-big",))
    settle(page)
    page.get_by_role("button", name="Retrain to check").click()
    page.wait_for_function("() => document.body.innerText.includes('Measured with 3 seeds')", timeout=240_000)
    page.locator(".st-key-check .js-plotly-plot").wait_for()
    page.locator('[data-testid="stProgress"]').wait_for(state="detached")
    settle(page)
    shot(page, f"{name}-retrained")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_wrong_labels_and_wrong_answers_are_hunted(visit, own, scheme):
    name, url = own
    page = visit(f"{url}/hunt", scheme=scheme, ready=(".tl-suspect", ".st-key-hunt-next button"))
    settle(page)
    shot(page, f"{name}-hunt-{scheme}")
    what = "label" if name == "text_classifier" else "answer"
    assert f"{what}s are estimated to be wrong" in page.inner_text("body") or f"right {what}s" in page.inner_text(
        "body"
    )
    first = page.locator(".tl-suspect").inner_text()
    page.keyboard.press("w")
    page.wait_for_function("was => document.querySelector('.tl-suspect')?.innerText !== was", arg=first)
    page.locator('[data-testid="stProgress"]').get_by_text("1 of").wait_for()
    settle(page)  # a key pressed while the page is drawn anew is nobody's
    page.keyboard.press("z")
    page.locator('[data-testid="stProgress"]').get_by_text("0 of").wait_for()
    settle(page)
    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []
