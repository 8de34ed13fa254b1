"""What a classifier takes for what: the confusion table, and the examples behind each of its cells. No torch."""

from dataclasses import dataclass

import numpy as np

from traklens.engine.attribution.described import classes_of, probabilities_of
from traklens.stores.errors import UsageError
from traklens.stores.store import Store

SPLITS = ("heldout", "train")


@dataclass(frozen=True)
class Confusion:
    """Of one split: label and taken, int64 [n] class numbers; sure, float64 [n], p of the class taken; rows, int64 [n].

    A training example is judged by all checkpoints, those that trained on it included.
    """

    classes: tuple[str, ...]
    rows: np.ndarray
    label: np.ndarray
    taken: np.ndarray
    sure: np.ndarray

    def table(self) -> np.ndarray:
        """How many examples of each label (row) are taken for each class (column): int64 [C, C]."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(counts, (self.label, self.taken), 1)
        return counts

    def most_frequent(self, count: int) -> list[tuple[int, int, int]]:
        """The largest cells off the diagonal: (label, class taken, how many), ties in the order of the classes."""
        table = self.table()
        np.fill_diagonal(table, 0)
        order = np.argsort(-table.ravel(), kind="stable")[:count]
        cells = [(int(i // len(table)), int(i % len(table))) for i in order]
        return [(a, b, int(table[a, b])) for a, b in cells if table[a, b]]

    def cell(self, label: int, taken: int) -> np.ndarray:
        """Rows of the examples of a cell, those that the models are surest of first: int64 [r]."""
        chosen = np.flatnonzero((self.label == label) & (self.taken == taken))
        return self.rows[chosen[np.argsort(-self.sure[chosen], kind="stable")]]

    @property
    def accuracy(self) -> float:
        """Share of examples taken for what their label says; nan for an empty split."""
        return float((self.label == self.taken).mean()) if self.rows.size else float("nan")


def confusion_of(store: Store, split: str) -> Confusion:
    """The confusion of the held-out ("heldout") or the training examples. UsageError for a store without classes."""
    classes = classes_of(store)
    if not classes:
        raise UsageError("confusion", f"the task {store.task.name!r}, which has no classes", "a classifier", "-")
    part = slice(store.n_train, store.n) if split == "heldout" else slice(0, store.n_train)
    p = probabilities_of(store)[part]
    number = {name: i for i, name in enumerate(classes)}
    label = np.array([number[str(words)] for words in store.examples.words[part]], dtype=np.int64)
    taken = p.argmax(axis=1) if len(p) else np.zeros(0, dtype=np.int64)
    return Confusion(classes, np.arange(part.start, part.stop), label, taken, p.max(axis=1, initial=0.0))
