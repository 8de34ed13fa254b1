"""The tasks by name, and a user's own from the file that the user names.

A store records of an own task where it was written and a digest of that file. Its code runs only when the user names the
file (--task, or TRAKLENS_TASK for processes begun by this one): opening a store runs nothing.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from traklens.engine.data.load import Read
from traklens.engine.tasks import TASK_VARIABLE
from traklens.engine.tasks.contract import Task
from traklens.stores.checksums import digest
from traklens.stores.errors import TrakLensError, UsageError
from traklens.stores.specs import ModelSpec, TaskSpec

PACKAGE = "traklens.engine.tasks"
# name: module and class. Imported when asked for: CLIP's libraries take seconds, which other tasks need not wait for.
TASKS: Mapping[str, tuple[str, str]] = {
    "clip": ("clip", "ClipTask"),
    "image_classifier": ("image_classifier", "ImageClassifierTask"),
    "text_classifier": ("text_classifier", "TextClassifierTask"),
    "seq2seq": ("language", "Seq2SeqTask"),
    "causal_lm": ("language", "CausalTask"),
}


def _ours(name: str) -> Task:
    module, kind = TASKS[name]
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), kind)()


def is_ours(task: Task) -> bool:
    """Whether a task is one of the project's, not of a user's own."""
    kind = type(task)
    return any((kind.__module__, kind.__name__) == (f"{PACKAGE}.{module}", name) for module, name in TASKS.values())


def task_named(name: str) -> Task:
    """A task by its name, or FILE.py:CLASS of the user's own. Raises UsageError, with the user's line where it fails."""
    if name in TASKS:
        return _ours(name)
    file, _, kind = name.rpartition(":")
    if not file.endswith(".py"):
        raise UsageError("task", repr(name), f"{', '.join(TASKS)}, or FILE.py:CLASS", "Name one of them.")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"task {name}", f"no file {path}", "a Python file", "Check the path.")
    module = _loaded(path)
    found = getattr(module, kind, None)
    if not (isinstance(found, type) and issubclass(found, Task)):
        kinds = [n for n, x in vars(module).items() if isinstance(x, type) and issubclass(x, Task) and x is not Task]
        what = "no such class" if found is None else "no subclass of traklens.Task"
        raise UsageError(
            f"task {name}", what, f"one of {', '.join(kinds) or 'none'} of {path.name}", "Correct the name."
        )
    with in_your_code(name):
        return found()


def _loaded(path: Path):
    """A Python file as a module of its own name, so that its classes can be found again by child processes."""
    spec = importlib.util.spec_from_file_location(f"traklens_task_{digest(path)[:12]}", path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as importlib documents: dataclasses and pickling look there
    with in_your_code(str(path)):
        spec.loader.exec_module(module)
    return module


@contextmanager
def in_your_code(what: str) -> Iterator[None]:
    """Turn an error in a task of the user's own into one message with the user's file and line."""
    try:
        yield
    except TrakLensError:
        raise
    except Exception as error:
        raise user_error(what, error) from error


def guarded(task: Task) -> AbstractContextManager[None]:
    """`in_your_code` around what a task does, for one of the user's own; errors of ours are ours."""
    return nullcontext() if is_ours(task) else in_your_code(f"task {task.name!r}")


def seeded(task: Task, spec: ModelSpec, seed: int) -> nn.Module:
    """The task's model with first weights that depend on the seed alone, whether or not its code sees to that."""
    with torch.random.fork_rng(devices=[]), guarded(task):
        torch.manual_seed(seed)
        return task.build_model(spec, seed=seed)


def user_error(what: str, error: Exception) -> UsageError:
    """One message for an error raised by a user's code: the last of its lines that is theirs."""
    ours = Path(__file__).resolve().parents[2]
    place = ""
    for frame in inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []:
        file = Path(frame.filename)
        inside = (
            "site-packages" in file.parts or file.resolve().is_relative_to(ours) or frame.filename.startswith("<")
        )
        if not inside and file.is_file():
            line = (frame.code_context or [""])[0].strip()
            place = f" in line {frame.lineno} of {file.name}: {line}"
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return UsageError(what, f"{words[:400]}{place}", "code that runs", "Correct that line.")


def recorded(task: Task, name: str | None = None) -> TaskSpec:
    """The task as a store records it: for one of the user's own, with its file (`name`, FILE:CLASS) and its digest."""
    spec = task.spec()
    if is_ours(task):
        return spec
    file = inspect.getsourcefile(type(task)) if name is None else name.rpartition(":")[0]
    if file is None or not Path(file).is_file():
        return replace(spec, source="unknown")
    return replace(spec, source=digest(Path(file)), path=f"{Path(file).resolve()}:{type(task).__name__}")


def task_of(spec: TaskSpec, given: Task | str | None = None, *, exact: bool = False) -> Task:
    """The task of a store or run. One of the user's own must be `given`, by name or as the object itself.

    With `exact` its file must be the one that was recorded: another f would be compared with the stored one. Raises
    UsageError where it is not given, or is another one.
    """
    given = given if given is not None else os.environ.get(TASK_VARIABLE) or None
    if spec.name in TASKS and not spec.source:
        return _ours(spec.name).with_fields(spec.fields)
    if given is None:
        raise UsageError(
            f"task {spec.name!r}",
            "a task of your own, whose code is not run unless you name it",
            spec.path or "the file it is written in",
            f"Say --task {spec.path or 'FILE.py:CLASS'}.",
        )
    task = task_named(given) if isinstance(given, str) else given
    found = task.spec()
    if (found.name, found.fields) != (spec.name, spec.fields):
        raise UsageError(
            f"task {found.name!r}", "other fields", f"the task {spec.name!r} of the store", "Name that one."
        )
    source = recorded(task, given if isinstance(given, str) else None).source
    if exact and "unknown" not in (source, spec.source) and source != spec.source:
        raise UsageError(
            f"task {found.name!r}",
            f"a file that was changed since (sha256 {source[:12]}…)",
            f"the one the store was built with ({spec.source[:12]}…)",
            "Build the store again with the new one, or put the old one back.",
        )
    return task


def reading_of(task: Task) -> Read | None:
    """The task's own way to read a data set, where it has one."""
    return task.read if type(task).read is not Task.read else None
