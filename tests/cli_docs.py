"""The options of every command as Markdown, from the commands themselves: `python -m tests.cli_docs` renews docs/cli.md."""

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from traklens.engine.cli.main import app

PAGE = Path(__file__).resolve().parent.parent / "docs/cli.md"
BEGIN, END = "<!-- options: begin -->", "<!-- options: end -->"


def options() -> str:
    """A section per command: what it does, its arguments, its options with their defaults."""
    commands = {c.name or c.callback.__name__: c.callback for c in app.registered_commands if c.callback}
    return "\n\n".join(_section(name, commands[name]) for name in sorted(commands))


def _section(name: str, command: Any) -> str:
    hints = get_type_hints(command, include_extras=True)
    arguments, rows = [], []
    for parameter in inspect.signature(command).parameters.values():
        kind, told = _told(hints[parameter.name])
        if isinstance(told, ArgumentInfo):
            arguments.append(parameter.name.upper())
        else:
            rows.append(_row(parameter, kind, told))
    table = ["", "| option | |", "|---|---|", *rows] if rows else []
    return "\n".join([f"### traklens {' '.join([name, *arguments])}", _cell(inspect.getdoc(command)), *table])


def _told(hint: Any) -> tuple[Any, Any]:
    """The type of a parameter, and what its annotation tells typer."""
    assert get_origin(hint) is Annotated
    kind, *told = get_args(hint)
    return kind, next(item for item in told if isinstance(item, ArgumentInfo | OptionInfo))


def _row(parameter: inspect.Parameter, kind: Any, told: OptionInfo) -> str:
    name = next(iter(told.param_decls or ()), "--" + parameter.name.replace("_", "-"))
    default = parameter.default
    if kind is bool and default is True:
        name = f"{name} / --no-{parameter.name.replace('_', '-')}"
    if default is inspect.Parameter.empty:
        said = " (required)"
    else:
        said = "" if default is None or isinstance(default, bool) or default == "" else f" ({default})"
    return f"| `{name}` | {_cell(told.help)}{said} |"


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|")


def renewed(page: str) -> str:
    """The page with its options as they are now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{options()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
