"""How the engine reports progress: it calls one function; the command line draws it.

`report(stage, done, total, detail)` names the stage in words for people, counts units of work (pairs) and may add
a short detail such as the loss. The engine never prints.
"""

from collections.abc import Callable

Report = Callable[[str, int, int, str], None]


def silent(stage: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing."""
