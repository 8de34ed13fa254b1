"""STORE/retrained/: what retrained models measured, and the jobs that train them.

models/KEY.npz          one retrained model: the training pairs it kept, its seed, f and cosine of every row
work/KEY.*              partial weights and lock of a model being trained
jobs/ID/request.json    what was asked; status.json how far it is; cancel, log.txt and lock beside them

Added to a finished store, so without checksums; a rebuild keeps the folder. A model's key names the way it was trained,
the pairs it kept and its seed: whoever needs the same model finds it, and one of another recipe is never taken for it.
"""

import contextlib
import fcntl
import hashlib
import io
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from traklens.stores.atomic import read_json, write_bytes, write_json
from traklens.stores.errors import StoreError
from traklens.stores.layout import RETRAINED
from traklens.stores.specs import from_dict

T = TypeVar("T")
SECONDS_TO_BEGIN = 60.0
FINISHED = ("done", "cancelled", "failed")
ARRAY = "array_"  # begins the keys of further arrays
OF_VERSION_0_1 = {"image": "image_embedding", "text": "text_embedding"}


@dataclass(frozen=True)
class RetrainedModel:
    """One measurement. kept: bool [n_train]; f and similarity: float32 [n] of every row of the store.

    similarity is the task's plain measure: CLIP's cosine of image and caption, else 1 − Q, the probability of the label.
    arrays: what else was asked for, float16 [n, …] by the names of the store's arrays (embeddings, probabilities).
    """

    kept: np.ndarray
    seed: int
    f: np.ndarray
    similarity: np.ndarray
    seconds: float
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A retraining somebody asked for: train without `rows`, `seeds` times, and controls beside it.

    `target` is the row whose output is in question; `choice` says in words how the rows were chosen; `command` is the
    user's own training command for models this project did not train; `origin` is "asked", or "evaluate" for those of
    an evaluation.
    """

    rows: tuple[int, ...]
    seeds: int
    target: int | None = None
    choice: str = "chosen by hand"
    random_control: bool = True
    command: str | None = None
    origin: str = "asked"
    created: float = 0.0
    predicted: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """How far a job is. state: waiting, running, interrupted, done, cancelled or failed; done and total count models."""

    state: str
    done: int = 0
    total: int = 0
    detail: str = ""
    started: float = 0.0
    updated: float = 0.0


def model_key(training: str, kept: np.ndarray, seed: int) -> str:
    """Name of a retrained model: digest of how (`training`), on which pairs (bool [n_train]) and with which seed."""
    digest = hashlib.sha256(f"{training}:{seed}:{kept.size}:".encode())
    digest.update(np.packbits(kept).tobytes())
    return digest.hexdigest()[:24]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file; yields False when another process has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _array_name(key: str) -> str:
    """Name of a kept array by its key in the file; empty for what is none."""
    return OF_VERSION_0_1.get(key, key.removeprefix(ARRAY) if key.startswith(ARRAY) else "")


class Retrained:
    """The retrained models and jobs of one store. Holds paths only; every call looks at the disk."""

    def __init__(self, store: Path) -> None:
        self.path = store / RETRAINED

    # Models.

    def model_path(self, key: str) -> Path:
        return self.path / "models" / f"{key}.npz"

    def has(self, key: str) -> bool:
        return self.model_path(key).is_file()

    def write(self, key: str, training: str, model: RetrainedModel) -> None:
        """Keep a measurement, whole or not at all."""
        buffer = io.BytesIO()
        arrays = {f"{ARRAY}{name}": values.astype(np.float16) for name, values in model.arrays.items()}
        np.savez(
            buffer,
            training=np.frombuffer(training.encode(), dtype=np.uint8),
            kept=np.packbits(model.kept),
            n_train=np.int64(model.kept.size),
            seed=np.int64(model.seed),
            f=model.f.astype(np.float32),
            similarity=model.similarity.astype(np.float32),
            seconds=np.float64(model.seconds),
            **arrays,  # type: ignore[arg-type]
        )
        self.model_path(key).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.model_path(key), buffer.getvalue())

    def read(self, key: str) -> RetrainedModel:
        """One measurement. StoreError when it is missing or damaged."""
        return self._read(self.model_path(key))[1]

    def all(self, training: str) -> list[RetrainedModel]:
        """Every measurement of models trained in this way, in the order of their keys."""
        found = (self._read(path) for path in sorted((self.path / "models").glob("*.npz")))
        return [model for way, model in found if way == training]

    def _read(self, path: Path) -> tuple[str, RetrainedModel]:
        try:
            with np.load(path, allow_pickle=False) as found:
                n = int(found["n_train"])
                model = RetrainedModel(
                    kept=np.unpackbits(found["kept"], count=n).astype(bool),
                    seed=int(found["seed"]),
                    f=found["f"],
                    similarity=found["similarity"],
                    seconds=float(found["seconds"]),
                    arrays={_array_name(name): found[name] for name in found.files if _array_name(name)},
                )
                return found["training"].tobytes().decode(), model
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise StoreError(
                f"{path}", f"unreadable ({error})", "a retrained model", "Remove that file and retrain it."
            ) from error

    def work(self, key: str) -> Path:
        """Where the partial weights of a model under way are kept."""
        return self.path / "work" / f"{key}.partial.safetensors"

    @contextlib.contextmanager
    def training_lock(self, key: str) -> Iterator[bool]:
        """Hold a model while it is trained; yields False when another process holds it."""
        path = self.path / "work" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path) as free:
            try:
                yield free
            finally:
                if free:
                    path.unlink(missing_ok=True)

    # Jobs.

    def add_job(self, request: Request, job: str | None = None) -> str:
        """Write a request down, under a new id or the given one; returns the id."""
        job = job or time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]
        folder = self.job(job)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "request.json", asdict(request))
        self.write_status(job, Status("waiting", updated=time.time()))
        return job

    def job(self, job: str) -> Path:
        """Folder of a job. StoreError for a name that is none of ours."""
        if not job.replace("-", "").isalnum():
            raise StoreError("retraining", repr(job), "the id of a job", "Take one from the list.")
        return self.path / "jobs" / job

    def jobs(self) -> list[str]:
        """Ids of all jobs, newest first."""
        return sorted((path.parent.name for path in self.path.glob("jobs/*/request.json")), reverse=True)

    def request(self, job: str) -> Request:
        request = self._of(Request, self.job(job) / "request.json")
        return replace(request, rows=tuple(request.rows))

    def write_status(self, job: str, status: Status) -> None:
        if self.job(job).is_dir():
            write_json(self.job(job) / "status.json", asdict(status))

    def status(self, job: str) -> Status:
        """How far a job is; one whose process has ended without a word is `interrupted`."""
        status = self._of(Status, self.job(job) / "status.json")
        if self._is_orphan(job, status):
            status = self._of(Status, self.job(job) / "status.json")  # it may have ended between the two looks
            if self._is_orphan(job, status):
                return replace(status, state="interrupted")
        return status

    def _is_orphan(self, job: str, status: Status) -> bool:
        """Whether a job should have a process and has none; one that is to begin has a minute to do so."""
        late = status.state == "waiting" and time.time() - status.updated > SECONDS_TO_BEGIN
        return (status.state == "running" or late) and not self.is_running(job)

    def is_running(self, job: str) -> bool:
        """Whether a process holds the job."""
        try:
            with (self.job(job) / "lock").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @contextlib.contextmanager
    def running(self, job: str) -> Iterator[bool]:
        """Hold the job while its process works on it; yields False when another process does."""
        with _locked(self.job(job) / "lock") as free:
            yield free

    def ask_to_cancel(self, job: str) -> None:
        (self.job(job) / "cancel").touch()

    def cancelled(self, job: str) -> bool:
        return (self.job(job) / "cancel").exists() or not self.job(job).is_dir()

    @staticmethod
    def _of(kind: type[T], path: Path) -> T:
        return from_dict(kind, read_json(path, "a retraining job", "Ask for it again."))
