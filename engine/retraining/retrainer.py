"""Train one model again on chosen examples of a store, and measure every row with it."""

import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from traklens.engine.build.source import Source
from traklens.engine.data import load_again
from traklens.engine.progress import Report, silent
from traklens.engine.retraining.jobs import REFERENCE_SETS, ModelToTrain, RetrainingMethod, recipe_for
from traklens.engine.tasks.contract import Batch, Task, Training
from traklens.engine.tasks.loading import Loader, Placed
from traklens.engine.tasks.registry import reading_of, task_of
from traklens.engine.training.fit import fit
from traklens.stores.errors import ModelError, StoreError
from traklens.stores.retrained import RetrainedModel
from traklens.stores.specs import CLIP
from traklens.stores.store import Store

BATCH = 64  # rows measured at a time: small, since those of texts are padded to their longest
KEEP_LIST = {"caption": "title"}  # open_clip's name of the column
MOVED = "Put it back there, or say where it is with `traklens relocate STORE --data FOLDER`."


class Retrainer:
    """Everything needed to train and measure models of one store; reads the examples once."""

    def __init__(
        self, store: Store, method: RetrainingMethod, report: Report = silent, *, task: Task | str | None = None
    ) -> None:
        """Raises StoreError when the data set is no longer the one the store was built from, UsageError without the task."""
        self.store, self.method = store, method
        self.source = open_source(store, report, task=task)
        self.loader = Loader(self.source.task, self.source.rows)
        self.examples = self.loader.whole(report) if method.run is not None else None
        self.sets = min(store.n_checkpoints, REFERENCE_SETS)

    def train(self, wanted: ModelToTrain, partial: Path, report: Report = silent) -> RetrainedModel:
        """Train one model, or finish it, and measure every row of the store."""
        begun = time.monotonic()
        members = np.flatnonzero(wanted.kept)
        if self.method.run is None:
            model = self._by_command(members, wanted.seed, partial, report)
        else:
            spec, n = self.method.run.spec, self.store.n_train
            recipe = recipe_for(spec.recipe, n, members.size)
            assert self.examples is not None
            number = 1000 + wanted.seed  # apart from the run's own checkpoints
            streams, task = spec.dataset.streams, self.source.task
            model = fit(
                task, spec.model, recipe, number, self.examples, members, partial, streams=streams, report=report
            )
        f, similarity, arrays = self.measure(model.eval())
        if not np.isfinite(f).all():
            raise ModelError(
                "retrained model",
                f"a model output that is no number for {np.count_nonzero(~np.isfinite(f)):,} of {f.size:,} {self.store.noun}",
                "finite model outputs",
                "The training diverged: lower --learning-rate of `traklens train`, or look at your own command.",
            )
        kept = arrays if wanted.arrays else {}
        return RetrainedModel(wanted.kept, wanted.seed, f, similarity, time.monotonic() - begun, kept)

    @torch.no_grad()
    def measure(self, model: nn.Module) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """f and the plain measure (see `RetrainedModel`) of every row, float32 [n] each; further arrays [n, …].

        f is the mean over the store's first contexts (CLIP's sets of reference pairs), drawn for this model, as the store's
        f is the mean over its checkpoints.
        """
        task, found, parts = self.source.task, [], {}
        for m in range(self.sets):
            context = task.context(model, self._training(model, m))
            found.append(context)
            if not context:
                break
        for start in range(0, self.store.n, BATCH):
            batch = self._batch(np.arange(start, min(start + BATCH, self.store.n)))
            embedded = {name: values for name, values in task.embed(model, batch).items() if name in task.embeddings}
            measured = [task.measure(model, batch, context, embedded) for context in found]
            kept = {**embedded, **{name: x for name, x in measured[0].items() if name not in ("f", "q", "p")}}
            kept["f"] = torch.stack([one["f"] for one in measured]).mean(dim=0)
            pair = [embedded[name] for name in CLIP.embeddings if name in embedded]
            kept["similarity"] = (pair[0] * pair[1]).sum(dim=1) if len(pair) == 2 else 1 - measured[0]["q"]
            for name, values in kept.items():
                parts.setdefault(name, []).append(values.numpy())
        whole = {name: np.concatenate(values) for name, values in parts.items()}
        return whole.pop("f"), whole.pop("similarity"), whole

    def _batch(self, rows: np.ndarray) -> Batch:
        if self.examples is None:
            return self.loader.load_rows(rows)
        index = torch.from_numpy(rows)
        return self.source.task.trimmed({name: values[index] for name, values in self.examples.items()})

    def _training(self, model: nn.Module, m: int) -> Training:
        task = self.source.task

        def embed(rows: np.ndarray) -> Mapping[str, torch.Tensor]:
            parts = [task.embed(model, self._batch(part)) for part in np.array_split(rows, -(-rows.size // BATCH))]
            return {name: torch.cat([part[name] for part in parts]) for name in task.embeddings}

        streams = self.store.manifest.dataset.streams
        return self.loader.training(model, self.store.n_train, streams=streams, checkpoint=m, embed=embed)

    def _by_command(self, members: np.ndarray, seed: int, partial: Path, report: Report) -> nn.Module:
        """Call the user's own training with a keep-list and load the weights it leaves."""
        folder = partial.with_suffix(".command")
        folder.mkdir(parents=True, exist_ok=True)
        keep, out = folder / "keep.tsv", folder / "weights.safetensors"
        task = self.store.task
        lines = [f"filepath\t{KEEP_LIST.get(task.title, task.title)}"]
        for row in members:
            words = " ".join(str(self.store.examples.words[row]).split())
            image = self.source.rows[row].root / str(self.store.examples.image[row]) if task.first("image") else row
            lines.append(f"{image}\t{words}")
        keep.write_text("\n".join(lines) + "\n", encoding="utf-8")
        values = {"{keep}": str(keep), "{seed}": str(seed), "{out}": str(out)}
        command = [_filled(part, values) for part in shlex.split(self.method.command or "")]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise ModelError(
                "training command", f"{command[0]}: {error.strerror}", "a command", "Check the path."
            ) from error
        try:
            while process.poll() is None:
                report("training", 0, 1, "your command is running")
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode or not out.is_file():
            what = f"exit status {process.returncode}" if process.returncode else f"no weights at {out}"
            raise ModelError("training command", what, "exit status 0 and weights at {out}", "See the job's log.txt.")
        model = self.source.task.load_checkpoint(self.store.manifest.model, out)
        for file in (keep, out):
            file.unlink(missing_ok=True)
        folder.rmdir()
        return model


def _filled(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def open_source(store: Store, report: Report = silent, *, task: Task | str | None = None) -> Source:
    """The store's examples in row order, read from where the data set was, with the task bound to the store's model.

    Raises StoreError when the data are gone or an example of the store is no longer among them, UsageError where the task
    is the user's own and not given.
    """
    manifest, found = store.manifest, {}
    known = task_of(manifest.task, task, exact=True)
    datasets = []
    for name, spec in (("dataset", manifest.dataset), ("targets", manifest.targets)):
        if spec is None:
            continue
        root = spec.seen_from(store.path)
        if not root.exists():
            raise StoreError(f"data set {root}", "nothing there", "the original pictures", MOVED)
        dataset = load_again(root, spec, report, read=reading_of(known))
        datasets.append(dataset)
        found |= {(name, example.id): Placed(example, dataset.root, name) for example in dataset.examples}
    wanted = list(zip(store.examples.source[:], store.examples.id[:], strict=True))
    missing = [id for source, id in wanted if (source, id) not in found]
    if missing:
        raise StoreError(
            f"data set {store.data_root}",
            f"{len(missing)} of the store's {store.n} examples no longer there (the first is {missing[0]})",
            "the same data",
            "Put the data set back, or build the store again.",
        )
    rows = tuple(found[key] for key in wanted)
    further = datasets[1] if len(datasets) > 1 else None
    bound = known.bind(manifest.model, manifest.model_output)
    return Source(bound, datasets[0], further, rows, store.n_train, None, manifest.model, ())
