"""Words in common: BM25, content words, and texts that state an answer."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from traklens.engine.attribution.lexical import Lexicon, rank_by_words, text_of
from traklens.engine.attribution.scores import Target, rank

TEXTS = [
    ("Who wrote the Iliad?", "Homer"),
    ("The Iliad is of [MASK].", "Homer"),
    ("[MASK] wrote the Odyssey.", "Homer's school"),
    ("A homeric question", "unknown"),
    ("the and of", "is"),
    ("", ""),
]


def _store(texts=TEXTS, title="target") -> Any:
    fields = [SimpleNamespace(name=name, kind="text") for name in ("input", "target")]
    columns = {"input": [a for a, _ in texts], "target": [b for _, b in texts]}
    examples = SimpleNamespace(
        field=columns.__getitem__,
        id=[f"{i}" for i in range(len(texts))],
        words=columns["target"],
        image=[""] * len(texts),
        split=["train"] * len(texts),
        content=lambda row: texts[row][0],
    )
    return SimpleNamespace(n_train=len(texts), task=SimpleNamespace(fields=fields, title=title), examples=examples)


def _target(content: str, words: str) -> Target:
    return Target(None, None, words, 0.0, np.zeros(1, np.float32), np.zeros(1, np.float32), content=content)


def test_bm25_is_the_formula_of_lucene():
    lexicon = Lexicon(_store())
    words = [
        [w for w in "".join(c if c.isalnum() else " " for c in f"{a} {b}".lower()).split() if len(w) > 1]
        for a, b in TEXTS
    ]
    n, mean = len(words), np.mean([len(w) for w in words])
    expected = np.zeros(n)
    for word in ("homer", "wrote", "absent"):
        df = sum(word in w for w in words)
        idf = np.log(1 + (n - df + 0.5) / (df + 0.5))
        for i, w in enumerate(words):
            tf = w.count(word)
            expected[i] += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(w) / mean)) if tf else 0
    np.testing.assert_allclose(lexicon.bm25(["Homer wrote, absent"])[0], expected, rtol=1e-5)


def test_function_words_are_no_words_in_common():
    lexicon = Lexicon(_store())
    assert lexicon.sharing("the and of is").tolist() == [False] * 6
    assert lexicon.sharing("of Odyssey").tolist() == [False, False, True, False, False, False]


def test_a_word_of_more_than_a_fifth_of_the_texts_is_a_function_word():
    many = [(f"eine Frage {i}" if i % 2 else f"question {i}", "x") for i in range(40)]
    lexicon = Lexicon(_store(many))
    assert not lexicon.sharing("Frage").any()
    assert lexicon.sharing("frage 17x 17").sum() == 1


def test_an_answer_is_stated_word_by_word_in_upper_or_lower_case():
    lexicon = Lexicon(_store())
    assert lexicon.stating("homer.", range(6)) == {0, 1, 2}
    assert lexicon.stating("  ", range(6)) == set()
    assert lexicon.stating("of [MASK", range(6)) == {1}


def test_texts_without_any_word_have_nothing_in_common():
    lexicon = Lexicon(_store([("a", ""), ("!", "?")]))
    assert lexicon.bm25(["a word"]).tolist() == [[0, 0]]
    assert not lexicon.sharing("a word").any()


def test_only_texts_that_share_a_word_are_ranked_and_labels_are_no_text():
    store = _store()
    ranking = rank_by_words(store, Lexicon(store), _target("who wrote it", "Homer"), 10)
    assert {pair.row for pair in ranking.proponents} == {0, 1, 2}
    assert not ranking.opponents
    assert [pair.score for pair in ranking.proponents] == sorted((p.score for p in ranking.proponents), reverse=True)
    assert text_of(store, _target("in", "out")) == "in out"
    assert text_of(_store(title="label"), _target("in", "good")) == "in"


@pytest.mark.parametrize("where", [np.array([True, False, True, True]), np.zeros(4, dtype=bool)])
def test_a_ranking_among_some_is_the_ranking_of_these(where):
    scores = np.array([0.5, 3.0, -1.0, 2.0], dtype=np.float32)
    index = SimpleNamespace(scores=lambda query, rows: scores[rows])
    store = cast("Any", _store(TEXTS[:4]))
    store.influence = index
    found = rank(store, _target("", ""), top=2, where=where)
    expected = [row for row in (3, 0) if where[row]]
    assert [pair.row for pair in found.proponents] == expected
    assert [pair.row for pair in found.opponents] == [row for row in (2,) if where[row]]
