"""`traklens query`: one target in, the fixed JSON contract out."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traklens.engine.attribution.scores import Ranked, Target, rank, stored_target
from traklens.stores.examples import content_fields
from traklens.stores.store import Store, open_store


@dataclass(frozen=True)
class Question:
    """What is asked about, by exactly one of: `id` of a stored example; `image` file; `texts`; `prompt` of a language model.

    `words`: its caption, label or answer, the models' own choice if None; `contrast`: why these rather than those; `span`:
    the characters of an answer that are asked about.
    """

    id: str | None = None
    image: Path | None = None
    texts: tuple[str, ...] = ()
    prompt: str | None = None
    words: str | None = None
    contrast: str | None = None
    span: tuple[int, int] | None = None


def answer(
    store_path: Path,
    *,
    id: str | None = None,
    image: Path | None = None,
    words: str | None = None,
    contrast: str | None = None,
    top: int = 10,
) -> dict[str, Any]:
    """`answer_to` about a stored example (`id`) or an image with words (a caption, a label)."""
    return answer_to(store_path, Question(id, image, words=words, contrast=contrast), top=top)


def answer_to(store_path: Path, question: Question, *, top: int = 10) -> dict[str, Any]:
    """Proponents and opponents of what is asked about.

    Returns {"target", "f", "similarity" of a pair, "proponents", "opponents", "seconds"}; see docs/cli.md.
    """
    start = time.perf_counter()
    store = open_store(store_path)
    opened = time.perf_counter()
    target = _target(store, question)
    featurized = time.perf_counter()
    ranking = rank(store, target, top=top)
    return {
        "target": {
            "id": target.id,
            store.task.title: target.words,
            "contrast": target.contrast,
            **_about(store, target, question),
            "split": store.examples.split[target.row] if target.row is not None else None,
            **_described(target),
        },
        "f": target.f,
        **({} if target.match is None else {"similarity": target.match.similarity}),
        "proponents": [as_dict(store, pair) for pair in ranking.proponents],
        "opponents": [as_dict(store, pair) for pair in ranking.opponents],
        "seconds": {"open": opened - start, "target": featurized - opened, "search": ranking.seconds},
    }


def _described(target: Target) -> dict[str, Any]:
    """What the models make of the target, where the store can tell."""
    if target.match is not None:
        ranks = [target.match.rank_image_to_text, target.match.rank_text_to_image]
        return {"p": list(target.match.p), "rank": ranks}
    if target.guess is not None:
        return {"p": target.guess.p_label, "predicted": {"label": target.guess.predicted, "p": target.guess.p}}
    return {}


def _about(store: Store, target: Target, question: Question) -> dict[str, Any]:
    """What the words of a target are about: its image, its texts."""
    names, row = content_fields(store.task), target.row
    if question.id is not None:
        row = store.examples.row_of(question.id)
    given = question.texts or ((question.prompt,) if question.prompt is not None else ())
    texts = given if row is None else [str(store.examples.field(name)[row]) for name in names]
    found: dict[str, Any] = dict(zip(names, texts, strict=False))
    if store.task.first("image"):
        found["image"] = str(question.image) if row is None else store.examples.image[row]
    return found


def _target(store: Store, question: Question) -> Target:
    if question.id is not None and question.contrast is None and question.span is None:
        return stored_target(store, question.id)
    from traklens.engine.attribution.new_target import LiveModels, live_target, question_about
    from traklens.engine.attribution.new_text import prompt_target, span_target, text_target

    words, contrast = question.words, question.contrast
    if question.id is not None and question.span is not None:
        return span_target(LiveModels(store), question.id, question.span, contrast=contrast)
    if question.id is not None:
        return question_about(LiveModels(store), question.id, None, contrast)
    if question.texts:
        return text_target(LiveModels(store), question.texts, words, contrast=contrast)
    if question.prompt is not None:
        return prompt_target(LiveModels(store), question.prompt, words, contrast=contrast, span=question.span)
    assert question.image is not None  # the command line has checked that one of them is given
    return live_target(store, question.image, words, contrast=contrast)


def as_dict(store: Store, example: Ranked) -> dict[str, Any]:
    """A ranked example for a script; its words are called as the task calls them."""
    found = {"id": example.id, "score": example.score, store.task.title: example.words}
    found |= {name: str(store.examples.field(name)[example.row]) for name in content_fields(store.task)}
    return found | ({"image": example.image} if store.task.first("image") else {})
