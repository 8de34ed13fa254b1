"""What the commands share: common arguments, tables of facts, progress bars with rate and time left (plain lines
without a terminal)."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from traklens.engine.progress import Report

StoreDir = Annotated[Path, typer.Argument(help="A store written by `traklens build`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]

notes = Console(stderr=True)  # progress and remarks; results alone go to standard output
results = Console()

LINE_EVERY_SECONDS = 10.0


class RateColumn(ProgressColumn):
    """Units per second, with as many digits as help."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed and speed >= 10 else f"{speed:.1f}/s" if speed else "", style="cyan")


@contextmanager
def progress(console: Console) -> Iterator[Report]:
    """A `Report` that draws one bar per stage on a terminal and prints a line per stage elsewhere."""
    if console.is_terminal:
        with _bars(console) as report:
            yield report
    else:
        yield _lines(console)


@contextmanager
def _bars(console: Console) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[detail]}", style="dim"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def report(stage: str, done: int, total: int, detail: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, detail=detail, completed=done)
            bars.update(tasks[stage], completed=done, total=total, detail=detail)

        yield report


def _lines(console: Console) -> Report:
    started: dict[str, float] = {}
    printed: dict[str, float] = {}

    def report(stage: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        first = started.setdefault(stage, now)
        if done < total and now - printed.get(stage, first) < LINE_EVERY_SECONDS:
            return
        printed[stage] = now
        seconds = now - first
        left = f", {seconds / done * (total - done):.0f} s left" if 0 < done < total else ""
        console.print(f"{stage}: {done:,} of {total:,}, {seconds:.0f} s{left} {detail}".rstrip(), highlight=False)

    return report


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Two columns, names and values; a value that is a dict or a list is spelt out."""
    table = Table("", "", title=title, show_header=False)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = "\n".join(map(str, value)) or "none"
        table.add_row(name.replace("_", " "), Text(str(value)))
    return table
