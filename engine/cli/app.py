"""`traklens app` and `traklens demo`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from traklens.engine.cli.console import StoreDir, notes, progress, results
from traklens.engine.cli.data import LabelColumn
from traklens.engine.cli.tasks import OwnTask, name_task
from traklens.stores.errors import UsageError

LOCAL = "127.0.0.1"
TOKEN = "TRAKLENS_TOKEN"  # the server reads it from its environment, never from its command line


Port = Annotated[int, typer.Option(help="Port; the next free one if it is taken.", min=1, max=65_535)]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Do not open a browser window.")]


def open_app(
    store: StoreDir,
    port: Port = 8600,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than this machine's asks for a token.")
    ] = LOCAL,
    no_browser: NoBrowser = False,
    base_path: Annotated[str, typer.Option(help="Path below which a proxy serves it, such as /lab/traklens.")] = "",
    allow_host: Annotated[list[str] | None, typer.Option(help="Name that a proxy sends; repeat for several.")] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar=TOKEN, help="Nobody without it is let in; see --token-file.", show_envvar=True),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File that holds the token.")] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let everybody in who can reach --host.")] = False,
    task: OwnTask = None,
) -> None:
    """Open the application on a finished store."""
    from traklens.stores.store import open_store

    name_task(task)
    open_store(store)  # a bad store is named here, not in the browser
    secret = _token(token, token_file, no_token)
    arguments = [str(store), "--host", host, "--port", str(port), "--base-path", base_path]
    arguments += [part for name in allow_host or [] for part in ("--allow-host", name)]
    arguments += [*(["--no-browser"] if no_browser else []), *(["--no-token"] if no_token else [])]
    serve(arguments, secret)


def serve(arguments: list[str], token: str = "") -> None:
    """Become the server: one process, which ends with whatever ends the command. -P: no file of this folder is run."""
    os.environ |= {TOKEN: token} if token else {}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "traklens.app.server", *arguments])


def _token(token: str | None, file: Path | None, none: bool) -> str:
    if sum((token is not None, file is not None, none)) > 1:
        raise UsageError("app", "more than one of --token, --token-file and --no-token", "one of them", "Choose one.")
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                "--token-file", f"{file} ({error})", "a file with the token", "Check the path."
            ) from error
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(
            "--token", "fewer than 8 characters, or blanks", "8 or more letters and digits", "Try a longer one."
        )
    return token or ""


def demo(
    task: Annotated[str, typer.Option(help="clip or image_classifier.")] = "clip",
    data: Annotated[
        Path | None, typer.Option(help="image_classifier: labelled pictures of yours in place of drawn ones.")
    ] = None,
    label_column: LabelColumn = None,
    dir: Annotated[Path | None, typer.Option(help="Where to build it; the user's cache folder if not given.")] = None,
    port: Port = 8600,
    no_browser: NoBrowser = False,
    no_app: Annotated[bool, typer.Option("--no-app", help="Build the store and stop.")] = False,
    stamps: Annotated[
        bool, typer.Option("--stamps", help="Real pictures: fetches a Debian package, 160 MB.")
    ] = False,
    stamps_package: Annotated[Path | None, typer.Option(help="… or its .deb file, fetched before.")] = None,
    facts: Annotated[
        bool,
        typer.Option("--facts", help="Facts about people who do not exist, and a language model that learned them."),
    ] = False,
) -> None:
    """Make a data set, train small models on it, build a store and open the application. No download."""
    from traklens.engine.cli.demo import default_directory, prepare, prepare_classifier, prepare_facts

    real = stamps or stamps_package is not None
    if facts and (real or data or label_column or task != "clip"):
        raise UsageError("demo", "--facts with these options", "--facts alone", "Leave one out.")
    if task not in ("clip", "image_classifier") or (task == "image_classifier" and real) or (data and task == "clip"):
        raise UsageError(
            "demo",
            f"--task {task} with these options",
            "--data with image_classifier, --stamps with clip",
            "Leave one out.",
        )
    with progress(notes) as report:
        if facts:
            store = prepare_facts(dir or default_directory("demo-facts"), report)
        elif task == "image_classifier":
            folder = dir or default_directory("demo-classifier" if data is None else f"demo-{data.resolve().name}")
            store = prepare_classifier(folder, report, data=data, label_column=label_column)
        else:
            folder = dir or default_directory("demo-stamps" if real else "demo")
            store = prepare(folder, report, stamps=real, package=stamps_package)
    results.print(f"Demo store: {store}", highlight=False, soft_wrap=True)
    if not no_app:
        serve([str(store), "--port", str(port), *(["--no-browser"] if no_browser else [])])
