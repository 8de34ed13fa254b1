"""`traklens app` and `traklens demo`."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.console import StoreDir, notes, progress, results


def open_app(
    store: StoreDir,
    port: Annotated[int, typer.Option(help="Port; the next free one if it is taken.")] = 8600,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser window.")] = False,
) -> None:
    """Open the application on a finished store."""
    from stores.store import open_store

    open_store(store)  # a bad store is named here, not in the browser
    arguments = [sys.executable, "-m", "app.server", str(store), "--host", host, "--port", str(port)]
    raise typer.Exit(subprocess.call(arguments + (["--no-browser"] if no_browser else [])))


def demo(
    dir: Annotated[Path | None, typer.Option(help="Where to build it; the user's cache folder if not given.")] = None,
    port: Annotated[int, typer.Option(help="Port of the application.")] = 8600,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser window.")] = False,
    no_app: Annotated[bool, typer.Option("--no-app", help="Build the store and stop.")] = False,
    stamps: Annotated[
        bool, typer.Option("--stamps", help="Real pictures: fetches a Debian package, 160 MB.")
    ] = False,
    stamps_package: Annotated[Path | None, typer.Option(help="… or its .deb file, fetched before.")] = None,
) -> None:
    """Draw a data set, train four small models on it, build a store and open the application. No download."""
    from engine.demo import default_directory, prepare

    real = stamps or stamps_package is not None
    with progress(notes) as report:
        folder = dir or default_directory("demo-stamps" if real else "demo")
        store = prepare(folder, report, stamps=real, package=stamps_package)
    results.print(f"Demo store: {store}", highlight=False, soft_wrap=True)
    if not no_app:
        open_app(store, port=port, host="127.0.0.1", no_browser=no_browser)
