"""Ask a finished store: which training examples raised or lowered the model output of a target?

No torch here: a stored target's query is a row of the store, and the ranking is an exact inner-product search,
`search(q)` for proponents and `search(−q)` for opponents. A target that is not in the store comes from `new_target.py`.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from traklens.engine.attribution.described import (
    Guess,
    Match,
    classes_of,
    matches,
    mean_probabilities,
    stored_guess,
    stored_match,
)
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.store import Store

METHODS = ("trak", "clip")


@dataclass(frozen=True)
class Target:
    """An example that is asked about. `row` and `id` are None when it is not in the store.

    `words`: its caption, label, or what its task calls it, `content` the text that these are about, if any; f: the mean over
    the checkpoints; `influence_query` is q = concat_m φ_m(z) [M·k], `similarity_query` concat_m of the embeddings [E·M·e],
    empty without them; `contrast` the words that it is asked about rather than; `span` the characters of the words that are
    asked about, all of them if None. `match` and `guess` say what the models make
    of it, where the store can tell.
    """

    row: int | None
    id: str | None
    words: str
    f: float
    influence_query: np.ndarray
    similarity_query: np.ndarray
    contrast: str | None = None
    match: Match | None = None
    guess: Guess | None = None
    content: str = ""
    span: tuple[int, int] | None = None

    @cached_property
    def key(self) -> str:
        """A name for the question itself, to keep answers by: equal for equal queries."""
        return hashlib.blake2b(self.influence_query.tobytes() + self.similarity_query.tobytes()).hexdigest()[:32]


@dataclass(frozen=True)
class Ranked:
    """A training example with its score: attribution τ in units of f (method trak) or mean cosine (method clip).

    `words`: its caption, label, or what its task calls it; `image`: where its picture lies, or its id; `content`: the text
    that the words are about, if any.
    """

    row: int
    id: str
    score: float
    words: str
    image: str
    split: str
    content: str = ""


@dataclass(frozen=True)
class Ranking:
    """Proponents best first, opponents most negative first (for clip: least similar first)."""

    proponents: tuple[Ranked, ...]
    opponents: tuple[Ranked, ...]
    method: str
    seconds: float


def stored_target(store: Store, which: str | int) -> Target:
    """The target of a stored pair, by example id or row. StoreError when there is no such pair."""
    row = store.examples.row_of(which) if isinstance(which, str) else which
    if not 0 <= row < store.n:
        raise StoreError(
            f"store {store.path}", f"row {row}", f"a row from 0 to {store.n - 1}", "Choose another example."
        )
    checkpoints = range(store.n_checkpoints)
    similarity_query = joined([list(store.embeddings(m, row).values()) for m in checkpoints])
    return Target(
        row=row,
        id=store.examples.id[row],
        words=store.examples.words[row],
        content=store.examples.content(row),
        f=float(np.mean([store.row(m, "f", row) for m in checkpoints])),
        influence_query=np.concatenate([store.row(m, "phi", row) for m in checkpoints]).astype(np.float32),
        similarity_query=similarity_query,
        match=stored_match(store, row, similarity_query),
        guess=stored_guess(store, row),
    )


def joined(embeddings: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """The embeddings of each checkpoint side by side, float32 [E·M·e]; empty without any."""
    vectors = [vector for of_checkpoint in embeddings for vector in of_checkpoint]
    return np.concatenate(vectors).astype(np.float32) if vectors else np.zeros(0, dtype=np.float32)


def mean_target(store: Store, ids: Sequence[str]) -> Target:
    """The mean of several stored pairs as one target: f, and with it the influence query, is linear in the pairs.

    Ranks of a mean are 0: it has no words of its own. UsageError for an empty group, StoreError for an unknown id.
    """
    targets = [stored_target(store, str(id)) for id in dict.fromkeys(ids)]
    if not targets:
        raise UsageError("group", "no example", "ids of stored examples", "Name at least one.")

    def mean(name: str) -> np.ndarray:
        return np.asarray(np.mean([getattr(target, name) for target in targets], axis=0, dtype=np.float64))

    found = [target.match for target in targets if target.match is not None]
    match = None
    if found:
        p = np.mean([one.p for one in found], axis=0)
        match = Match(float(np.mean([one.similarity for one in found])), (float(p[0]), float(p[1])), 0, 0)
    return Target(
        row=None,
        id=None,
        words=f"the mean of {len(targets):,} {store.noun}",
        f=float(mean("f")),
        influence_query=mean("influence_query").astype(np.float32),
        similarity_query=mean("similarity_query").astype(np.float32),
        match=match,
    )


def rival_of(store: Store, target: Target) -> str | None:
    """What the models would rather say: the training caption other than its own that they match best with the target's
    image, or the likeliest class other than its label; None without one."""
    if target.match is not None:
        captions = store.examples.words[: store.n_train]
        scores = matches(store, target.similarity_query.reshape(store.n_checkpoints, 2, -1), image=True)
        scores = np.where(captions == target.words, -np.inf, scores)
        best = int(np.argmax(scores))
        return str(captions[best]) if np.isfinite(scores[best]) else None
    if target.guess is None or target.row is None:
        return None if target.guess is None or target.guess.predicted == target.words else target.guess.predicted
    classes = classes_of(store)
    order = np.argsort(-mean_probabilities(store, target.row), kind="stable")
    return next((classes[c] for c in order if classes[c] != target.words), None)


def _query_of(store: Store, target: Target, method: str):
    if method not in METHODS:
        raise UsageError("method", repr(method), " or ".join(METHODS), "Choose one of them.")
    if method == "clip" and not store.task.embeddings:
        raise UsageError(
            "method", "similarity", "a task with a method `embed`", "Add it to the task and build the store again."
        )
    return (
        (store.influence, target.influence_query) if method == "trak" else (store.similarity, target.similarity_query)
    )


def rank(
    store: Store, target: Target, *, top: int = 10, method: str = "trak", where: np.ndarray | None = None
) -> Ranking:
    """The `top` proponents and opponents among the training examples. A training target finds itself among them.

    For TRAK a proponent has a score above zero and an opponent one below: there may be fewer than `top`. `where`: bool
    [n_train], which of them to look at; all if None.
    """
    if top < 1:
        raise UsageError("top", str(top), "1 or more", "Try 10.")
    start = time.perf_counter()
    index, query = _query_of(store, target, method)
    if where is None:
        best, best_rows, worst, worst_rows = index.extremes(query, min(top, store.n_train))
    else:
        rows = np.flatnonzero(where)
        scores = index.scores(query, rows)
        order = np.argsort(-scores, kind="stable")
        (best, best_rows), (worst, worst_rows) = ((scores[o], rows[o]) for o in (order[:top], order[::-1][:top]))
    if method == "trak":
        best, best_rows, worst, worst_rows = (
            best[best > 0],
            best_rows[best > 0],
            worst[worst < 0],
            worst_rows[worst < 0],
        )
    proponents = tuple(ranked(store, row, score) for row, score in zip(best_rows, best, strict=True))
    opponents = tuple(ranked(store, row, score) for row, score in zip(worst_rows, worst, strict=True))
    return Ranking(proponents, opponents, method, time.perf_counter() - start)


def ranked(store: Store, row: int, score: float) -> Ranked:
    """A stored pair with a score."""
    examples = store.examples
    return Ranked(
        row=int(row),
        id=examples.id[row],
        score=float(score),
        words=examples.words[row],
        image=examples.image[row],
        split=examples.split[row],
        content=examples.content(row),
    )


def score_sample(
    store: Store, target: Target, *, method: str = "trak", at_most: int = 20_000, seed: int = 0
) -> np.ndarray:
    """Scores of all training examples, or of a seeded sample of `at_most`: float32 [min(n_train, at_most)]."""
    index, query = _query_of(store, target, method)
    if store.n_train <= at_most:
        return index.scores(query)
    rows = np.sort(np.random.default_rng(seed).choice(store.n_train, size=at_most, replace=False))
    return index.scores(query, rows)


def score_histogram(scores: np.ndarray, bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Edges and counts of scores [n], about `bins` of them; zero is always an edge, so that no bin mixes the signs."""
    low, high = min(float(scores.min(initial=0)), 0.0), max(float(scores.max(initial=0)), 0.0)
    width = max(high - low, 1e-12) / bins
    below = int(np.ceil(-low / width - 1e-9))
    edges = width * np.arange(-below, bins - below + 2)
    counts, _ = np.histogram(scores, edges)
    return edges, counts


def shared_rows(a: Ranking, b: Ranking) -> set[int]:
    """Rows that are among the proponents of both rankings."""
    return {pair.row for pair in a.proponents} & {pair.row for pair in b.proponents}


def as_ranked(store: Store, target: Target, rows: np.ndarray) -> list[Ranked]:
    """Chosen training rows with their attribution to a target, in the order given."""
    scores = store.influence.scores(target.influence_query, rows)
    return [ranked(store, int(row), float(score)) for row, score in zip(rows, scores, strict=True)]


def soft_threshold(scores: np.ndarray, keep_share: float) -> np.ndarray:
    """TRAK's last step: τ ← sign(τ)·max(|τ| − t, 0), t the quantile of |τ| that keeps a share of the training set.

    scores [..., n], one target per row. The order of proponents and opponents does not change. Raises UsageError for
    a share outside (0, 1].
    """
    if not 0 < keep_share <= 1:
        raise UsageError("soft threshold", f"a share of {keep_share}", "above 0 and at most 1", "Try 0.02.")
    size = np.abs(scores)
    threshold = np.quantile(size, 1 - keep_share, axis=-1, keepdims=True) if keep_share < 1 else 0.0
    return np.sign(scores) * np.maximum(size - threshold, 0)
