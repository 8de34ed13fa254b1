"""A small vocabulary for small models: open_clip's byte-pair pieces, renumbered to those that occur.

A caption is cut into the same pieces as by CLIP's tokenizer; pieces that no caption of the data set uses share
one "unknown" id, so that the token embedding of a tiny model stays tiny.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import open_clip

PAD, UNKNOWN, FIRST = 0, 1, 2
SHORTEST = 16


@cache
def _clip_pieces() -> "open_clip.SimpleTokenizer":
    import open_clip

    return open_clip.SimpleTokenizer()


@dataclass(frozen=True)
class WordPieces:
    """Callable tokenizer: captions → int64 [B, context_length].

    `vocabulary` holds the CLIP piece ids that occur, ascending. Ids: 0 padding, 1 unknown, then the pieces, then
    start and end of text; the end is the highest id, which CLIP's text tower looks for when it pools.
    """

    vocabulary: tuple[int, ...]
    context_length: int

    @classmethod
    def from_captions(cls, captions: Iterable[str], at_most: int) -> "WordPieces":
        """Take the pieces that occur, and a context just long enough for the captions, up to `at_most` ids."""
        pieces = _clip_pieces()
        encoded = [pieces.encode(caption) for caption in set(captions)]
        longest = max((len(ids) for ids in encoded), default=0) + 2
        context_length = min(at_most, max(SHORTEST, -(-longest // 8) * 8))
        return cls(tuple(sorted({piece for ids in encoded for piece in ids})), context_length)

    @property
    def size(self) -> int:
        """Number of ids, special ones included."""
        return len(self.vocabulary) + 4

    def __call__(self, captions: Sequence[str]) -> Tensor:
        pieces = _clip_pieces()
        number = {piece: FIRST + i for i, piece in enumerate(self.vocabulary)}
        start, end = self.size - 2, self.size - 1
        tokens = torch.full((len(captions), self.context_length), PAD, dtype=torch.long)
        for row, caption in enumerate(captions):
            ids = [number.get(piece, UNKNOWN) for piece in pieces.encode(caption)][: self.context_length - 2]
            tokens[row, : len(ids) + 2] = torch.tensor([start, *ids, end])
        return tokens
