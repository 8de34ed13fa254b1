"""Which training texts share words with a question, by BM25; which share no content word; which state an answer. No torch.

BM25 as of Robertson and Zaragoza 2009 (doi 10.1561/1500000019), in Lucene's variant, by the library bm25s. A word is a run of
at least two letters or digits, in lower case.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from traklens.engine.attribution.scores import Ranking, Target, ranked
from traklens.stores.store import Store

COMMON = 0.2  # words of more than this share of the training texts are no content words, whatever the language


class Lexicon:
    """The words of a store's training texts, n_train of them. Read only after construction."""

    def __init__(self, store: Store) -> None:
        import bm25s  # a second to import
        from bm25s.stopwords import STOPWORDS_EN

        self.texts = [texts_of(store, row) for row in range(store.n_train)]
        tokens = tokens_of(self.texts)
        self._index = bm25s.BM25() if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)
        found = Counter(word for words in tokens for word in set(words))
        often = {word for word, count in found.items() if count > max(2, COMMON * store.n_train)}
        self.function_words = frozenset(STOPWORDS_EN) | often

    def bm25(self, texts: Sequence[str]) -> np.ndarray:
        """BM25 of each text against every training text, float32 [T, n_train]."""
        return np.stack([self._scores(words) for words in tokens_of(texts)])

    def sharing(self, text: str) -> np.ndarray:
        """Training texts that share a content word with a text: bool [n_train]."""
        (words,) = tokens_of([text])
        return self._scores([word for word in words if word not in self.function_words]) > 0

    def stating(self, answer: str, rows: Iterable[int]) -> set[int]:
        """Those of the training rows whose texts hold an answer word by word, in upper or lower case."""
        words = answer.strip().strip(".,;:!?").casefold()
        if not words:
            return set()
        stated = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
        return {row for row in rows if stated.search(self.texts[row].casefold())}

    def _scores(self, words: list[str]) -> np.ndarray:
        if not words or self._index is None:
            return np.zeros(len(self.texts), dtype=np.float32)
        return np.asarray(self._index.get_scores(words), dtype=np.float32)


def tokens_of(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text."""
    import bm25s

    found = bm25s.tokenize(list(texts), stopwords=[], show_progress=False, return_ids=False)
    return [[str(word) for word in words] for words in found]


def texts_of(store: Store, row: int) -> str:
    """All that is written in an example: its captions, texts, inputs with answers."""
    names = [field.name for field in store.task.fields if field.kind == "text"]
    return " ".join(str(store.examples.field(name)[row]) for name in names)


def text_of(store: Store, target: Target) -> str:
    """All that is written in a target. A label is none of it."""
    fields = {field.name: field.kind for field in store.task.fields}
    words = target.words if fields.get(store.task.title) == "text" else ""
    return " ".join(part for part in (target.content, words) if part)


def rank_by_words(store: Store, lexicon: Lexicon, target: Target, top: int) -> Ranking:
    """The training texts of the highest BM25 that share a word with the target; no opponents."""
    scores = lexicon.bm25([text_of(store, target)])[0]
    order = np.argsort(-scores, kind="stable")[:top]
    return Ranking(tuple(ranked(store, row, scores[row]) for row in order if scores[row] > 0), (), "bm25", 0.0)
