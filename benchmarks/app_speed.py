"""What a visitor waits for: pages of one store in a real Chromium, and the memory the server takes.

    python benchmarks/app_speed.py STORE [--chromium /usr/bin/chromium] [--repeats 7]

The first visit opens the store and computes what is kept (suspects); the others find it there. Milliseconds, medians of
`repeats`, from the action to the element on the screen.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from machine import machine
from playwright.sync_api import Browser, Page, sync_playwright

from traklens.app.server import free_port
from traklens.stores.store import open_store

PROPONENTS = ".st-key-card-rank-0-1 .tl-row"


def milliseconds(begin: float) -> float:
    return 1e3 * (time.perf_counter() - begin)


def explore(page: Page, url: str, ids: list[str], repeats: int) -> dict[str, float]:
    """From an address to the proponents on the screen, and from a click on a pair of the list to its own."""
    found: dict[str, list[float]] = {"explore: address to proponents": [], "explore: click to proponents": []}
    for turn in range(repeats):
        begin = time.perf_counter()
        page.goto(f"{url}/?id={ids[turn]}")
        page.wait_for_selector(PROPONENTS)
        found["explore: address to proponents"].append(milliseconds(begin))
        page.wait_for_selector(".js-plotly-plot")
        page.wait_for_timeout(500)
        before = page.locator(".tl-title").inner_text(), page.locator(PROPONENTS).inner_text()
        begin = time.perf_counter()
        page.locator(f'[class*="st-key-browse-{turn + 1}"] button').first.click()
        page.wait_for_function(
            "([title, row, list]) => document.querySelector('.tl-title')?.innerText !== title"
            " && document.querySelector(list)?.innerText !== row",
            arg=[*before, PROPONENTS],
        )
        found["explore: click to proponents"].append(milliseconds(begin))
    return {name: statistics.median(values) for name, values in found.items()}


def hunt(page: Page, url: str, repeats: int) -> dict[str, float]:
    """From an address to the first suspect, and from a decision to the next."""
    begin = time.perf_counter()
    page.goto(f"{url}/hunt")
    page.wait_for_selector(".tl-suspect", timeout=3_600_000)
    found = {"hunt: first visit, suspects computed or read": milliseconds(begin)}
    opened, decided = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        page.goto(f"{url}/hunt")
        page.wait_for_selector(".tl-suspect")
        opened.append(milliseconds(begin))
        page.wait_for_timeout(1500)
        before = page.locator(".tl-suspect .tl-quiet").inner_text()
        begin = time.perf_counter()
        page.keyboard.press("k")
        page.wait_for_function(
            "text => document.querySelector('.tl-suspect .tl-quiet')?.innerText !== text", arg=before, polling=5
        )
        decided.append(milliseconds(begin))
        page.wait_for_timeout(1500)
    return found | {
        "hunt: address to first pair": statistics.median(opened),
        "hunt: key to next pair": statistics.median(decided),
    }


def plane(page: Page, url: str, ids: list[str], repeats: int) -> dict[str, float]:
    """From an address to the points of the map, for another target each time."""
    found = []
    for turn in range(repeats):
        begin = time.perf_counter()
        page.goto(f"{url}/map?id={ids[turn]}")
        page.wait_for_selector(".scatterlayer .point, canvas.gl-canvas", timeout=600_000)
        found.append(milliseconds(begin))
    return {"map: first address to points": found[0], "map: address to points": statistics.median(found)}


def together(browser: Browser, url: str, ids: list[str], visitors: int = 10) -> dict[str, float]:
    """Visitors that come at the same moment, each to a pair of their own, until the last one sees proponents."""
    pages = [browser.new_context().new_page() for _ in range(visitors)]
    begin = time.perf_counter()
    for place, page in enumerate(pages):
        page.goto(f"{url}/?id={ids[place % len(ids)]}", wait_until="commit")
    for page in pages:
        page.wait_for_selector(PROPONENTS, timeout=120_000)
    found = milliseconds(begin)
    errors = sum(page.locator('[data-testid="stException"], .tl-error').count() for page in pages)
    for page in pages:
        page.context.close()
    if errors:
        raise RuntimeError(f"{errors} of {visitors} visitors saw an error")
    return {f"{visitors} visitors at once, until the last sees proponents": found}


def kilobytes(url: str, pictures: int = 48) -> float:
    """What a page of thumbnails sends."""
    return (
        sum(len(urllib.request.urlopen(f"{url}/app/static/thumb/{row}.webp").read()) for row in range(pictures)) / 1e3
    )


def memory(process: int) -> float:
    """Resident MiB of the server."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--repeats", type=int, default=7)
    wanted = parser.parse_args()
    store = open_store(wanted.store)
    first = store.n_train if store.n_heldout >= wanted.repeats else 0
    ids = [str(id) for id in store.examples.id[first : first + wanted.repeats]]
    port = free_port("127.0.0.1", 8900)
    server = subprocess.Popen(
        [sys.executable, "-m", "traklens.app.server", str(wanted.store), "--port", str(port), "--no-browser"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://localhost:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=wanted.chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(120_000)
            begin = time.perf_counter()
            page.goto(url)
            page.wait_for_selector(PROPONENTS)
            found = {"explore: first visit after the start": milliseconds(begin)}
            found |= explore(page, url, ids, wanted.repeats)
            found |= plane(page, url, ids, wanted.repeats)
            found |= hunt(page, url, wanted.repeats)
            found |= together(browser, url, ids)
            browser.close()
        print(f"{store.n_train:,} training pairs, {store.n_checkpoints} checkpoints, {machine()}")
        for name, value in found.items():
            print(f"{name:56s} {value:10,.0f} ms")
        print(f"{'48 thumbnails':56s} {kilobytes(url):10,.0f} kB")
        print(f"{'memory of the server':56s} {memory(server.pid):10,.0f} MiB")
    finally:
        server.terminate()
        server.wait(timeout=20)


if __name__ == "__main__":
    main()
