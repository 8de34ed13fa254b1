"""Targets that are not in the store: any image with any caption, and contrasts. Imports torch on first use.

Every checkpoint of the store is loaded once per process and kept by `LiveModels`, which the caller holds (the app in
its cache, the command line for one query).
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from traklens.engine.attribution.scores import Target, retrieval_ranks
from traklens.engine.data import open_image, read_image
from traklens.engine.features.featurize import Featurizer, References
from traklens.engine.models.checkpoints import load_checkpoint, make_tokenizer
from traklens.engine.models.preprocessing import image_pixels, image_size
from traklens.engine.tasks.clip import keep_mask
from traklens.stores.checksums import digest
from traklens.stores.errors import DataError, ModelError
from traklens.stores.store import Store

MAX_CAPTION = 10_000


class LiveModels:
    """The checkpoints of a store with their reference pairs, ready to featurize. Read only after construction."""

    def __init__(self, store: Store) -> None:
        """Load every checkpoint. Raises ModelError when one is missing or is not the one the store was built with."""
        manifest = store.manifest
        self.store = store
        self.to_pixels, self.tokenize = image_pixels(manifest.model), make_tokenizer(manifest.model)
        self.featurizers: list[Featurizer] = []
        self.references: list[tuple[References, np.ndarray]] = []
        for m, spec in enumerate(manifest.checkpoints):
            path = store.checkpoint_path(m)
            if not path.is_file():
                raise ModelError(
                    f"checkpoint {m} of store {store.path}",
                    f"no file at {path}",
                    "the weights the store was built with",
                    "Put it back there, or `traklens relocate STORE --run RUN`; stored pairs can be looked up without it.",
                )
            if digest(path) != spec.sha256:
                raise ModelError(
                    f"checkpoint {path}",
                    "other bytes",
                    f"sha256 {spec.sha256[:12]}…",
                    "Put the original file back.",
                )
            clip = load_checkpoint(manifest.model, path)
            strategy = manifest.options.get("gradients", "hooks")
            self.featurizers.append(
                Featurizer(clip, manifest.model, manifest.model_output, manifest.projection, m, strategy=strategy)
            )
            rows = np.asarray(store.array(m, "reference")[:])
            embeddings = (store.array(m, name).oindex[rows] for name in ("image_embedding", "text_embedding"))
            self.references.append((References(*(torch.from_numpy(np.asarray(e)) for e in embeddings)), rows))

    def target(self, image: bytes | Path, caption: str | None, *, contrast: str | None = None) -> Target:
        """The target of an image and a caption that need not be stored.

        Without a caption the image takes the training caption nearest to it (mean cosine). With `contrast`, f and
        the influence query are those of f(image; caption) − f(image; contrast). Raises DataError for something that
        is no image or an unusable caption.
        """
        picture, image_id = _read(image)
        caption = self.nearest_caption(picture) if caption is None else _checked(caption)
        target = self._pair(picture, image_id, caption)
        if contrast is None:
            return target
        contrast = _checked(contrast)
        if contrast == caption:
            raise DataError("contrast caption", "the caption itself", "another caption", "Type a different one.")
        other = self._pair(picture, image_id, contrast)
        return replace(
            target,
            f=target.f - other.f,
            influence_query=target.influence_query - other.influence_query,
            contrast=contrast,
        )

    def nearest_caption(self, picture: Image.Image) -> str:
        """The training caption with the highest mean cosine to a picture."""
        pixels = self.to_pixels(picture)[None]
        tokens = self.tokenize([""])
        pair = np.zeros((len(self.featurizers), 2, self.store.array(0, "text_embedding").shape[1]), dtype=np.float32)
        for m, featurizer in enumerate(self.featurizers):
            pair[m, 1] = featurizer.embed(pixels, tokens)[0][0]
        _, rows = self.store.similarity.search(pair.reshape(1, -1), 1)
        return self.store.examples.caption[int(rows[0, 0])]

    def meaning(self, text: str) -> np.ndarray:
        """Text embeddings of some words: unit rows float32 [M, e]. Raises DataError for unusable words."""
        tokens = self.tokenize([_checked(text)])
        size = image_size(self.store.manifest.model)
        blank = torch.zeros((1, 3, size, size), dtype=torch.uint8)
        return np.stack([featurizer.embed(blank, tokens)[1][0] for featurizer in self.featurizers])

    def _pair(self, picture: Image.Image, image_id: str, caption: str) -> Target:
        pixels, tokens = self.to_pixels(picture)[None], self.tokenize([caption])
        found = [self._features(m, pixels, tokens, image_id, caption) for m in range(len(self.featurizers))]
        embeddings, phi, f, p = zip(*found, strict=True)
        similarity_query = np.concatenate([np.concatenate(both) for both in embeddings])
        ranks = retrieval_ranks(self.store, similarity_query, caption, image_id)
        p_image, p_text = np.mean(p, axis=0)
        return Target(
            row=None,
            id=None,
            caption=caption,
            f=float(np.mean(f)),
            p=(float(p_image), float(p_text)),
            similarity=float(np.mean([u @ v for u, v in embeddings])),
            rank_image_to_text=ranks[0],
            rank_text_to_image=ranks[1],
            influence_query=np.concatenate(phi),
            similarity_query=similarity_query,
        )

    def _features(self, m: int, pixels: Tensor, tokens: Tensor, image_id: str, caption: str):
        """Checkpoint m's (u, v) [e], φ [k], f and p [2] of one pair."""
        featurizer, (references, rows) = self.featurizers[m], self.references[m]
        keep = reference_mask(self.store.examples, np.array([caption]), np.array([image_id]), rows)
        u, v = featurizer.embed(pixels, tokens)
        outputs = featurizer.outputs(u, v, keep, references)
        phi = featurizer.project(pixels, tokens, keep, references, ["given"])
        return (u[0], v[0]), phi[0], outputs.f[0], outputs.p[0]


def live_target(store: Store, image: bytes | Path, caption: str | None, *, contrast: str | None = None) -> Target:
    """One live query: load the checkpoints, featurize, forget. See `LiveModels.target`."""
    return LiveModels(store).target(image, caption, contrast=contrast)


def question_about(models: LiveModels, id: str, caption: str | None, contrast: str | None) -> Target:
    """The image of a stored pair with another caption, or its caption against a contrast, or both.

    Needs the original image file; DataError when it is no longer where the data set was. The target keeps the pair's
    row and id unless the caption is another one.
    """
    store = models.store
    row = store.examples.row_of(id)
    (root, image), own = store.image_place(row), str(store.examples.caption[row])
    try:
        content = read_image(root, image)
    except DataError as error:
        raise DataError(
            f"image of pair {id}",
            f"no file at {root / image}",
            "the original image",
            "Put the data set back there, or say where it is with `traklens relocate STORE --data FOLDER`.",
        ) from error
    target = models.target(content, caption or own, contrast=contrast)
    return target if target.caption != own else replace(target, row=row, id=id)


def reference_mask(
    examples, captions: np.ndarray, image_ids: np.ndarray, rows: Sequence[int] | np.ndarray
) -> np.ndarray:
    """`keep_mask` of pairs against the reference rows of a store: bool [B, R]."""
    reference_captions = np.asarray([examples.caption[int(row)] for row in rows])
    reference_image_ids = np.asarray([examples.image_id[int(row)] for row in rows])
    return keep_mask(captions, image_ids, reference_captions, reference_image_ids)


def _read(image: bytes | Path) -> tuple[Image.Image, str]:
    """The picture and its content id, as the readers compute it."""
    if isinstance(image, Path) and not image.is_file():
        raise DataError(f"image {image}", "no file there", "an image file", "Check the path.")
    content = image.read_bytes() if isinstance(image, Path) else image
    return open_image(io.BytesIO(content)), hashlib.sha256(content).hexdigest()[:16]


def _checked(caption: str) -> str:
    caption = caption.strip()
    if not caption:
        raise DataError("caption", "nothing", "some words", "Type a caption.")
    if len(caption) > MAX_CAPTION:
        raise DataError("caption", f"{len(caption):,} characters", f"at most {MAX_CAPTION:,}", "Shorten it.")
    return caption
