"""A run directory: what `traklens train` writes and `traklens build --run` reads.

RUN/run.json                         specification, what was read, library versions, finished checkpoints, quality
RUN/split.parquet                    id, split, in_0 … in_{M-1}: who was held out, who trained which checkpoint
RUN/checkpoint_0.safetensors …       weights
RUN/checkpoint_0.partial.safetensors weights and optimizer of a checkpoint still being trained
RUN/log.jsonl                        one line per epoch: checkpoint, epoch, loss, seconds
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traklens.engine.data import Dataset
from traklens.engine.streams import STREAMS
from traklens.engine.training.split import Split
from traklens.stores.atomic import read_json, write_json
from traklens.stores.errors import StoreError
from traklens.stores.placing import clean
from traklens.stores.specs import CLIP, DatasetSpec, ModelSpec, TaskSpec, differences, from_dict, placeless, to_dict

MAGIC = "traklens-run"
SPLIT = "split.parquet"
SCHEMA = 1
REMEDY = "Train one with `traklens train DATA --out RUN_DIR`."


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is trained; a change of any field changes the weights.

    steps: how many each model takes, whatever it sees; 0: as many as `epochs` passes over its own part have (runs of before).
    average: decay of the running mean of the weights that a model ends with (less in very short runs); 0: those of the last
    step.
    """

    checkpoints: int
    epochs: int
    subset: float
    heldout: float
    seed: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    augment: str
    optimizer: str = "adamw"
    steps: int = 0
    average: float = 0.0


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the numbers of a run."""

    dataset: DatasetSpec
    model: ModelSpec
    recipe: Recipe
    task: TaskSpec = CLIP


@dataclass(frozen=True)
class Run:
    """A run directory opened for reading."""

    path: Path
    spec: RunSpec
    quality: dict[str, dict[str, float]]

    def checkpoint(self, m: int) -> Path:
        return checkpoint_path(self.path, m)

    def split(self, dataset: Dataset) -> Split:
        """The recorded split, in the order of `dataset` (which must be the run's)."""
        table = pq.read_table(self.path / SPLIT)
        position = {example.id: i for i, example in enumerate(dataset.examples)}
        ids = table["id"].to_pylist()
        unknown = [id_ for id_ in ids if id_ not in position]
        if unknown or len(ids) != len(dataset.examples):
            raise StoreError(
                f"run {self.path}",
                f"{len(dataset.examples)} {dataset.account.noun} in the data set, {len(ids)} in the run, {len(unknown)} "
                "unknown",
                f"the {dataset.account.noun} the run was trained on",
                "Give `build` the same data and options as `train`, or train again.",
            )
        order = np.array([position[id_] for id_ in ids])
        is_train = np.array([split == "train" for split in table["split"].to_pylist()])
        subsets = np.stack([table[f"in_{m}"].to_numpy()[is_train] for m in range(self.spec.recipe.checkpoints)])
        return Split(train=order[is_train], heldout=order[~is_train], subsets=subsets)


def streams_of(path: Path) -> int:
    """The version of the random streams to draw by for a run at `path`: that of the run that is there, or the newest."""
    return open_run(path).spec.dataset.streams if (path / "run.json").is_file() else STREAMS


def checkpoint_path(run: Path, m: int) -> Path:
    return run / f"checkpoint_{m}.safetensors"


def start_run(path: Path, spec: RunSpec, dataset: Dataset, split: Split, libraries: dict[str, str]) -> Run:
    """Create the run directory, or continue one of the same specification. The caller holds its lock.

    Raises StoreError when the directory holds a run of another specification, naming what differs.
    """
    clean(path)
    if (path / "run.json").is_file():
        run = open_run(path)
        found = differences(placeless(to_dict(run.spec)), placeless(to_dict(spec)))
        if found:
            raise StoreError(
                f"run {path}",
                "; ".join(found),
                "the same specification",
                "Choose another --out or remove that folder.",
            )
        return run
    if path.exists() and (not path.is_dir() or any(entry.name != SPLIT for entry in path.iterdir())):
        raise StoreError(f"run {path}", "other files there", "a new or empty folder", "Choose another --out.")
    path.mkdir(parents=True, exist_ok=True)
    _write_split(path, dataset, split)
    write_json(
        path / "run.json",
        {
            "magic": MAGIC,
            "schema": SCHEMA,
            "spec": to_dict(spec),
            "libraries": libraries,
            "quality": {},
            "data": asdict(dataset.account),
        },
    )
    return open_run(path)


def _write_split(path: Path, dataset: Dataset, split: Split) -> None:
    rows = np.concatenate([split.train, split.heldout])
    nowhere = np.zeros((len(split.subsets), split.heldout.size), dtype=bool)
    columns: dict[str, object] = {
        "id": [dataset.examples[i].id for i in rows],
        "split": ["train"] * split.train.size + ["heldout"] * split.heldout.size,
    }
    for m, members in enumerate(np.concatenate([split.subsets, nowhere], axis=1)):
        columns[f"in_{m}"] = members
    pq.write_table(pa.table(columns), path / SPLIT)


def record_quality(run: Run, m: int, quality: dict[str, float]) -> None:
    """Note that checkpoint m is finished, with its held-out figures."""
    found = read_json(run.path / "run.json", "a run", REMEDY)
    found["quality"][str(m)] = quality
    write_json(run.path / "run.json", found)


def open_run(path: Path) -> Run:
    """Open a run directory. StoreError for a missing, foreign, damaged or newer one."""
    file = path / "run.json"
    if not file.is_file():
        raise StoreError(f"run {path}", "no run.json", "a run directory", REMEDY)
    found = read_json(file, "a run", REMEDY)
    if not isinstance(found, dict) or found.get("magic") != MAGIC:
        raise StoreError(f"run {path}", "a run.json of something else", f'"magic": "{MAGIC}"', REMEDY)
    if found["schema"] > SCHEMA:
        raise StoreError(
            f"run {path}",
            f"schema {found['schema']}",
            f"schema {SCHEMA} or older",
            "Update TrakLens to read it.",
        )
    return Run(path=path, spec=from_dict(RunSpec, found["spec"]), quality=found["quality"])
