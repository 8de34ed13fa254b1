"""What the words of a text contribute to its score, as they are shown. No torch: tokens.py computes it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LONGEST_WORD = 24  # characters; what has no spaces is shown in the tokenizer's pieces


@dataclass(frozen=True)
class Shade:
    """Characters `start` to `end` of a text, and what they contributed to its score, in units of f."""

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Shaded:
    """The words of one field of an example. `whole`: they add up to the score; otherwise they are a part of it."""

    field: str
    words: tuple[Shade, ...]
    whole: bool


def words_of(text: str, places: Sequence[tuple[int, int]], scores: np.ndarray) -> tuple[Shade, ...]:
    """The pieces of a text (characters from, to; marks are (0, 0)) with their scores, put together to words.

    The scores of marks go to no word, but for what ends a text: to its last one.
    """
    found: list[Shade] = []
    for (start, end), score in zip(places, np.asarray(scores, dtype=float), strict=False):
        if start == end:
            if found:
                found[-1] = Shade(found[-1].start, found[-1].end, found[-1].score + score)
            continue
        last = found[-1] if found else None
        apart = last is None or text[start : start + 1].isspace() or text[last.end : start] != ""
        if last is None or apart or end - last.start > LONGEST_WORD:
            found.append(Shade(start, end, float(score)))
        else:
            found[-1] = Shade(last.start, max(end, last.end), last.score + float(score))
    return tuple(found)
