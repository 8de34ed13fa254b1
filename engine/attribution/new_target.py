"""Targets that are not in the store: any picture with any words, any example of the task, and contrasts. Imports torch.

Every checkpoint of the store is loaded once per process and kept by `LiveModels`, which the caller holds (the app in
its cache, the command line for one query).
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from traklens.engine.attribution.described import PROBABILITIES, classes_of, guess_of, is_matching, match_of
from traklens.engine.attribution.scores import Target, joined
from traklens.engine.data import Example, open_image, read_image
from traklens.engine.features.featurize import Featurizer
from traklens.engine.models.weights import weights_digest
from traklens.engine.tasks.contract import Batch, Context, Task, Training, Values
from traklens.engine.tasks.registry import guarded, task_of
from traklens.stores.errors import DataError, ModelError, UsageError
from traklens.stores.examples import content_fields
from traklens.stores.layout import SECOND_MOMENT
from traklens.stores.store import Store

MAX_WORDS = 10_000


class LiveModels:
    """The checkpoints of a store with what their f needs, ready to featurize. Read only after construction."""

    def __init__(self, store: Store, *, task: Task | str | None = None) -> None:
        """Load every checkpoint. `task`: one of the user's own, for a store that has one.

        Raises ModelError when one is missing or is not the one the store was built with, UsageError without the task.
        """
        manifest = store.manifest
        self.store = store
        self.task = task_of(manifest.task, task, exact=True).bind(manifest.model, manifest.model_output)
        self.featurizers: list[Featurizer] = []
        self.contexts: list[Context] = []
        for m, spec in enumerate(manifest.checkpoints):
            path = store.checkpoint_path(m)
            if not path.is_file():
                raise ModelError(
                    f"checkpoint {m} of store {store.path}",
                    f"no file at {path}",
                    "the weights the store was built with",
                    "Put it back there, or `traklens relocate STORE --run RUN`; stored examples can be looked up without it.",
                )
            if weights_digest(path) != spec.sha256:
                raise ModelError(
                    f"checkpoint {path}",
                    "other bytes",
                    f"sha256 {spec.sha256[:12]}…",
                    "Put the original file back.",
                )
            model = self.task.load_checkpoint(manifest.model, path)
            strategy = manifest.options.get("gradients", "hooks")
            made = Featurizer(self.task, model, manifest.projection, m, score=manifest.score, strategy=strategy)
            scaled = manifest.score.second_moment != "none"
            self.featurizers.append(made.scaled(np.asarray(store.array(m, SECOND_MOMENT)[0]) if scaled else None))
            self.contexts.append(self._context(m, made))

    def _context(self, m: int, featurizer: Featurizer) -> Context:
        """As the store keeps it; drawn again for stores of schema 1, which keep CLIP's rows alone."""
        store = self.store
        if store.manifest.schema > 1:
            return {name: torch.from_numpy(values) for name, values in store.context(m).items()}

        def embed(rows: np.ndarray) -> dict[str, torch.Tensor]:
            names = self.task.embeddings
            return {name: torch.from_numpy(np.asarray(store.array(m, name).oindex[rows])) for name in names}

        def refuse(rows: np.ndarray) -> Batch:
            raise AssertionError(f"schema 1 has stores of CLIP alone, which needs no batch ({rows.size} rows)")

        training = Training(
            n=store.n_train,
            checkpoint=m,
            streams=store.manifest.dataset.streams,
            examples=lambda rows: [store.examples.example(int(row)) for row in rows],
            embed=embed,
            batch=refuse,
        )
        return self.task.context(featurizer.model, training)

    def target(self, image: bytes | Path, words: str | None, *, contrast: str | None = None) -> Target:
        """The target of a picture with words (a caption, a label), which need not be stored.

        Without words a picture takes the training caption nearest to it (mean cosine), or the label the models guess. With
        `contrast`, f and the influence query are those of f(image; words) − f(image; contrast). Raises DataError for
        something that is no image or for unusable words, UsageError for a task without pictures and words.
        """
        picture, group = _read(image)
        words = self.likeliest(picture, group) if words is None else self.checked(words)
        return self.about(self._values(picture, group, words), contrast=contrast)

    def about(self, values: Values, *, contrast: str | None = None) -> Target:
        """The target of an example of the task, by the values of its fields and its "group"; contrast as in `target`."""
        target = self._target(values)
        if contrast is None:
            return target
        contrast, title = self.checked(contrast), self._words_field()
        if contrast == values[title]:
            raise DataError(f"contrast {title}", f"the {title} itself", f"another {title}", "Choose a different one.")
        return rather_than(target, self._target({**values, title: contrast}), contrast)

    def likeliest(self, picture: Image.Image, group: str) -> str:
        """The training caption with the highest mean cosine to a picture, or the class with the highest mean probability."""
        if classes_of(self.store):
            return self.guessed(self._values(picture, group, ""))
        if not is_matching(self.store):
            raise UsageError(
                f"task {self.task.name!r}", "a picture alone", "its words too", "Give the whole example."
            )
        embedded = [f.embed(self.task.batch([self._values(picture, group, "")])) for f in self.featurizers]
        pair = np.zeros((len(embedded), 2, embedded[0]["image_embedding"].shape[1]), dtype=np.float32)
        pair[:, 1] = [found["image_embedding"][0] for found in embedded]
        _, rows = self.store.similarity.search(pair.reshape(1, -1), 1)
        return self.store.examples.words[int(rows[0, 0])]

    def guessed(self, values: Values) -> str:
        """The class of the highest mean probability for an example without its label."""
        any_label = classes_of(self.store)[0]
        probabilities = self._probabilities({**values, self.store.task.title: any_label})
        return guess_of(self.store, probabilities, "").predicted

    def meaning(self, text: str) -> np.ndarray:
        """Text embeddings of some words: unit rows float32 [M, e]. Raises DataError for unusable words."""
        blank = Image.new("RGB", (8, 8))
        batch = self.task.batch([self._values(blank, "", self.checked(text))])
        return np.stack([featurizer.embed(batch)["text_embedding"][0] for featurizer in self.featurizers])

    def _words_field(self) -> str:
        """The field that a contrast changes: its title, or the first in words. UsageError for a task without one."""
        task = self.store.task
        name = task.title if task.title in [field.name for field in task.fields] else task.first("text", "label")
        if name is None:
            raise UsageError(
                f"task {self.task.name!r}",
                "no field in words",
                "a field of kind text or label",
                "Ask without contrast.",
            )
        return name

    def _values(self, picture: Image.Image, group: str, words: str) -> dict[str, Any]:
        """A picture with words as an example of the task. UsageError for a task whose examples are something else."""
        kinds = sorted(field.kind for field in self.store.task.fields)
        if kinds not in (["image", "text"], ["image", "label"]):
            raise UsageError(
                f"task {self.task.name!r}",
                "a picture",
                "an example with " + ", ".join(field.name for field in self.store.task.fields),
                "Ask about stored examples, or in Python with `attribute(values={…})`.",
            )
        image = self.store.task.first("image")
        return {"group": group, str(image): picture, self._words_field(): words}

    def _target(self, values: Values) -> Target:
        with guarded(self.task):
            found = [self._features(m, values) for m in range(len(self.featurizers))]
            words = str(values.get(self.task.title) or self.task.words(values))
        embedded, phi, measured = zip(*found, strict=True)
        similarity_query = joined(embedded)
        match = guess = None
        if is_matching(self.store):
            p = np.mean([one["p"] for one in measured], axis=0)
            both = (float(p[0]), float(p[1]))
            match = match_of(self.store, similarity_query, words, str(values["group"]), both)
        if classes_of(self.store) and PROBABILITIES in measured[0]:
            mean = np.stack([one[PROBABILITIES] for one in measured]).mean(axis=0, dtype=np.float64)
            guess = guess_of(self.store, mean, words)
        return Target(
            row=None,
            id=None,
            words=words,
            content="\n".join(str(values[name]) for name in content_fields(self.store.task)),
            f=float(np.mean([one["f"] for one in measured])),
            influence_query=np.concatenate(phi),
            similarity_query=similarity_query,
            match=match,
            guess=guess,
        )

    def _probabilities(self, values: Values) -> np.ndarray:
        """Probability of each class, mean over the checkpoints: float64 [C]."""
        batch = self.task.batch([values])
        found = [f.measure(batch, c, f.embed(batch)) for f, c in zip(self.featurizers, self.contexts, strict=True)]
        return np.stack([one[PROBABILITIES][0] for one in found]).mean(axis=0, dtype=np.float64)

    def _features(self, m: int, values: Values) -> tuple[list[np.ndarray], np.ndarray, Mapping[str, np.ndarray]]:
        """Checkpoint m's embeddings [e] each, φ [k], and what the task measures of one example."""
        featurizer, context = self.featurizers[m], self.contexts[m]
        fields = {field.name: values[field.name] for field in self.task.fields}
        self.task.check([Example("given", str(values["group"]), fields, None, {})], context)
        batch = self.task.batch([values])
        embedded = featurizer.embed(batch)
        measured = {name: found[0] for name, found in featurizer.measure(batch, context, embedded).items()}
        return [found[0] for found in embedded.values()], featurizer.project(batch, context, ["given"])[0], measured

    def checked(self, words: str) -> str:
        """Usable words: some, not too many, and for a label one of the classes. DataError."""
        words, what = words.strip(), self.store.task.title
        if not words:
            raise DataError(what, "nothing", "some words", f"Type a {what}.")
        if len(words) > MAX_WORDS:
            raise DataError(what, f"{len(words):,} characters", f"at most {MAX_WORDS:,}", "Shorten it.")
        return words


def rather_than(target: Target, other: Target, contrast: str) -> Target:
    """The difference of two questions: why this, and not the words `contrast` that `other` is about?"""
    query = target.influence_query - other.influence_query
    return replace(target, f=target.f - other.f, influence_query=query, contrast=contrast)


def live_target(store: Store, image: bytes | Path, words: str | None, *, contrast: str | None = None) -> Target:
    """One live query: load the checkpoints, featurize, forget. See `LiveModels.target`."""
    return LiveModels(store).target(image, words, contrast=contrast)


def question_about(models: LiveModels, id: str, words: str | None, contrast: str | None) -> Target:
    """The picture of a stored example with other words, or its words against a contrast, or both.

    Needs the original image file; DataError when it is no longer where the data set was. The target keeps the example's
    row and id unless the words are others.
    """
    store = models.store
    row = store.examples.row_of(id)
    if store.task.first("image") is None:
        return _question_in_words(models, row, words, contrast)
    (root, image), own = store.image_place(row), str(store.examples.words[row])
    try:
        content = read_image(root, image)
    except DataError as error:
        raise DataError(
            f"image of example {id}",
            f"no file at {root / image}",
            "the original image",
            "Put the data set back there, or say where it is with `traklens relocate STORE --data FOLDER`.",
        ) from error
    target = models.target(content, words or own, contrast=contrast)
    return target if target.words != own else replace(target, row=row, id=id)


def _question_in_words(models: LiveModels, row: int, words: str | None, contrast: str | None) -> Target:
    """`question_about` a stored example without a picture. UsageError where the store does not keep it whole."""
    values = stored_values(models, row, words)
    target = models.about(values, contrast=contrast)
    example = models.store.examples.example(row)
    return (
        target
        if target.words != example.fields.get(models.store.task.title)
        else replace(target, row=row, id=example.id)
    )


def stored_values(models: LiveModels, row: int, words: str | None) -> dict[str, Any]:
    """A stored example's fields and "group", with other words if given. UsageError where the store does not keep it whole."""
    store = models.store
    example = store.examples.example(row)
    missing = [field.name for field in store.task.fields if field.kind == "tensor"]
    if missing:
        raise UsageError(
            f"task {store.task.name!r}",
            f"no {', '.join(missing)} in the store",
            "an example whole",
            "Ask in Python with `attribute(values={…}, contrast=…)`.",
        )
    values = {**example.fields, "group": example.group}
    if words is not None:
        values[store.task.title] = models.checked(words)
    return values


def _read(image: bytes | Path) -> tuple[Image.Image, str]:
    """The picture and its content id, as the readers compute it."""
    if isinstance(image, Path) and not image.is_file():
        raise DataError(f"image {image}", "no file there", "an image file", "Check the path.")
    content = image.read_bytes() if isinstance(image, Path) else image
    return open_image(io.BytesIO(content)), hashlib.sha256(content).hexdigest()[:16]
