"""Which task a command works on: by its name, or FILE.py:CLASS of the user's own."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traklens.engine.tasks import TASK_VARIABLE

if TYPE_CHECKING:
    from traklens.engine.tasks.contract import Task

TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="clip, image_classifier, text_classifier, seq2seq, causal_lm, or FILE.py:CLASS of your own; clip if not given.",
    ),
]
OwnTask = Annotated[
    str | None,
    typer.Option(
        "--task", help="FILE.py:CLASS of a store whose task is your own: its code runs only if you name it."
    ),
]


def name_task(name: str | None) -> None:
    """Name the user's own task for this process and those it begins."""
    if name is not None:
        file, _, kind = name.rpartition(":")
        os.environ[TASK_VARIABLE] = f"{Path(file).resolve()}:{kind}" if file else name


def task_or_clip(name: str | None) -> "Task":
    """The task of this name; CLIP if None. Raises UsageError."""
    from traklens.engine.tasks.registry import task_named

    return task_named(name or "clip")
