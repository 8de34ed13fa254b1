"""Build a store: pairs and checkpoints in, TRAK features and indices out. `traklens build`.

Stages, each resumable: examples and thumbnails → per checkpoint embeddings, then projected gradients → Gram matrix and
preconditioned rows → indices → checksums and rename. Memory does not grow with the number of pairs: every stage works
chunk by chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from traklens.engine.build.estimate import probe
from traklens.engine.build.indexing import write_indices
from traklens.engine.build.manifest import manifest_of
from traklens.engine.build.options import check_options
from traklens.engine.build.self_test import check_gradients, check_task
from traklens.engine.build.source import Source
from traklens.engine.features.embedding_map import write_map
from traklens.engine.features.featurize import Featurizer
from traklens.engine.features.precondition import DampedGram, gram_of
from traklens.engine.features.second_moments import estimated, kept_by_optimizer
from traklens.engine.progress import Report, silent
from traklens.engine.tasks.contract import Context, Training
from traklens.engine.tasks.loading import Loader
from traklens.engine.tasks.registry import guarded
from traklens.stores.builder import StoreBuilder
from traklens.stores.examples import WORDS, ExampleRow
from traklens.stores.features import chunks
from traklens.stores.layout import CONTEXT, EXAMPLES, INFLUENCE, MAP, SECOND_MOMENT, SIMILARITY, THUMBNAILS
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec


def build_store(
    source: Source,
    path: Path,
    output: ModelOutputSpec,
    projection: ProjectionSpec,
    score: ScoreSpec,
    *,
    batch_size: int = 64,
    gradients: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    restart: bool = False,
    report: Report = silent,
) -> None:
    """Build the store of `source` at `path`, or finish the build that is there.

    `gradients` names the path to per-sample gradients (hooks, single, vmap); the fastest on a few pairs if None.
    The scores agree up to rounding; the bytes only for the same path and `device` ("cpu" or "cuda").

    Gradients are compared with plain autograd on three examples first. Raises StoreError when `path` holds something else,
    DataError or ModelError for bad input or a model whose gradients come out wrong; whatever was computed stays and
    is used by the next try.
    """
    check_options(source, output, score, batch_size=batch_size, gradients=gradients)
    source = replace(source, task=source.task.bind(source.model, output))
    check_task(source, projection)
    manifest = manifest_of(source, path, output, projection, score)
    with StoreBuilder(path, manifest, overwrite=overwrite, restart=restart) as builder:
        if builder.finished:
            return
        if gradients is not None and "gradients" not in builder.manifest.options:
            builder.record(options={"gradients": gradients})
        work = Work(builder, source, batch_size, device, report)
        if not builder.is_done(FEATURES_STAGE.marker(0)):
            check_gradients(source, work.featurizer(0))
        for stage, m in planned(len(source.checkpoints)):
            if not builder.is_done(stage.marker(m)):
                with guarded(source.task):
                    stage.run(work, m)
                builder.mark_done(stage.marker(m))
        builder.finish()


@dataclass(frozen=True)
class Stage:
    """A part of a build that is done once, for the whole store or for each checkpoint.

    `makes` names the files, or the arrays of a checkpoint, that are whole once its marker is set; `needs` those of
    earlier stages that it reads. A stage that was cut is run again, and finishes what is there.
    """

    name: str
    run: Callable[["Work", int], None]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    per_checkpoint: bool = False

    def marker(self, m: int) -> str:
        """What progress.json calls it once it is done."""
        return f"{self.name} {m}" if self.per_checkpoint else self.name


def planned(checkpoints: int) -> list[tuple[Stage, int]]:
    """The stages in the order of a build: those of one checkpoint follow one another, so that it is loaded once."""
    first = next(i for i, stage in enumerate(STAGES) if stage.per_checkpoint)
    each = [stage for stage in STAGES if stage.per_checkpoint]
    plan = [(stage, 0) for stage in STAGES[:first]]
    plan += [(stage, m) for m in range(checkpoints) for stage in each]
    return plan + [(stage, 0) for stage in STAGES[first:] if not stage.per_checkpoint]


class Work:
    """A build under way: what its stages share. Holds one checkpoint at a time."""

    def __init__(self, builder: StoreBuilder, source: Source, batch_size: int, device: str, report: Report) -> None:
        self.builder, self.source, self.loader = builder, source, Loader(source.task, source.rows)
        self.batch_size, self.device, self.report = batch_size, device, report
        self._featurizer: tuple[int, Featurizer] | None = None

    def of(self, m: int) -> str:
        """A checkpoint, for people."""
        return f"checkpoint {m + 1} of {len(self.source.checkpoints)}"

    def featurizer(self, m: int) -> Featurizer:
        """Checkpoint m, ready to featurize; the path to gradients is chosen once and kept, so that a resumed build takes
        the same."""
        if self._featurizer is None or self._featurizer[0] != m:
            builder, source = self.builder, self.source
            manifest = builder.manifest
            model = source.task.load_checkpoint(source.model, source.checkpoints[m])
            if "gradients" not in manifest.options:
                choice = probe(source, self.loader, model, manifest.projection, self.device)
                builder.record(options={"gradients": choice.strategy})
            self._featurizer = (
                m,
                Featurizer(
                    source.task,
                    model,
                    manifest.projection,
                    m,
                    score=manifest.score,
                    strategy=builder.manifest.options["gradients"],
                    device=self.device,
                ),
            )
        return self._featurizer[1]


def _examples(work: Work, _: int) -> None:
    """The table of examples, and their pictures where they have any."""
    builder, source, made = work.builder, work.source, _made_words(work)
    builder.write_examples(
        ExampleRow(
            id=placed.example.id,
            group=placed.example.group,
            fields={**placed.example.fields, **made(row)},
            split="train" if row < source.n_train else "heldout",
            attributes=placed.example.attributes,
            source=placed.source,
        )
        for row, placed in enumerate(source.rows)
    )
    first = source.task.picture(work.loader.values(0))
    if first is None:
        return
    thumbnails = builder.thumbnail_writer()
    for row in range(source.n):
        thumbnails.append(source.task.picture(work.loader.values(row)))
        work.report("thumbnails", row + 1, source.n, "")
    thumbnails.close()


def _made_words(work: Work) -> Callable[[int], dict[str, str]]:
    """What the task calls examples that no field in words names."""
    task, loader = work.source.task, work.loader
    if task.spec().title != WORDS:
        return lambda row: {}
    return lambda row: {WORDS: task.words(loader.values(row))}


def _embeddings(work: Work, m: int) -> None:
    """Unit embeddings of every example; what f needs beside the example may be made of these."""
    builder, source, featurizer = work.builder, work.source, work.featurizer(m)
    if not source.task.embeddings:
        return
    for _, rows in chunks(source.n):
        for name, values in featurizer.embed(work.loader.load(rows.start, rows.stop)).items():
            builder.create(m, name, (source.n, values.shape[1]))
            builder.write(m, name, rows.start, values)
        work.report(f"embedding, {work.of(m)}", rows.stop, source.n, "")


def _features(work: Work, m: int) -> None:
    """f, Q and φ of every example under checkpoint m, and what f needs beside the example."""
    builder, source, featurizer = work.builder, work.source, work.featurizer(m)
    manifest, n = builder.manifest, source.n
    training = _training(work, m)
    context = _context(work, m, training)
    featurizer = featurizer.scaled(_second_moment(work, m, training, context))
    if source.subsets is not None:
        builder.create(m, "subset", (source.n_train,), "bool")
        builder.write(m, "subset", 0, source.subsets[m])
    stage = FEATURES_STAGE.marker(m)
    done = builder.chunks_done(stage)
    for number, rows in chunks(n):
        if number in done:
            continue
        source.task.check([placed.example for placed in source.rows[rows]], context)
        parts: dict[str, list[np.ndarray]] = {}
        for start in range(rows.start, rows.stop, work.batch_size):
            stop = min(start + work.batch_size, rows.stop)
            batch = work.loader.load(start, stop)
            embedded = {name: np.asarray(builder.array(m, name)[start:stop]) for name in source.task.embeddings}
            found = featurizer.measure(batch, context, embedded)
            found["phi"] = featurizer.project(batch, context, [p.example.id for p in source.rows[start:stop]])
            for name, values in found.items():
                parts.setdefault(name, []).append(values)
            work.report(f"gradients, {work.of(m)}", stop, n, manifest.options["gradients"])
        for name, found in parts.items():
            values = np.concatenate(found)
            builder.create(m, name, (n, *values.shape[1:]))
            builder.write(m, name, rows.start, values)
        builder.mark_chunk(stage, number)


def _training(work: Work, m: int) -> Training:
    """The training examples under checkpoint m, whose embeddings are there already."""
    builder, source, featurizer = work.builder, work.source, work.featurizer(m)

    def embed(rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(np.asarray(builder.array(m, name).oindex[rows])) for name in source.task.embeddings
        }

    streams = builder.manifest.dataset.streams
    return work.loader.training(featurizer.model, source.n_train, streams=streams, checkpoint=m, embed=embed)


def _context(work: Work, m: int, training: Training) -> dict[str, torch.Tensor]:
    """Draw what f needs beside the example under checkpoint m, and keep it."""
    builder = work.builder
    found = dict(work.source.task.context(work.featurizer(m).model, training))
    if tuple(found) != builder.manifest.context:
        builder.record(context=tuple(found))
    for name, values in found.items():
        builder.create(m, f"{CONTEXT}{name}", tuple(values.shape), str(values.numpy().dtype))
        builder.write(m, f"{CONTEXT}{name}", 0, values.numpy())
    return found


def _second_moment(work: Work, m: int, training: Training, context: Context) -> np.ndarray | None:
    """Second moments [p] by which gradients are scaled under checkpoint m, kept in the store; None where they are not."""
    builder, featurizer, kind = work.builder, work.featurizer(m), work.builder.manifest.score.second_moment
    if kind == "none":
        return None
    if kind == "optimizer":
        found = kept_by_optimizer(featurizer, work.source.checkpoints[m])
    else:
        stage, seed = f"second moments, {work.of(m)}", builder.manifest.projection.seed
        found = estimated(
            featurizer, training, context, seed=seed, report=lambda done, total: work.report(stage, done, total, "")
        )
    builder.create(m, SECOND_MOMENT, (1, found.size))  # one row, one chunk
    builder.write(m, SECOND_MOMENT, 0, found[None])
    return found


def precondition(builder: StoreBuilder, m: int, report: Report) -> None:
    """Gram matrix, its spectrum, and G⁻¹φ of every training example."""
    manifest = builder.manifest
    phi, dim, n = builder.array(m, "phi"), manifest.projection.dim, manifest.n_train
    stage = f"preconditioning, checkpoint {m + 1} of {len(manifest.checkpoints)}"
    gram = gram_of(manifest.score.gram, phi, n)
    builder.create(m, "gram_eigenvalues", (dim,))
    builder.write(m, "gram_eigenvalues", 0, np.linalg.eigvalsh(gram)[::-1].astype(np.float32))
    damped = DampedGram(gram, manifest.score.damping)
    builder.create(m, "preconditioned", (n, dim))
    for _, rows in chunks(n):
        builder.write(m, "preconditioned", rows.start, damped.solve(np.asarray(phi[rows])))
        report(stage, rows.stop, n, "")


# What a stage makes and needs, for every task. EMBEDDED stands for the task's embeddings, KEPT for what else its `measure`
# and `context` give: their names are in the manifest.
EMBEDDED, KEPT = "embeddings of the task", "kept by the task"
FEATURES_STAGE = Stage("features", _features, (EMBEDDED,), ("phi", "f", "q", "subset", KEPT, SECOND_MOMENT), True)
STAGES = (
    Stage("examples", _examples, (), (EXAMPLES, THUMBNAILS)),
    Stage("embeddings", _embeddings, (), (EMBEDDED,), True),
    FEATURES_STAGE,
    Stage(
        "precondition",
        lambda work, m: precondition(work.builder, m, work.report),
        ("phi",),
        ("gram_eigenvalues", "preconditioned"),
        True,
    ),
    Stage(
        "indices",
        lambda work, _: write_indices(work.builder, work.report),
        ("phi", "q", "preconditioned", EMBEDDED),
        tuple(f"{name}.{end}" for name in (INFLUENCE, SIMILARITY) for end in ("faiss", "json")),
    ),
    Stage("map", lambda work, _: write_map(work.builder, work.report), (EMBEDDED,), (MAP,)),
)
