"""A store to ask, and how one comes about."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traklens.api.answers import Attribution, Evaluation, Removal, Suspects, rows_of
from traklens.api.progress import drawn
from traklens.engine.attribution.scores import Ranked, Target, mean_target, stored_target
from traklens.stores.errors import UsageError
from traklens.stores.store import open_store

if TYPE_CHECKING:
    from traklens.engine.attribution.new_target import LiveModels
    from traklens.engine.attribution.tokens import Shader
    from traklens.engine.tasks.contract import Task

Place = str | PathLike[str]


class Store:
    """A finished store: ask it which training examples raised or lowered an output, and what happens without them."""

    def __init__(self, path: Place, *, task: "Task | str | None" = None) -> None:
        """Open the store at `path`, for reading. Raises StoreError when there is none, or none that is whole.

        `task`: one of your own, which new questions and retraining need.
        """
        self._store, self._task = open_store(Path(path)), task

    @property
    def path(self) -> Path:
        return self._store.path

    def attribute(
        self,
        *,
        id: str | None = None,
        image: Place | bytes | None = None,
        text: str | Sequence[str] | None = None,
        prompt: str | None = None,
        answer: str | None = None,
        span: tuple[int, int] | None = None,
        caption: str | None = None,
        label: str | None = None,
        contrast: str | None = None,
        group: Iterable[str | Ranked] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> Attribution:
        """Attribute the output of one target to the training examples.

        The target is a stored example (`id`), an image that need not be stored (`image`, a file or its bytes; without
        `caption` or `label` it takes the training caption nearest to it, or the label the models guess), the mean of several
        stored ones (`group`, ids or examples), or an example of a task of your own (`values`, its fields by name). Of a text
        classifier it is a `text`, or two, with a `label`; of a language model a `prompt` with its `answer` (the models' own
        if None), of which `span` = (start, end) asks about some characters only.
        `caption` or `label` with `id` asks about that example's image with other words, `contrast` why these rather than
        others: both need the checkpoints. Raises UsageError for none or several of these, StoreError for an unknown
        id, DataError for something that is no image.
        """
        targets = {"id": id, "image": image, "text": text, "prompt": prompt, "group": group, "values": values}
        given = [name for name, value in targets.items() if value is not None]
        if len(given) != 1:
            raise UsageError(
                "attribute", " and ".join(given) or "no target", f"one of {', '.join(targets)}", "Name one."
            )
        if caption is not None and label is not None:
            raise UsageError(
                "attribute", "a caption and a label", "one of them, as the store has it", "Leave one out."
            )
        caption = caption if caption is not None else label
        picture = None
        if group is not None:
            if caption is not None or contrast is not None:
                raise UsageError("attribute", "a caption for a group", "ids alone", "Ask about one example.")
            target = mean_target(self._store, [e if isinstance(e, str) else e.id for e in group])
        elif values is not None:
            target = self._models.about({"group": "", **values}, contrast=contrast)
        elif text is not None or prompt is not None:
            target = self._in_words(text, prompt, answer, span, caption, contrast)
        elif image is not None:
            from traklens.engine.data.images import thumbnail_of

            content = image if isinstance(image, bytes) else Path(image)
            target = self._models.target(content, caption, contrast=contrast)
            picture = thumbnail_of(content if isinstance(content, bytes) else content.read_bytes())
        else:
            target = self._about(str(id), caption, contrast)
            if target.row is None and self._store.has_pictures:  # other words about a stored image
                picture = self._store.thumbnail(self._store.examples.row_of(str(id)), "large")
        return Attribution(target, self._store.influence.scores(target.influence_query), picture, self._store)

    def _in_words(
        self,
        text: str | Sequence[str] | None,
        prompt: str | None,
        answer: str | None,
        span: tuple[int, int] | None,
        label: str | None,
        contrast: str | None,
    ) -> Target:
        from traklens.engine.attribution.new_text import prompt_target, text_target

        if prompt is not None:
            return prompt_target(self._models, prompt, answer, contrast=contrast, span=span)
        texts = [text] if isinstance(text, str) else list(text or ())
        return text_target(self._models, texts, label, contrast=contrast)

    def _about(self, id: str, caption: str | None, contrast: str | None) -> Target:
        if caption is None and contrast is None:
            return stored_target(self._store, id)
        from traklens.engine.attribution.new_target import question_about

        return question_about(self._models, id, caption, contrast)

    @cached_property
    def _models(self) -> "LiveModels":
        """The checkpoints, read at the first question that needs them."""
        from traklens.engine.attribution.new_target import LiveModels

        return LiveModels(self._store, task=self._task)

    def tokens(self, seen: Attribution, example: Ranked | str) -> dict[str, list[tuple[str, float]]]:
        """Which words of a training example make up its score for a target: (word, contribution) by field, in units of f.

        The words of an answer (of a text that a causal model learned) add up to the score; those of an input or of a text
        with a label contribute through their embeddings, which is a part of it. UsageError for a task that is not of text.
        """
        row = int(rows_of(self._store, [example])[0])
        text = self._store.examples.field
        return {
            found.field: [(str(text(found.field)[row])[w.start : w.end], w.score) for w in found.words]
            for found in self._shader.shaded(seen.target, [row])[row]
        }

    @cached_property
    def _shader(self) -> "Shader":
        from traklens.engine.attribution.tokens import Shader

        return Shader(self._models)

    def remove(self, examples: Iterable[Ranked | str]) -> Removal:
        """What happens without these training examples (themselves, or their ids)? Ask with `.effect_on(…)`.

        Raises UsageError where none, or no training examples, are given.
        """
        from traklens.engine.removal.effect import checked_rows

        return Removal(checked_rows(self._store, rows_of(self._store, examples)), self._store, self._task)

    def suspects(self, top: int = 100, *, progress: bool = True) -> Suspects:
        """The training examples most likely to have a wrong caption or label, as `traklens hunt` finds them."""
        from traklens.engine.label_errors.suspects import find_suspects

        if top < 1:
            raise UsageError("top", str(top), "1 or more", "Try 100.")
        with drawn(progress) as report:
            return Suspects(self._store, find_suspects(self._store, report), top)

    def evaluate(self, *, progress: bool = True, **options: Any) -> Evaluation:
        """Measure by retraining how far the attributions can be trusted; options as in `engine.evaluation.evaluate`.

        Takes hours for a large store; what it trains is kept, and an interrupted evaluation goes on.
        """
        from traklens.engine.evaluation.evaluate import evaluate

        with drawn(progress) as report:
            from traklens.engine.tasks.registry import task_of

            task = task_of(self._store.task, self._task)
            return Evaluation(evaluate(self._store, task=task, report=report, **options))

    def app(self, *, port: int = 8600, browser: bool = True) -> subprocess.Popen:
        """Open the application on this store in a process of its own; `.terminate()` ends it."""
        command = [sys.executable, "-P", "-m", "traklens", "app", str(self.path), "--port", str(port)]
        return subprocess.Popen([*command, *([] if browser else ["--no-browser"])])

    def __repr__(self) -> str:
        store = self._store
        counts = (
            f"{store.n_train:,} training and {store.n_heldout:,} held-out examples, {store.n_checkpoints} checkpoints"
        )
        return f"Store({str(store.path)!r}): {counts}"


def open(path: Place, *, task: "Task | str | None" = None) -> Store:
    """Open a finished store. Raises StoreError when there is none, or none that is whole.

    `task`: one of your own, itself or FILE.py:CLASS, which new questions and retraining need.
    """
    return Store(path, task=task)


def build(
    data: Place,
    *,
    out: Place,
    task: "Task | str | None" = None,
    run: Place | None = None,
    model: str | None = None,
    checkpoints: Sequence[Place] = (),
    dim: int = 2048,
    projection: str = "sjlt",
    modules: str = "",
    damping: float = 1.0,
    weight_by_q: bool | None = None,
    normalize: str = "none",
    second_moment: str = "none",
    gram: str = "train",
    output: str = "margin",
    references: int = 512,
    temperature: str = "checkpoint",
    seed: int = 0,
    batch_size: int = 64,
    device: str = "cpu",
    overwrite: bool = False,
    progress: bool = True,
    **data_options: Any,
) -> Store:
    """Precompute the TRAK features of a data set into a store, and open it. Goes on where it was interrupted.

    The checkpoints are those of a `run` of `traklens.train`, or weights files of an architecture `model`; `task` is "clip",
    "image_classifier", FILE.py:CLASS or one of your own, that of the run if not given.
    dim: projection dimension k; modules: patterns of the parameters to attribute, all if empty; damping: λ relative to
    the mean diagonal of the Gram matrix; second_moment, gram: as in `stores.specs.ScoreSpec`;
    data_options: targets and those of `engine.tasks.reading.DataOptions`, as in the command line.
    Raises DataError, ModelError, StoreError or UsageError for what cannot be used, before anything is computed.
    """
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.features.device import check_device
    from traklens.engine.tasks.reading import DataOptions
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    check_device(device)
    targets = data_options.pop("targets", None)
    with drawn(progress) as report:
        source = Source.open(
            Path(data),
            task=task,
            run=None if run is None else Path(run),
            model=model,
            checkpoints=tuple(Path(file) for file in checkpoints),
            targets=None if targets is None else Path(targets),
            options=DataOptions(**data_options),
            seed=seed,
            report=report,
        )
        build_store(
            source,
            Path(out),
            ModelOutputSpec(output=output, temperature=temperature, n_reference=references, reference_seed=seed),
            ProjectionSpec(kind=projection, dim=dim, seed=seed, modules=modules),
            ScoreSpec(
                damping=damping,
                weight_by_q=source.task.weighs_by_q if weight_by_q is None else weight_by_q,
                normalize=normalize,
                second_moment=second_moment,
                gram=gram,
            ),
            batch_size=batch_size,
            device=device,
            overwrite=overwrite,
            report=report,
        )
    return Store(out, task=task)


def train(
    data: Place, *, out: Place, task: "Task | str | None" = None, progress: bool = True, **options: Any
) -> Path:
    """Train small models on recorded random parts of a data set, to attribute them; returns the run's folder.

    task: "clip" if not given, "image_classifier", FILE.py:CLASS or one of your own. options: those of the data, as
    in `engine.tasks.reading.DataOptions`, and of `engine.training.train` (model, checkpoints, epochs, subset, heldout, seed,
    batch_size, learning_rate, augment, optimizer). Goes on where it was interrupted.
    """
    from dataclasses import fields

    from traklens.engine.tasks.reading import DataOptions
    from traklens.engine.tasks.registry import task_named
    from traklens.engine.training.run_directory import streams_of
    from traklens.engine.training.train import train as train_run

    names = {field.name for field in fields(DataOptions)}
    of_data = DataOptions(**{name: options.pop(name) for name in [*options] if name in names})
    known = of_data.task(task_named(task or "clip") if isinstance(task, str | None) else task)
    with drawn(progress) as report:
        seed, streams = options.get("seed", 0), streams_of(Path(out))
        dataset = of_data.load(Path(data), known, seed=seed, streams=streams, report=report)
        train_run(dataset, Path(out), task=known, report=report, **options)
    return Path(out)
