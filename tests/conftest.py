"""Fixtures shared by the tests, and the rule that continuous integration skips nothing it could run."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ARTIFACTS = Path(__file__).parent.parent / "artifacts"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; see CONTRIBUTING.md."""
    folder = os.environ.get("TRAKLENS_TEST_DATA")
    if not folder:
        pytest.skip("TRAKLENS_TEST_DATA is not set: the real data sets are not at hand")
    assert Path(folder).is_dir(), f"TRAKLENS_TEST_DATA names {folder}, which is no folder"
    return Path(folder)


LONGEST_FIRST = [
    f"test_{name}.py"
    for name in (
        *("resume", "browser_robust", "browser_tour", "browser", "retrain", "placing", "serving", "wheel"),
        *("browser_removal", "browser_hunt", "real_data"),
    )
]


def pytest_collection_modifyitems(items):
    """Files that take minutes come first, so that no process ends alone with one of them (--no-loadscope-reorder)."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With TRAKLENS_FORBID_SKIPS=browser,realdata a skip of a test with one of these markers is a failure."""
    outcome = yield
    report = outcome.get_result()
    forbidden = {name for name in os.environ.get("TRAKLENS_FORBID_SKIPS", "").split(",") if name}
    if report.skipped and not hasattr(report, "wasxfail") and forbidden & {mark.name for mark in item.iter_markers()}:
        report.outcome = "failed"
        report.longrepr = f"skipped where skips are forbidden: {call.excinfo.value if call.excinfo else ''}"


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory) -> Path:
    """A folder with data/, run/ and store/: 80 demo pairs, two checkpoints, k = 64, by the real pipeline."""
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.training.train import train
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    folder = tmp_path_factory.mktemp("tiny")
    data = write_demo_dataset(folder / "data", n=80, seed=0)
    train(load_dataset(data), folder / "run", checkpoints=2, epochs=2, batch_size=16, heldout=0.2)
    source = Source.open(data, run=folder / "run")
    build_store(
        source, folder / "store", ModelOutputSpec(n_reference=32), ProjectionSpec(dim=64), ScoreSpec(), batch_size=16
    )
    return folder


@pytest.fixture(scope="session")
def tiny_store(tiny_demo) -> Path:
    """The finished store of `tiny_demo`; tests that change it copy it first."""
    return tiny_demo / "store"


def copy_of(demo: Path, folder: Path) -> Path:
    """A copy of a demo's store in `folder`, to write into, with its run beside it: the store's path."""
    for name in ("run", "store"):
        shutil.copytree(demo / name, folder / name)
    return folder / "store"


@pytest.fixture
def own_store(tiny_demo, tmp_path) -> Path:
    """A copy of `tiny_store` that the test may change."""
    return copy_of(tiny_demo, tmp_path)


@pytest.fixture
def shown_store(own_store, monkeypatch) -> Path:
    """A copy of `tiny_store` that the pages show."""
    from traklens.app.caches import STORE_VARIABLE

    monkeypatch.setenv(STORE_VARIABLE, str(own_store))
    return own_store


def html_of(at) -> str:
    """Everything a page run by AppTest has written as HTML."""
    assert not at.exception
    return "\n".join(element.proto.body for element in at.get("html"))


HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script>",
    "# not a heading [link](javascript:alert(3)) **bold** :red[x] $x^2$ :smile:",
    "\u202eevil\u202c שלום עולם مرحبا",
    "🦊" * 200,
    "'\"--></bdi><b>&amp;",
    "w" * 10_000,
    "=HYPERLINK(1)|`rm`; [bold]rich[/bold]",
)


@pytest.fixture(scope="session")
def hostile_store(tmp_path_factory) -> Path:
    """A store whose captions are everything a page or a terminal could stumble over."""
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.training.train import train
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    folder = tmp_path_factory.mktemp("hostile")
    data = write_demo_dataset(folder / "data", n=21, seed=5)
    table = data / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    for i, row in enumerate(rows):
        row |= {"text": HOSTILE[i % len(HOSTILE)], "<b>name": "<i>value</i>"}
    table.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    train(load_dataset(data), folder / "run", checkpoints=1, epochs=1, batch_size=8, heldout=0.2)
    source = Source.open(data, run=folder / "run")
    build_store(source, folder / "store", ModelOutputSpec(n_reference=8), ProjectionSpec(dim=16), ScoreSpec())
    return folder / "store"


@pytest.fixture(scope="session")
def address(tiny_store):
    """Where a real server shows `tiny_store`."""
    with serving(tiny_store, own_port(8700)) as url:
        yield url


def own_port(wanted: int) -> int:
    """A free port near the wanted one, apart from those of tests that run beside this one."""
    from traklens.app.server import free_port

    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return free_port("127.0.0.1", wanted + 400 * int(worker))


@contextmanager
def serving_a_copy(demo: Path, folder: Path, port: int) -> Iterator[tuple[Path, str]]:
    """A server on a store of its own: the store's path and the server's address."""
    store = copy_of(demo, folder)
    with serving(store, own_port(port)) as url:
        yield store, url


@contextmanager
def serving(store: Path, port: int) -> Iterator[str]:
    """A server process that shows a store, ready to answer: its address."""
    command = [sys.executable, "-m", "traklens.app.server", str(store), "--port", str(port), "--no-browser"]
    server = subprocess.Popen(command, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    url = f"http://localhost:{port}"
    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: install Debian's `chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open an address in a fresh window; anything fetched from outside, or a dialog, fails the test."""
    contexts, outside, dialogs = [], [], []

    def open_page(
        url: str,
        width: int = 1440,
        height: int = 900,
        scheme: str = "light",
        ready: tuple[str, ...] = (".tl-target", ".js-plotly-plot"),
    ):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on(
            "request",
            lambda request: (
                outside.append(request.url)
                if request.url.split(":")[0] in ("http", "https", "ws", "wss") and "//localhost:" not in request.url
                else None
            ),
        )
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(url)
        for selector in ready:
            page.wait_for_selector(selector)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == []
    assert dialogs == []  # a caption that runs would open one


def settle(page) -> None:
    """Wait until the page listens and stands still: the script is done, what it drew has had its turn to bind its keys,
    and nothing moves any more; a button that moves between press and release is not clicked."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    page.wait_for_function(
        "() => document.getAnimations().every(a => a.playState !== 'running' || "
        "a.effect.getComputedTiming().endTime === Infinity)"
    )
    page.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"
    )


def recorded(page) -> None:
    """Wait until every key pressed on the Hunt page is on disk, and the page is the server's again."""
    page.wait_for_function("() => window.traklensHunt && window.traklensHunt.queue.length === 0", timeout=60_000)
    settle(page)


def shot(page, name: str) -> None:
    """Leave a screenshot in artifacts/ for people to look at."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.wait_for_timeout(700)
    page.screenshot(path=ARTIFACTS / f"{name}.png")
