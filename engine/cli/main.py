"""The command line: `traklens data | train | build | query | remove | evaluate | hunt | export | report | info | app | demo`.

Each command reads its arguments, calls one function of the engine and prints. Heavy imports stand inside the
commands, so that `traklens --help` and `traklens query` answer at once.
"""

import sys
from importlib.metadata import version
from inspect import signature
from typing import Annotated

import typer
from rich.text import Text

from traklens.engine.cli.app import demo, open_app
from traklens.engine.cli.build import build
from traklens.engine.cli.console import notes
from traklens.engine.cli.data import data, relocate
from traklens.engine.cli.hunt import export, hunt
from traklens.engine.cli.query import info, query
from traklens.engine.cli.removal import evaluate, remove, report
from traklens.engine.cli.train import train
from traklens.stores.errors import TrakLensError, UsageError

FLAGS = {"dim": "--proj-dim", "leave_out": "--leave-k-out"}  # where an option has another name than the parameter
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"traklens {version('traklens')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Which training examples made the model do this, and what happens without them?"""


for command in (data, train, build, query, remove, evaluate, hunt, export, report, info, relocate, demo):
    app.command()(command)
app.command("app")(open_app)


def in_flags(error: TrakLensError) -> TrakLensError:
    """An error that names a parameter of the engine, naming the option of the command line instead."""
    parameters = {
        name for command in app.registered_commands for name in signature(command.callback or main).parameters
    }
    if not isinstance(error, UsageError) or error.item not in parameters | set(FLAGS):
        return error
    flag = FLAGS.get(error.item, f"--{error.item.replace('_', '-')}")
    return UsageError(flag, error.found, error.expected, error.remedy)


def main() -> None:
    """Entry point: errors of ours become one message and exit code 2, an interruption exit code 130."""
    try:
        app()
    except TrakLensError as error:
        notes.print(Text(f"error: {in_flags(error)}", style="red"), soft_wrap=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder one may not write to
        place = f" ({error.filename})" if error.filename else ""
        message = (
            f"error: {error.strerror or error}{place}. What was computed so far stays; repeat the command to go on."
        )
        notes.print(Text(message, style="red"), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        notes.print("Interrupted. The same command continues where it stopped.")
        sys.exit(130)


if __name__ == "__main__":
    main()
