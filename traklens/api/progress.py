"""How far a long call is, as the command line shows it."""

from collections.abc import Iterator
from contextlib import contextmanager

from traklens.engine.progress import Report, silent


@contextmanager
def drawn(wanted: bool) -> Iterator[Report]:
    """A report that draws bars on a terminal and lines elsewhere, or one that says nothing."""
    if not wanted:
        yield silent
        return
    from traklens.engine.cli.console import notes, progress

    with progress(notes) as report:
        yield report
