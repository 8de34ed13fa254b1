"""Questions in words: a text with its label, an input or a prompt with its answer. Imports torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from traklens.engine.attribution.new_target import LiveModels, rather_than, stored_values
from traklens.engine.attribution.scores import Target
from traklens.engine.tasks.language import SPAN, CausalTask, LanguageTask
from traklens.stores.errors import UsageError
from traklens.stores.examples import content_fields

ANSWER = 32  # tokens of an answer that the models give themselves


def text_target(
    models: LiveModels, texts: Sequence[str], label: str | None = None, *, contrast: str | None = None
) -> Target:
    """The target of a text, or of two, with a label; what the models take it for if None.

    Raises UsageError for a store of another task or another number of texts, DataError for unusable words.
    """
    names = content_fields(models.store.task)
    if models.store.task.first("label") is None or len(texts) != len(names):
        raise UsageError(
            "text",
            f"{len(texts)} text{'s' if len(texts) != 1 else ''} for the task {models.task.name!r}",
            "a text for each of " + ", ".join(names) if names else "a store of texts with labels",
            "Give --text once for each.",
        )
    values: dict[str, Any] = dict(zip(names, (models.checked(text) for text in texts), strict=True))
    values["group"] = _group(*texts)
    words = models.guessed(values) if label is None else models.checked(label)
    return models.about({**values, models.store.task.title: words}, contrast=contrast)


def prompt_target(
    models: LiveModels,
    prompt: str,
    answer: str | None = None,
    *,
    contrast: str | None = None,
    span: tuple[int, int] | None = None,
) -> Target:
    """The target of an answer to a prompt (an input); the models' own if None. Against another answer with `contrast`.

    `span`: (start, end), the characters of the answer that are asked about; all of them if None. Raises UsageError for a
    store of another task or a span outside the answer, DataError for unusable words.
    """
    task = models.task
    if not isinstance(task, LanguageTask):
        raise UsageError("prompt", f"the task {task.name!r}", "a language model", "Ask with --text or --id.")
    prompt = models.checked(prompt)
    answer = given_answer(models, prompt) if answer is None else models.checked(answer)
    _check(span, answer)
    asked = _asked(task, prompt, answer, span)
    target = replace(models.about(asked), span=asked.get(SPAN))
    if contrast is None:
        return target
    other = models.about(_asked(task, prompt, models.checked(contrast), None))
    return rather_than(target, other, contrast)


def span_target(
    models: LiveModels, id: str, span: tuple[int, int], words: str | None = None, *, contrast: str | None = None
) -> Target:
    """The target of a stored example, of whose words (or of other `words`) some characters are asked about.

    Against all of other words with `contrast`. Raises UsageError for a store of another task or a span outside the words.
    """
    task = models.task
    if not isinstance(task, LanguageTask):
        raise UsageError("span", f"the task {task.name!r}", "a language model", "Ask about the whole.")
    values = stored_values(models, models.store.examples.row_of(id), words)
    _check(span, str(values[task.title]))
    target = replace(models.about({**values, SPAN: span}), span=span)
    if contrast is None:
        return target
    return rather_than(target, models.about({**values, task.title: models.checked(contrast)}), contrast)


def _check(span: tuple[int, int] | None, words: str) -> None:
    if span is not None and not 0 <= span[0] < span[1] <= len(words):
        raise UsageError("span", f"{span[0]}:{span[1]}", f"START:END within 0:{len(words)}", "Correct it.")


def _asked(task: LanguageTask, prompt: str, answer: str, span: tuple[int, int] | None) -> dict[str, Any]:
    """An answer as an example of the task: with its input, or after its prompt."""
    first, last = span or (0, len(answer))
    if not isinstance(task, CausalTask):
        asked = {} if span is None else {SPAN: (first, last)}
        return {"group": _group(prompt), "input": prompt, "target": answer, **asked}
    gap = "" if prompt[-1:].isspace() or answer[:1].isspace() else " "
    start = len(prompt) + len(gap)
    return {"group": _group(prompt), "text": prompt + gap + answer, SPAN: (start + first, start + last)}


@torch.no_grad()
def given_answer(models: LiveModels, prompt: str) -> str:
    """What the models answer: at each place the token of the highest mean probability, up to 32."""
    task = models.task
    assert isinstance(task, LanguageTask)
    tokens: list[int] = []
    for _ in range(ANSWER):
        p = torch.stack([task.next_token(f.model, prompt, tokens) for f in models.featurizers]).mean(dim=0)
        tokens.append(int(p.argmax()))
        if tokens[-1] == task.end:
            break
    return task.codec.decoded(tokens).strip() or "…"


def _group(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
