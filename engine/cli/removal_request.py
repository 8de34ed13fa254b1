"""`traklens remove`: one removal in, the fixed JSON contract out."""

from pathlib import Path
from typing import Any

from traklens.engine.attribution.scores import stored_target
from traklens.engine.progress import Report, silent
from traklens.engine.removal.effect import METHODS
from traklens.engine.removal.simulation import choose, prediction_of
from traklens.engine.retraining.jobs import start, wait
from traklens.engine.retraining.measurements import Measurements
from traklens.stores.errors import DataError, UsageError
from traklens.stores.retrained import Request
from traklens.stores.store import Store


def answer(
    store: Store,
    *,
    id: str,
    top: int | None = None,
    ids: Path | None = None,
    method: str = "group",
    retrain: int | None = None,
    command: str | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Predict, and with `retrain` seeds measure, what removing pairs does to the target `id`.

    Returns {"target", "removed", "predicted": {"additive", "group", "interval"}, "measured"}, and "words" and "noun" for
    people; see docs/cli.md. Raises
    UsageError or DataError for a target or list that cannot be used.
    """
    if method not in METHODS:
        raise UsageError("--method", repr(method), " or ".join(METHODS), "Choose one of them.")
    target = stored_target(store, id)
    if ids is None:
        rows, choice = [int(row) for row in choose(store, target, "trak", top or 0)], f"trak {top}"
    else:
        rows, choice = listed_rows(store, ids)
    found = prediction_of(store, target, rows)
    predicted: dict[str, Any] = {
        "additive": found.additive,
        "group": found.group,
        "interval": None if found.interval is None else list(found.interval),
        "calibrated": found.calibrated,
    }
    request = Request(
        rows=tuple(rows), seeds=retrain or 0, target=target.row, choice=choice, command=command, predicted=predicted
    )
    measured = None
    if retrain is not None:
        job = start(store, request)
        status = wait(store, job, report)
        if status.state != "done":
            raise DataError(f"retraining {job}", status.state, "a finished retraining", status.detail or "Try again.")
        measured = Measurements(store).of(request)
    return {
        "target": {
            "id": target.id,
            store.task.title: target.words,
            "f": target.f,
            **({} if target.match is None else {"similarity": target.match.similarity}),
        },
        "words": target.words,
        "noun": store.noun,
        "removed": len(rows),
        "method": method,
        "predicted": predicted,
        "measured": None if measured is None else measured.to_json(),
    }


def listed_rows(store: Store, path: Path) -> tuple[list[int], str]:
    """Rows of the example ids in a text file, one per line. DataError naming the first line that is no training pair."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list {path}", str(error), "a text file of example ids", "Check the path.") from error
    rows = [store.examples.row_of(line) for line in lines]
    for line, row in zip(lines, rows, strict=True):
        if row >= store.n_train:
            raise DataError(
                f"list {path}", f"{line}, a held-out example", "training examples", "Take it off the list."
            )
    return rows, f"{path.name} ({len(rows)})"
