"""`traklens demo`: draw a data set, train on it, build a store, with nothing to download."""

import os
from pathlib import Path

from traklens.engine.progress import Report

PAIRS, PLATES = 2_000, 2_000
CHECKPOINTS = 4


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
    store = directory / "store"
    if (store / "manifest.json").is_file():
        from traklens.stores.store import open_store

        open_store(store)
        return store
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.data.demo_stamps import write_stamps
    from traklens.engine.training.train import train
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    def drawn(done: int, total: int) -> None:
        report("unpacking pictures" if stamps else "drawing pairs", done, total or done, "")

    if stamps:
        data = write_stamps(directory / "data", package, drawn)
    else:
        data = write_demo_dataset(directory / "data", n=pairs, seed=0, progress=drawn)
    dataset = load_dataset(data, report=report)
    train(dataset, directory / "run", checkpoints=checkpoints, report=report)
    source = Source.open(data, run=directory / "run", report=report)
    build_store(source, store, ModelOutputSpec(), ProjectionSpec(), ScoreSpec(), report=report)
    return store


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
    store = directory / "store"
    if (store / "manifest.json").is_file():
        from traklens.stores.store import open_store

        open_store(store)
        return store
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.data import load_dataset
    from traklens.engine.data.demo import write_demo_dataset
    from traklens.engine.tasks.image_classifier import ImageClassifierTask
    from traklens.engine.training.train import train
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    if data is None:
        data = directory / "data"
        write_demo_dataset(data, n=examples, seed=0, progress=lambda done, n: report("drawing plates", done, n, ""))
    task = ImageClassifierTask()
    dataset = load_dataset(data, fields=task.fields, label_column=label_column, report=report)
    train(dataset, directory / "run", task=task, checkpoints=checkpoints, report=report)
    source = Source.open(data, run=directory / "run", report=report)
    build_store(source, store, ModelOutputSpec(), ProjectionSpec(), ScoreSpec(), report=report)
    return store
