"""Find pairs of a store to ask about: search in the captions, and one striking pair to begin with. No torch here."""

from dataclasses import dataclass

import numpy as np

from traklens.engine.attribution.scores import Target, stored_target
from traklens.stores.store import Store

SPLITS = ("all", "train", "heldout")
CANDIDATES = 64
SCAN_NUMBERS = 400_000_000  # index numbers that the search for a striking pair may read
SHOWN = 10


@dataclass(frozen=True)
class Found:
    """One page of a search: the rows on it, and how many pairs match in all."""

    rows: tuple[int, ...]
    total: int


def find_pairs(
    store: Store,
    text: str = "",
    *,
    split: str = "all",
    where: np.ndarray | None = None,
    by: np.ndarray | None = None,
    page: int = 1,
    per_page: int = 24,
) -> Found:
    """Pairs whose caption, or whose text, holds every word of `text` (any case), or whose id is `text`.

    split: "all", "train" or "heldout". where: only these pairs, bool [n]. by: sort by these values, lowest first,
    [n]; row order if None. Pages count from 1; a page past the end is the last one.
    """
    start, stop = _span(store, split)
    words = text.casefold().split()
    if words:
        examples, ids = store.examples, store.examples.id
        found = [
            row
            for row in range(start, stop)
            if ids[row] == text.strip() or _holds(f"{examples.content(row)}\n{examples.words[row]}", words)
        ]
        rows = np.array(found, dtype=np.int64)
    else:
        rows = np.arange(start, stop)
    if where is not None:
        rows = rows[where[rows]]
    if by is not None:
        rows = rows[np.argsort(by[rows], kind="stable")]
    return _page(rows, page, per_page)


def _holds(text: str, words: list[str]) -> bool:
    """Whether a text holds every word, in any case."""
    folded = text.casefold()
    return all(word in folded for word in words)


def _span(store: Store, split: str) -> tuple[int, int]:
    """First row and end of a split."""
    return {"train": (0, store.n_train), "heldout": (store.n_train, store.n)}.get(split, (0, store.n))


def _page(rows: np.ndarray, page: int, per_page: int) -> Found:
    """One page of the rows found; a page past the end is the last one."""
    page = max(1, min(page, -(-len(rows) // per_page)))
    return Found(tuple(int(row) for row in rows[(page - 1) * per_page : page * per_page]), len(rows))


def find_by_meaning(
    store: Store,
    words: np.ndarray,
    *,
    split: str = "all",
    where: np.ndarray | None = None,
    page: int = 1,
    per_page: int = 24,
) -> Found:
    """Pairs whose images lie nearest to a text, by mean cosine over the checkpoints, nearest first.

    words: its text embeddings, unit rows [M, e]. split, where and pages as in `find_pairs`.
    """
    query = np.zeros((store.n_checkpoints, 2, words.shape[1]), dtype=np.float32)
    query[:, 0] = words
    cosines = [2 * store.similarity.scores(query.ravel())]
    if store.n_heldout:
        heldout = slice(store.n_train, store.n)
        products = [
            np.asarray(store.array(m, "image_embedding")[heldout]) @ words[m] for m in range(store.n_checkpoints)
        ]
        cosines.append(np.mean(products, axis=0))
    return find_pairs(store, split=split, where=where, by=-np.concatenate(cosines), page=page, per_page=per_page)


def _badly_matched(target: Target) -> float:
    """What a striking example has little of: ranks both ways, or doubt of its label; −f where neither is known."""
    if target.match is not None:
        return target.match.rank_image_to_text * target.match.rank_text_to_image
    return -target.f if target.guess is None else 1 - target.guess.p_label


def striking_pair(store: Store, *, seed: int = 0) -> int:
    """The row to open on: one the models match (know) well and that leans on few training examples, not on similar ones.

    Of a seeded draw of pairs (held-out where there are any), the eighth that retrieval ranks best both ways is kept; the
    winner has strong top-ten attributions of which few are also among the ten most similar pairs. Fewer are drawn from
    a large store, so that opening stays quick.
    """
    pool = np.arange(store.n_train, store.n) if store.n_heldout else np.arange(store.n_train)
    width = store.influence.dim + (store.similarity.dim if store.task.embeddings else 0)
    most = int(np.clip(SCAN_NUMBERS // max(1, store.n_train * width), 1, CANDIDATES))
    drawn = np.random.default_rng(seed).choice(pool, size=min(most, len(pool)), replace=False)
    targets = [stored_target(store, int(row)) for row in drawn]
    matched = sorted(targets, key=_badly_matched)[: -(-len(targets) // 8)]
    top = min(SHOWN, store.n_train)
    scores, rows = store.influence.search(np.stack([t.influence_query for t in matched]), top)
    if not store.task.embeddings:
        return int(matched[int(np.argmax(scores.mean(axis=1)))].row or 0)
    _, alike = store.similarity.search(np.stack([t.similarity_query for t in matched]), top)
    shared = np.array([len({*a} & {*b}) / top for a, b in zip(rows.tolist(), alike.tolist(), strict=True)])
    row = matched[int(np.argmax(scores.mean(axis=1) * (1.25 - shared)))].row
    assert row is not None  # stored targets have one
    return row
