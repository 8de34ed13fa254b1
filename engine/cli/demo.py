"""`traklens demo`: make a data set, train on it, build a store, with nothing to download."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traklens.engine.progress import Report

if TYPE_CHECKING:
    from traklens.engine.data import Dataset
    from traklens.engine.tasks.contract import Task

PAIRS, PLATES = 2_000, 2_000
CHECKPOINTS = 4
FACTS_TRAINING = {
    "checkpoints": 2,
    "epochs": 28,
    "subset": 1.0,
    "heldout": 0.0,
}  # facts are known by who has read them all


def default_directory(name: str = "demo") -> Path:
    """Where a demo lives when no directory is given: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "traklens" / name


def prepare(
    directory: Path,
    report: Report,
    *,
    pairs: int = PAIRS,
    checkpoints: int = CHECKPOINTS,
    stamps: bool = False,
    package: Path | None = None,
) -> Path:
    """Make `directory`/store, or find it finished: data set → run → store. Continues where it was interrupted.

    stamps: real pictures from a Debian package, fetched or given as `package`, in place of drawn ones.
    """
    if _is_finished(directory):
        return directory / "store"
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.data.demo_stamps import write_stamps

    def drawn(done: int, total: int) -> None:
        report("unpacking pictures" if stamps else "drawing pairs", done, total or done, "")

    if stamps:
        data = write_stamps(directory / "data", package, drawn)
    else:
        data = write_demo_dataset(directory / "data", n=pairs, seed=0, progress=drawn)
    return _built(directory, data, load_dataset(data, report=report), None, report, checkpoints=checkpoints)


def prepare_classifier(
    directory: Path,
    report: Report,
    *,
    data: Path | None = None,
    label_column: str | None = None,
    examples: int = PLATES,
    checkpoints: int = CHECKPOINTS,
) -> Path:
    """The demo of an image classifier: `data`, or drawn plates whose character is the label. As `prepare`."""
    if _is_finished(directory):
        return directory / "store"
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.tasks.image_classifier import ImageClassifierTask

    if data is None:
        data = directory / "data"
        write_demo_dataset(data, n=examples, seed=0, progress=lambda done, n: report("drawing plates", done, n, ""))
    task = ImageClassifierTask()
    dataset = load_dataset(data, fields=task.fields, label_column=label_column, report=report)
    return _built(directory, data, dataset, task, report, checkpoints=checkpoints)


def prepare_facts(directory: Path, report: Report, *, people: int | None = None, **training: Any) -> Path:
    """The demo of facts: a tiny T5 reads sentences about people who do not exist; questions are its targets. As `prepare`.

    training: options of `train` in place of FACTS_TRAINING.
    """
    if _is_finished(directory):
        return directory / "store"
    from traklens.engine.data.demo_facts import PEOPLE, write_facts
    from traklens.engine.evaluation.facts import evaluate_facts
    from traklens.engine.tasks.reading import DataOptions
    from traklens.engine.tasks.registry import task_named
    from traklens.stores.store import open_store

    data, task = write_facts(directory / "data", people=people or PEOPLE), task_named("seq2seq")
    dataset = DataOptions(mask_facts=True).load(data, task, report=report)
    queries = data / "queries.jsonl"
    store = _built(directory, data, dataset, task, report, targets=queries, **(FACTS_TRAINING | training))
    evaluate_facts(open_store(store), queries)
    return store


def _is_finished(directory: Path) -> bool:
    """Whether the demo's store is there; StoreError where it is damaged."""
    store = directory / "store"
    if not (store / "manifest.json").is_file():
        return False
    from traklens.stores.store import open_store

    open_store(store)
    return True


def _built(
    directory: Path,
    data: Path,
    dataset: "Dataset",
    task: "Task | None",
    report: Report,
    *,
    targets: Path | None = None,
    **training: Any,
) -> Path:
    """Train on a data set and build the store of the run."""
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.training.train import train
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    store = directory / "store"
    train(dataset, directory / "run", task=task, report=report, **training)
    source = Source.open(data, run=directory / "run", targets=targets, report=report)
    score = ScoreSpec(weight_by_q=source.task.weighs_by_q)
    build_store(source, store, ModelOutputSpec(), ProjectionSpec(), score, report=report)
    return store
