"""Write a store of random features, of any size, by the project's own writers: for measuring the app.

    python benchmarks/synthetic_store.py STORE [--n 100000] [--heldout 200] [--dim 1024] [--checkpoints 4] [--width 128]

Captions repeat as those of a class data set would, images lie near their caption, a twentieth of the captions is wrong; the
numbers mean nothing else.
"""

import argparse
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from traklens.engine.build.indexing import write_indices
from traklens.engine.progress import silent
from traklens.stores.builder import StoreBuilder
from traklens.stores.examples import ExampleRow
from traklens.stores.features import chunks
from traklens.stores.layout import SCHEMA
from traklens.stores.specs import (
    CheckpointSpec,
    DatasetSpec,
    Manifest,
    ModelOutputSpec,
    ModelSpec,
    ProjectionSpec,
    ScoreSpec,
)

CAPTIONS, PICTURES, WRONG = 5_000, 64, 0.05


def manifest(n: int, heldout: int, dim: int, checkpoints: int) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        state="building",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=DatasetSpec("nowhere", "imagefolder", None, None, None, 0, n + heldout, "synthetic"),
        targets=None,
        model=ModelSpec("synthetic", {}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        checkpoints=tuple(CheckpointSpec(f"{m}.safetensors", "synthetic", "half") for m in range(checkpoints)),
        model_output=ModelOutputSpec(),
        projection=ProjectionSpec(dim=dim),
        score=ScoreSpec(),
        n_train=n,
        n_heldout=heldout,
    )


def examples(of: np.ndarray, n: int) -> Iterator[ExampleRow]:
    for row, caption in enumerate(of):
        name = hashlib.sha256(str(row).encode()).hexdigest()
        split = "train" if row < n else "heldout"
        fields = {"image": f"{row}.png", "caption": f"a picture of thing {caption}"}
        yield ExampleRow(name[:16], name[16:32], fields, split, {})


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write(path: Path, n: int, heldout: int, dim: int, checkpoints: int, width: int) -> None:
    rng = np.random.default_rng(0)
    total = n + heldout
    truth = rng.integers(0, CAPTIONS, total)
    given = np.where(rng.random(total) < WRONG, rng.integers(0, CAPTIONS, total), truth)
    pictures = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(PICTURES)]
    with StoreBuilder(path, manifest(n, heldout, dim, checkpoints)) as builder:
        if builder.finished:
            return
        builder.write_examples(examples(given, n))
        thumbnails = builder.thumbnail_writer()
        for caption in truth:
            thumbnails.append(pictures[caption % PICTURES])
        thumbnails.close()
        for m in range(checkpoints):
            directions = unit(rng.standard_normal((CAPTIONS, width)))
            builder.create(m, "gram_eigenvalues", (dim,))
            builder.write(m, "gram_eigenvalues", 0, np.ones(dim, dtype=np.float32))
            builder.create(m, "subset", (n,), "bool")
            builder.write(m, "subset", 0, rng.random(n) < 0.5)
            sizes = {
                "phi": (dim,),
                "f": (),
                "p": (2,),
                "q": (),
                "image_embedding": (width,),
                "text_embedding": (width,),
            }
            for name, shape in sizes.items():
                builder.create(m, name, (total, *shape))
            builder.create(m, "preconditioned", (n, dim))
            for _, rows in chunks(total):
                count = rows.stop - rows.start
                phi = rng.standard_normal((count, dim), dtype=np.float32)
                images = unit(directions[truth[rows]] + 0.05 * rng.standard_normal((count, width)))
                texts = directions[given[rows]]
                f = 10 * np.einsum("nd,nd->n", images, texts) - 5
                p = 1 / (1 + np.exp(-f))
                values = {"phi": phi, "f": f, "p": np.stack([p, p], axis=1), "q": 1 - p}
                values |= {"image_embedding": images, "text_embedding": texts}
                for name, block in values.items():
                    builder.write(m, name, rows.start, block.astype(np.float32))
                if rows.start < n:
                    builder.write(m, "preconditioned", rows.start, phi[: n - rows.start] / np.float32(n))
        write_indices(builder, silent)
        builder.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    for name, value in (("n", 100_000), ("heldout", 200), ("dim", 1024), ("checkpoints", 4), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    wanted = parser.parse_args()
    write(wanted.store, wanted.n, wanted.heldout, wanted.dim, wanted.checkpoints, wanted.width)


if __name__ == "__main__":
    main()
