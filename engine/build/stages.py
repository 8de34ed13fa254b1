"""Build a store: pairs and checkpoints in, TRAK features and indices out. `traklens build`.

Stages, each resumable: examples and thumbnails → per checkpoint embeddings, then projected gradients → Gram matrix and
preconditioned rows → indices → checksums and rename. Memory does not grow with the number of pairs: every stage works
chunk by chunk.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from traklens.engine.attribution.new_target import file_sha256
from traklens.engine.build.estimate import probe
from traklens.engine.build.indexing import write_indices
from traklens.engine.build.source import PairLoader, Source
from traklens.engine.data import open_stored
from traklens.engine.features.embedding_map import write_map
from traklens.engine.features.featurize import Featurizer, References
from traklens.engine.features.precondition import DampedGram, gram_matrix
from traklens.engine.gradients import STRATEGIES
from traklens.engine.models.checkpoints import load_checkpoint
from traklens.engine.progress import Report, silent
from traklens.engine.tasks.clip import draw_references, keep_mask
from traklens.engine.versions import libraries
from traklens.stores.builder import StoreBuilder
from traklens.stores.errors import UsageError
from traklens.stores.examples import ExampleRow
from traklens.stores.features import EMBEDDINGS, chunks
from traklens.stores.layout import SCHEMA, relative_path
from traklens.stores.specs import CheckpointSpec, Manifest, ModelOutputSpec, ProjectionSpec, ScoreSpec, seen_from


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

    Raises StoreError when `path` holds something else, DataError or ModelError for bad input; whatever was computed
    stays and is used by the next try.
    """
    if batch_size < 1:
        raise UsageError("--batch-size", str(batch_size), "1 or more", "Try 64.")
    if output.temperature not in ("checkpoint", "one"):
        raise UsageError("--temperature", repr(output.temperature), "checkpoint or one", "Choose one of them.")
    if not 0 <= score.damping < np.inf:
        raise UsageError("--damping", str(score.damping), "a finite number, 0 or more", "Try 1.")
    if gradients not in (None, *STRATEGIES):
        raise UsageError("--gradients", repr(gradients), ", ".join(STRATEGIES), "Leave it out to take the fastest.")
    manifest = _manifest(source, path, output, projection, score)
    with StoreBuilder(path, manifest, overwrite=overwrite, restart=restart) as builder:
        if builder.finished:
            return
        loader = PairLoader(source)
        if gradients is not None and "gradients" not in builder.manifest.options:
            builder.record(options={"gradients": gradients})
        _write_examples(builder, source, report)
        for m in range(len(source.checkpoints)):
            if not builder.is_done(f"features {m}"):
                _featurize(builder, source, loader, m, batch_size, device, report)
            if not builder.is_done(f"precondition {m}"):
                precondition(builder, m, report)
        write_indices(builder, report)
        write_map(builder, report)
        builder.finish()


def _manifest(
    source: Source, path: Path, output: ModelOutputSpec, projection: ProjectionSpec, score: ScoreSpec
) -> Manifest:
    checkpoints = tuple(
        CheckpointSpec(
            path=relative_path(file, path),
            sha256=file_sha256(file),
            subset=None
            if source.subsets is None
            else f"{source.subsets[m].sum()} of {source.n_train} training pairs",
        )
        for m, file in enumerate(source.checkpoints)
    )
    return Manifest(
        schema=SCHEMA,
        state="building",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=seen_from(path, source.dataset.spec),
        targets=seen_from(path, source.targets.spec) if source.targets else None,
        model=source.model,
        checkpoints=checkpoints,
        model_output=output,
        projection=projection,
        score=score,
        n_train=source.n_train,
        n_heldout=source.n - source.n_train,
        libraries=libraries(),
        options={"data": source.dataset.account.facts()},
    )


def _write_examples(builder: StoreBuilder, source: Source, report: Report) -> None:
    if builder.is_done("examples"):
        return
    builder.write_examples(
        ExampleRow(
            id=pair.example.id,
            image_id=pair.example.image_id,
            image=pair.example.image,
            source=pair.source,
            caption=pair.example.caption,
            split="train" if row < source.n_train else "heldout",
            attributes=pair.example.attributes,
        )
        for row, pair in enumerate(source.pairs)
    )
    thumbnails = builder.thumbnail_writer()
    for row, pair in enumerate(source.pairs):
        thumbnails.append(open_stored(pair.root, pair.example.image))
        report("thumbnails", row + 1, source.n, "")
    thumbnails.close()
    builder.mark_done("examples")


def _featurize(
    builder: StoreBuilder, source: Source, loader: PairLoader, m: int, batch_size: int, device: str, report: Report
) -> None:
    """Embeddings, f, p, Q and φ of every pair under checkpoint m."""
    manifest, n = builder.manifest, source.n
    clip = load_checkpoint(source.model, source.checkpoints[m])
    of = f"checkpoint {m + 1} of {len(source.checkpoints)}"
    if "gradients" not in builder.manifest.options:  # kept, so that a resumed build takes the same path
        builder.record(options={"gradients": probe(source, loader, clip, manifest.model_output, device).strategy})
    strategy = builder.manifest.options["gradients"]
    featurizer = Featurizer(
        clip, source.model, manifest.model_output, manifest.projection, m, strategy=strategy, device=device
    )
    _embed(builder, source, loader, featurizer, m, lambda done: report(f"embedding, {of}", done, n, ""))
    reference, references = _references(builder, source, m)
    for name, shape in (("phi", (n, manifest.projection.dim)), ("f", (n,)), ("p", (n, 2)), ("q", (n,))):
        builder.create(m, name, shape)
    if source.subsets is not None:
        builder.create(m, "subset", (source.n_train,), "bool")
        builder.write(m, "subset", 0, source.subsets[m])
    captions = np.array([pair.example.caption for pair in source.pairs])
    image_ids = np.array([pair.example.image_id for pair in source.pairs])
    stage = f"features {m}"
    done = builder.chunks_done(stage)
    for number, rows in chunks(n):
        if number in done:
            continue
        keep = keep_mask(captions[rows], image_ids[rows], captions[reference], image_ids[reference])
        u, v = (builder.array(m, name)[rows] for name in EMBEDDINGS)
        outputs = featurizer.outputs(np.asarray(u), np.asarray(v), keep, references)
        phi = np.empty((rows.stop - rows.start, manifest.projection.dim), dtype=np.float32)
        for start in range(rows.start, rows.stop, batch_size):
            stop = min(start + batch_size, rows.stop)
            part = slice(start - rows.start, stop - rows.start)
            pixels, tokens = loader.load(start, stop)
            ids = [pair.example.id for pair in source.pairs[start:stop]]
            phi[part] = featurizer.project(pixels, tokens, keep[part], references, ids)
            report(f"gradients, {of}", stop, n, strategy)
        for name, values in (("phi", phi), *outputs._asdict().items()):
            builder.write(m, name, rows.start, values)
        builder.mark_chunk(stage, number)
    builder.mark_done(stage)


def _embed(builder: StoreBuilder, source: Source, loader: PairLoader, featurizer: Featurizer, m: int, report):
    """Unit embeddings of every pair; the reference pairs of f are rows of these."""
    if builder.is_done(f"embeddings {m}"):
        return
    for _, rows in chunks(source.n):
        for name, values in zip(EMBEDDINGS, featurizer.embed(*loader.load(rows.start, rows.stop)), strict=True):
            builder.create(m, name, (source.n, values.shape[1]))
            builder.write(m, name, rows.start, values)
        report(rows.stop)
    builder.mark_done(f"embeddings {m}")


def _references(builder: StoreBuilder, source: Source, m: int) -> tuple[np.ndarray, References]:
    """Draw the reference pairs of checkpoint m, record their rows and fetch their embeddings."""
    spec = builder.manifest.model_output
    rows = draw_references(source.n_train, spec.n_reference, spec.reference_seed, m)
    builder.create(m, "reference", rows.shape, "int64")
    builder.write(m, "reference", 0, rows)
    return rows, References(*(torch.from_numpy(builder.array(m, name).oindex[rows]) for name in EMBEDDINGS))


def precondition(builder: StoreBuilder, m: int, report: Report) -> None:
    """Gram matrix over the training set, its spectrum, and G⁻¹φ of every training pair."""
    manifest = builder.manifest
    phi, dim, n = builder.array(m, "phi"), manifest.projection.dim, manifest.n_train
    stage = f"preconditioning, checkpoint {m + 1} of {len(manifest.checkpoints)}"
    gram = gram_matrix((np.asarray(phi[rows]) for _, rows in chunks(n)), dim)
    builder.create(m, "gram_eigenvalues", (dim,))
    builder.write(m, "gram_eigenvalues", 0, np.linalg.eigvalsh(gram)[::-1].astype(np.float32))
    damped = DampedGram(gram, manifest.score.damping)
    builder.create(m, "preconditioned", (n, dim))
    for _, rows in chunks(n):
        builder.write(m, "preconditioned", rows.start, damped.solve(np.asarray(phi[rows])))
        report(stage, rows.stop, n, "")
    builder.mark_done(f"precondition {m}")
