"""The first minute of a visit, step by step: for the browser test, and for the pictures of the docs.

python -m tests.tour STORE OUT     take the tour on a copy of a finished store, write a picture of every step to OUT
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import recorded, serving, settle
from traklens.app.server import free_port

WIDTH, HEIGHT = 1440, 900
STEPS = ("open", "caption", "similar", "picked", "simulate", "map", "hunt", "export", "deep-link")
LARGEST = 150_000  # bytes of a picture
PICKED = "place => document.querySelector(`.st-key-pick-0-${place} button`)?.innerText === 'Picked'"
AT_SUSPECT = """place => [...document.querySelectorAll('.tl-suspect')].some(x =>
  x.innerText.startsWith(`suspect ${place} of`) && x.querySelector('img').complete) &&
  !document.querySelector('[data-stale="true"]')"""


def first_minute(
    page: Page, other: Page, url: str, shot: Callable[[Page, str], None], *, caption: str
) -> dict[str, object]:
    """Walk from the opening page to the exported list and the shared link; what was seen on the way.

    page and other: windows of two visitors. caption: what the first one asks about. Raises a timeout where a step is
    not possible.
    """
    seen: dict[str, object] = {}
    page.goto(url)
    page.wait_for_selector(".tl-story")
    page.wait_for_selector(".js-plotly-plot")
    seen["story"] = page.locator(".tl-story").inner_text()
    seen["proponents"] = page.locator(".tl-row .tl-number").all_inner_texts()
    shot(page, "open")

    page.get_by_text("Ask with another caption").click()
    settle(page)
    page.get_by_label("Another caption").fill(caption)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("your caption", exact=True).wait_for()
    settle(page)  # the lists come after the heading
    seen["asked"] = page.locator(".tl-title").inner_text()
    seen["reranked"] = page.locator(".tl-row .tl-number").all_inner_texts()
    shot(page, "caption")

    back = page.get_by_role("button", name="Back to the stored pair")
    back.click()
    back.wait_for(state="detached")
    page.get_by_text("Side by side").click()
    page.get_by_text("Most similar", exact=True).wait_for()
    shot(page, "similar")

    page.get_by_text("Influential (TRAK)").click()
    page.get_by_text("Opponents", exact=True).wait_for()
    for place in range(1, 6):
        page.locator(f".st-key-pick-0-{place} button").click()
        page.wait_for_function(PICKED, arg=place)
    page.get_by_text("5 pairs picked").wait_for()
    shot(page, "picked")

    page.get_by_role("button", name="Simulate").click()
    page.get_by_text("Without 5 training pairs").wait_for()
    page.wait_for_selector(".st-key-curves .js-plotly-plot")
    seen["predicted"] = page.locator(".tl-big").inner_text()
    seen["link"] = page.url
    shot(page, "simulate")

    page.get_by_role("link", name="Map").click()
    page.wait_for_selector(".tl-target-small")
    page.wait_for_selector(".scatterlayer .point, canvas.gl-canvas")
    shot(page, "map")

    page.get_by_role("link", name="Hunt").click()
    page.wait_for_function(AT_SUSPECT, arg=1)
    settle(page)
    for place, key in enumerate("wwkww", start=2):
        page.keyboard.press(key)
        page.wait_for_function(AT_SUSPECT, arg=place)
    recorded(page)
    seen["progress"] = page.locator('[data-testid="stProgress"]').inner_text()
    shot(page, "hunt")

    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    seen["exported"] = Path(download.value.path()).read_text(encoding="utf-8")
    page.get_by_text("Found so far").click()
    page.wait_for_selector(".js-plotly-plot")
    shot(page, "export")

    other.goto(str(seen["link"]))
    other.wait_for_selector(".st-key-curves .js-plotly-plot")
    seen["predicted elsewhere"] = other.locator(".tl-big").inner_text()
    seen["tray elsewhere"] = other.locator(".tl-tray").inner_text()
    shot(other, "deep-link")
    return seen


def _small(picture: bytes) -> bytes:
    """A screenshot as WebP of at most LARGEST bytes."""
    for quality in (85, 70, 55, 40):
        out = io.BytesIO()
        Image.open(io.BytesIO(picture)).save(out, "WEBP", quality=quality, method=6)
        if out.tell() <= LARGEST:
            break
    return out.getvalue()


def _window(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light").new_page()
    page.set_default_timeout(30_000)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the first minute's screenshots.")
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "/usr/bin/chromium")
    parser.add_argument("--caption", default="a red circle sign with the number 7")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def shot(page: Page, name: str) -> None:
        page.mouse.move(WIDTH / 2, 5)
        page.wait_for_timeout(1500)
        content = _small(page.screenshot())
        (options.out / f"{STEPS.index(name) + 1}-{name}.webp").write_bytes(content)
        print(f"{name}: {len(content):,} bytes")

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        copy = Path(folder) / options.store.resolve().parent.name / "store"
        shutil.copytree(options.store, copy, ignore=shutil.ignore_patterns("reviews.sqlite*"))
        run = options.store.resolve().parent / "run"
        if run.is_dir():  # where the checkpoints of the demo lie
            shutil.copytree(run, copy.parent / "run")
        browser = playwright.chromium.launch(
            executable_path=options.chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        with serving(copy, free_port("127.0.0.1", 8900)) as url:
            seen = first_minute(_window(browser), _window(browser), url, shot, caption=options.caption)
        browser.close()
    for name, value in seen.items():
        print(f"{name}: {' '.join(str(value).split())[:160]}")


if __name__ == "__main__":
    main()
