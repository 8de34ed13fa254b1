"""Build a store: pairs and checkpoints in, TRAK features and indices out. `traklens build`.

Stages, each resumable: examples and thumbnails → per checkpoint embeddings, then projected gradients → Gram matrix and
preconditioned rows → indices → checksums and rename. Memory does not grow with the number of pairs: every stage works
chunk by chunk.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from engine.data import open_image
from engine.features import Featurizer, References
from engine.gradients import Choice, choose_strategy
from engine.live import file_sha256
from engine.model_output import ClipMargin, draw_references, keep_mask
from engine.models import attributed_parameters, load_checkpoint, normalise, temperature
from engine.precondition import DampedGram, gram_matrix, influence_rows, similarity_rows
from engine.progress import Report, silent
from engine.source import PairLoader, Source
from engine.versions import libraries
from stores.builder import StoreBuilder
from stores.errors import UsageError
from stores.examples import ExampleRow
from stores.features import CHUNK_ROWS
from stores.index import VectorIndex, recall_against, scale_for
from stores.layout import INFLUENCE, SCHEMA, SIMILARITY
from stores.specs import CheckpointSpec, Manifest, ModelOutputSpec, ProjectionSpec, ScoreSpec

EMBEDDINGS = ("image_embedding", "text_embedding")
PROBE_PAIRS = 16
RECALL_TARGETS = 16


def build_store(
    source: Source,
    path: Path,
    output: ModelOutputSpec,
    projection: ProjectionSpec,
    score: ScoreSpec,
    *,
    batch_size: int = 64,
    overwrite: bool = False,
    restart: bool = False,
    report: Report = silent,
) -> None:
    """Build the store of `source` at `path`, or finish the build that is there.

    Raises StoreError when `path` holds something else, DataError or ModelError for bad input; whatever was computed
    stays and is used by the next try.
    """
    if batch_size < 1:
        raise UsageError("--batch-size", str(batch_size), "1 or more", "Try 64.")
    manifest = _manifest(source, path, output, projection, score)
    with StoreBuilder(path, manifest, overwrite=overwrite, restart=restart) as builder:
        if builder.finished:
            return
        loader = PairLoader(source)
        _write_examples(builder, source, report)
        for m in range(len(source.checkpoints)):
            if not builder.is_done(f"features {m}"):
                _featurize(builder, source, loader, m, batch_size, report)
            if not builder.is_done(f"precondition {m}"):
                _precondition(builder, m, report)
        _write_indices(builder, report)
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
        dataset=source.dataset.spec,
        targets=source.targets.spec if source.targets else None,
        model=source.model,
        checkpoints=checkpoints,
        model_output=output,
        projection=projection,
        score=score,
        n_train=source.n_train,
        n_heldout=source.n - source.n_train,
        libraries=libraries(),
    )


def relative_path(file: Path, store: Path) -> str:
    """How the store names a file outside it: relative when they share a parent folder, so that both can move."""
    file, folder = file.resolve(), store.resolve()
    if file.is_relative_to(folder.parent):
        return str(Path("..") / file.relative_to(folder.parent))
    return str(file)


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
        thumbnails.append(open_image(pair.root / pair.example.image))
        report("thumbnails", row + 1, source.n, "")
    thumbnails.close()
    builder.mark_done("examples")


def chunks(stop: int) -> Iterator[tuple[int, slice]]:
    """Number and rows of each chunk of 0 … stop − 1; the last may be short."""
    for number, start in enumerate(range(0, stop, CHUNK_ROWS)):
        yield number, slice(start, min(start + CHUNK_ROWS, stop))


def _featurize(builder: StoreBuilder, source: Source, loader: PairLoader, m: int, batch_size: int, report: Report):
    """Embeddings, f, p, Q and φ of every pair under checkpoint m."""
    manifest, n = builder.manifest, source.n
    clip = load_checkpoint(source.model, source.checkpoints[m])
    of = f"checkpoint {m + 1} of {len(source.checkpoints)}"
    if "gradients" not in builder.manifest.options:  # kept, so that a resumed build takes the same path
        builder.record(options={"gradients": probe(source, loader, clip, manifest.model_output).strategy})
    strategy = builder.manifest.options["gradients"]
    featurizer = Featurizer(clip, source.model, manifest.model_output, manifest.projection, m, strategy=strategy)
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


def probe(source: Source, loader: PairLoader, clip: nn.Module, output: ModelOutputSpec) -> Choice:
    """Measure the ways to per-sample gradients on a few pairs of this data set and model."""
    pixels, tokens = loader.load(0, min(PROBE_PAIRS, source.n))
    with torch.no_grad():
        u = clip.encode_image(normalise(source.model, pixels), normalize=True)  # type: ignore[operator]
        v = clip.encode_text(tokens, normalize=True)  # type: ignore[operator]
    keep = ~torch.eye(len(tokens), dtype=torch.bool)
    margin = ClipMargin(clip, temperature(clip, output.temperature)).eval()
    names = [f"clip.{name}" for name in attributed_parameters(clip)]
    inputs = (normalise(source.model, pixels), tokens, keep)
    return choose_strategy(margin, inputs, names, (u, v), examples=PROBE_PAIRS)


def _precondition(builder: StoreBuilder, m: int, report: Report) -> None:
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


def _write_indices(builder: StoreBuilder, report: Report) -> None:
    """influence.faiss over the preconditioned rows and similarity.faiss over the embeddings."""
    manifest = builder.manifest
    checkpoints, n = range(len(manifest.checkpoints)), manifest.n_train
    if builder.is_done("indices"):
        return

    def arrays(name: str, rows: slice) -> list[np.ndarray]:
        return [np.asarray(builder.array(m, name)[rows]) for m in checkpoints]

    def influence(rows: slice) -> np.ndarray:
        mean_q = np.mean(arrays("q", rows), axis=0)
        return influence_rows(arrays("preconditioned", rows), mean_q, weight_by_q=manifest.score.weight_by_q)

    def similarity(rows: slice) -> np.ndarray:
        return similarity_rows(*(arrays(name, rows) for name in EMBEDDINGS))

    for name, rows_of in ((INFLUENCE, influence), (SIMILARITY, similarity)):
        largest = max(float(np.abs(rows_of(rows)).max()) for _, rows in chunks(n))
        width = rows_of(slice(0, 1)).shape[1]
        writer = builder.index_writer(name, width, scale_for(largest))
        for _, rows in chunks(n):
            writer.append(rows_of(rows))
            report(f"{name} index", rows.stop, n, "")
        writer.close()
    _measure_recall(builder, influence, arrays)
    builder.mark_done("indices")


def _measure_recall(builder: StoreBuilder, influence, arrays) -> None:
    """How many of the true top ten the index finds, both ways, on a few targets and at most 4,096 training pairs."""
    n = builder.manifest.n_train
    index = VectorIndex(builder.building, INFLUENCE)
    rng = np.random.default_rng(0)
    targets = np.sort(rng.choice(n, size=min(RECALL_TARGETS, n), replace=False))
    queries = np.concatenate([np.concatenate(arrays("phi", slice(t, t + 1)), axis=1) for t in targets])
    exact = np.concatenate([queries.astype(np.float64) @ influence(rows).T for _, rows in chunks(n)], axis=1)
    builder.record(recall={"targets": len(targets), "top": min(10, n)} | recall_against(index, exact, queries))


def estimate(
    source: Source, output: ModelOutputSpec, projection: ProjectionSpec, score: ScoreSpec, *, batch_size: int
) -> dict[str, str]:
    """What a build would take, measured on a few pairs: path, time, disk and memory. Nothing is written."""
    loader = PairLoader(source)
    clip = load_checkpoint(source.model, source.checkpoints[0])
    choice = probe(source, loader, clip, output)
    featurizer = Featurizer(clip, source.model, output, projection, 0, strategy=choice.strategy)
    count = min(PROBE_PAIRS, source.n)
    pixels, tokens = loader.load(0, count)
    references = References(*(torch.from_numpy(e) for e in featurizer.embed(pixels, tokens)))
    keep = ~np.eye(count, dtype=bool)
    seconds = []
    for _ in range(2):  # the first call compiles the projection
        start = time.perf_counter()
        featurizer.project(pixels, tokens, keep, references, [])
        seconds.append((time.perf_counter() - start) / count)
    m, k, embedding = len(source.checkpoints), projection.dim, references.image.shape[1]
    numbers = 4 * m * (source.n * (k + 2 * embedding) + source.n_train * k)
    indices = 2 * m * source.n_train * (k + 2 * embedding)
    p = sum(parameter.numel() for parameter in clip.parameters())
    return {
        "pairs": f"{source.n_train:,} training, {source.n - source.n_train:,} held-out",
        "checkpoints": f"{m} of {p:,} parameters",
        "gradients": f"{choice.strategy} ({', '.join(f'{s} {t * 1e3:.1f} ms' for s, t in choice.seconds.items())} per pair)",
        "projection": f"{projection.kind}, {p:,} to {k:,}, on the CPU",
        "time": f"about {seconds[-1] * source.n * m / 60:.1f} minutes ({seconds[-1] * 1e3:.1f} ms per pair and checkpoint)",
        "disk": f"about {(numbers + indices) / 1e9:.2f} GB",
        "memory": f"about {(3 * 8 * k * k + 4 * batch_size * k + 8 * p) / 1e9 + 1:.1f} GB, whatever the number of pairs",
    }
