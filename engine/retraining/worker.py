"""Train models again and measure them; `python -m traklens.engine.retraining.worker STORE JOB` carries out one job.

A model that is finished is never trained twice, one that was interrupted goes on from its partial weights, and one
another process is training is waited for.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from traklens.engine.progress import Report, silent
from traklens.engine.retraining.jobs import (
    ModelToTrain,
    RetrainingMethod,
    models_to_train,
    remove_partial,
    retraining_method,
)
from traklens.engine.retraining.retrainer import Retrainer
from traklens.engine.tasks.contract import Task
from traklens.stores.errors import TrakLensError
from traklens.stores.locks import writing
from traklens.stores.retrained import Retrained, Status, model_key
from traklens.stores.store import Store, open_store


class CancelledError(Exception):
    """Somebody asked for the job to stop."""


def train_models(
    store: Store,
    wanted: Sequence[ModelToTrain],
    *,
    method: RetrainingMethod | None = None,
    task: Task | str | None = None,
    report: Report = silent,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train and measure those of the wanted models that are not there yet, in order.

    `report` counts models; `stop` is asked at every step and ends the work by CancelledError. StoreError while the
    store is being built.
    """
    method = method or retraining_method(store)
    retrained = Retrained(store.path)
    names = list(dict.fromkeys(model_key(method.digest, w.kept, w.seed) for w in wanted))
    by_name = {model_key(method.digest, w.kept, w.seed): w for w in wanted}
    missing = [name for name in names if not retrained.has(name)]
    report("retraining", len(names) - len(missing), len(names), "")
    if not missing:
        return
    with writing(store.path, "store", shared=True):
        _train(store, Retrainer(store, method, task=task), names, by_name, missing, report, stop)


def _train(
    store: Store,
    retrainer: Retrainer,
    names: Sequence[str],
    by_name: Mapping[str, ModelToTrain],
    missing: Sequence[str],
    report: Report,
    stop: Callable[[], bool],
) -> None:
    """Train the missing ones of the named models; those that another process is training are waited for."""
    retrained, method = Retrained(store.path), retrainer.method
    (retrained.path / "work").mkdir(parents=True, exist_ok=True)
    while missing:
        waiting = []
        for name in missing:
            with retrained.training_lock(name) as free:
                if not free:
                    waiting.append(name)
                    continue
                if retrained.has(name):
                    continue
                at = sum(map(retrained.has, names))  # other processes may have finished some

                def step(_: str, done: int, total: int, detail: str = "", at: int = at) -> None:
                    if stop():
                        raise CancelledError
                    report("retraining", at, len(names), f"{100 * done / max(total, 1):.0f} % of the next model")

                model = retrainer.train(by_name[name], retrained.work(name), step)
                retrained.write(name, method.digest, model)
                retrained.work(name).unlink(missing_ok=True)
                report("retraining", at + 1, len(names), "")
        missing = [name for name in waiting if not retrained.has(name)]
        if missing:
            if stop():
                raise CancelledError
            time.sleep(0.5)


def work_on(store_path: Path, job: str) -> int:
    """Carry out one job; returns the exit status of the process."""
    retrained = Retrained(store_path)
    with retrained.running(job) as free:
        if not free:
            return 0
        return _carry_out(store_path, retrained, job)


def _carry_out(store_path: Path, retrained: Retrained, job: str) -> int:
    begun, written = time.time(), 0.0
    status = Status("running", started=begun, updated=begun)
    retrained.write_status(job, status)
    request = retrained.request(job)

    def report(_: str, done: int, total: int, detail: str = "") -> None:
        nonlocal written, status
        if time.monotonic() - written > 0.5 or done != status.done:
            written = time.monotonic()
            status = Status("running", done, total, detail, started=begun, updated=time.time())
            retrained.write_status(job, status)

    try:
        store = open_store(store_path)
        train_models(
            store,
            models_to_train(store, request),
            method=retraining_method(store, request.command),
            report=report,
            stop=lambda: retrained.cancelled(job),
        )
    except CancelledError:
        remove_partial(open_store(store_path), request)
        shutil.rmtree(retrained.job(job), ignore_errors=True)
        return 0
    except (TrakLensError, OSError) as error:
        retrained.write_status(job, replace(status, state="failed", detail=str(error), updated=time.time()))
        return 1
    retrained.write_status(job, replace(status, state="done", done=status.total, detail="", updated=time.time()))
    return 0


if __name__ == "__main__":
    sys.exit(work_on(Path(sys.argv[1]), sys.argv[2]))
