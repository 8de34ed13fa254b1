"""A store whose features the test writes: rankings are what the test says, whatever the models of this machine learned."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from traklens.engine.build.indexing import write_indices
from traklens.engine.build.stages import precondition
from traklens.engine.features.embedding_map import write_map
from traklens.engine.progress import silent
from traklens.stores.builder import StoreBuilder
from traklens.stores.examples import ExampleRow
from traklens.stores.layout import SCHEMA
from traklens.stores.specs import (
    CLIP,
    CheckpointSpec,
    DatasetSpec,
    FieldSpec,
    Manifest,
    ModelOutputSpec,
    ModelSpec,
    ProjectionSpec,
    ScoreSpec,
    TaskSpec,
)
from traklens.stores.store import Store, open_store

N_TRAIN, N_HELDOUT, DIM, WIDTH, CHECKPOINTS = 60, 12, 16, 8, 2


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def features(seed: int = 0) -> dict[str, np.ndarray]:
    """φ [M, n, k], Q [M, n] and f [M, n] at random; embeddings [M, n, e] whose axes differ in spread, each by half."""
    rng, n = np.random.default_rng(seed), N_TRAIN + N_HELDOUT
    spread = np.concatenate([[0.0], 0.5 ** np.arange(WIDTH - 1)])
    level = 4 * np.eye(1, WIDTH)[0]  # along the first axis, common to all

    def embeddings() -> np.ndarray:
        """Much the same for every checkpoint, so that theirs side by side keep the gaps between the axes."""
        shared = level + rng.uniform(-1, 1, (n, WIDTH)) * spread
        return unit(shared + 0.02 * rng.uniform(-1, 1, (CHECKPOINTS, n, WIDTH)))

    return {
        "phi": rng.standard_normal((CHECKPOINTS, n, DIM)).astype(np.float32),
        "q": rng.uniform(0.2, 0.9, (CHECKPOINTS, n)).astype(np.float32),
        "f": rng.uniform(-4, 4, (CHECKPOINTS, n)).astype(np.float32),
        "image_embedding": embeddings(),
        "text_embedding": embeddings(),
    }


def write_store(path: Path, captions: list[str] | None = None, **given: np.ndarray) -> Store:
    """A finished store of pairs with these features (see `features`, whose values fill in what is not given)."""
    n = N_TRAIN + N_HELDOUT
    found = features() | given
    p = 1 / (1 + np.exp(-found["f"]))
    words = captions or [f"caption {row}" for row in range(n)]
    return _written(path, CLIP, {}, words, found | {"p": np.stack([p, p], axis=2)})


CLASSES = ("cat", "dog", "ship")
CLASSIFIER = TaskSpec("image_classifier", 1, (FieldSpec("image", "image"), FieldSpec("label", "label")), "label",
                      ("image_embedding",))  # fmt: skip


def write_classifier(path: Path, **given: np.ndarray) -> Store:
    """A finished store of a classifier, whose checkpoints agree; held-out example 0 is a cat taken for a ship."""
    rng, n = np.random.default_rng(1), N_TRAIN + N_HELDOUT
    labels = np.arange(n) % len(CLASSES)
    taken = np.where(rng.random(n) < 0.2, (labels + 1) % 3, labels)
    taken[N_TRAIN] = 2
    sure = rng.uniform(0.5, 0.9, n)
    p = np.repeat(((1 - sure) / 2)[:, None], 3, axis=1)
    p[np.arange(n), taken] = sure
    own = p[np.arange(n), labels]
    found = {name: values for name, values in features().items() if name != "text_embedding"}
    found |= {"probabilities": np.stack([p] * CHECKPOINTS), "q": np.stack([1 - own] * CHECKPOINTS)}
    found |= {"f": np.stack([np.log(own / (1 - own))] * CHECKPOINTS)} | given
    return _written(path, CLASSIFIER, {"classes": list(CLASSES)}, [CLASSES[label] for label in labels], found)


def _written(path: Path, task: TaskSpec, config: dict, words: list[str], found: dict[str, np.ndarray]) -> Store:
    n = N_TRAIN + N_HELDOUT
    manifest = Manifest(
        schema=SCHEMA,
        state="building",
        created="2026-01-01T00:00:00+00:00",
        dataset=DatasetSpec("nowhere", "imagefolder", None, None, None, 0, n, "written", fields=task.fields),
        targets=None,
        model=ModelSpec("written", config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        checkpoints=tuple(CheckpointSpec(f"{m}.safetensors", "written", None) for m in range(CHECKPOINTS)),
        model_output=ModelOutputSpec(n_reference=8),
        projection=ProjectionSpec(dim=DIM),
        score=ScoreSpec(),
        n_train=N_TRAIN,
        n_heldout=N_HELDOUT,
        task=task,
    )
    with StoreBuilder(path, manifest) as builder:
        builder.write_examples(_example(row, task.title, caption) for row, caption in enumerate(words))
        thumbnails = builder.thumbnail_writer()
        for row in range(n):
            thumbnails.append(Image.new("RGB", (8, 8), (row, 0, 0)))
        thumbnails.close()
        for m in range(CHECKPOINTS):
            for name, values in found.items():
                builder.create(m, name, values[m].shape)
                builder.write(m, name, 0, values[m].astype(np.float32))
            precondition(builder, m, silent)
        write_indices(builder, silent)
        write_map(builder, silent)
        builder.finish()
    return open_store(path)


def _example(row: int, title: str, words: str) -> ExampleRow:
    name = hashlib.sha256(str(row).encode()).hexdigest()
    split = "train" if row < N_TRAIN else "heldout"
    return ExampleRow(name[:16], name[16:32], {"image": f"{row}.png", title: words}, split, {"row": str(row)})
