"""What people's decisions mean for the training examples. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from traklens.stores.reviews import Review
from traklens.stores.store import Store

DROPPED = ("wrong", "duplicate")


@dataclass(frozen=True)
class Line:
    """A training pair with the decision on it. `caption` is the one to train on: the accepted correction, if any."""

    row: int
    id: str
    image: str
    given: str
    caption: str
    decision: str
    kept: bool


def lines(store: Store, decisions: Mapping[str, Review]) -> Iterator[Line]:
    """The training examples in order, decisions applied: wrong ones and duplicates go, unless a caption was corrected."""
    for row in range(store.n_train):
        id, given = str(store.examples.id[row]), str(store.examples.words[row])
        review = decisions.get(id)
        yield Line(
            row=row,
            id=id,
            image=str(store.image_path(row)),
            given=given,
            caption=str(review.caption) if review is not None and corrects(review) else given,
            decision="" if review is None else review.decision,
            kept=review is None or not confirms(review),
        )


def corrects(review: Review) -> bool:
    """Whether a decision keeps the pair with a better caption."""
    return review.decision == "wrong" and bool(review.caption)


def confirms(review: Review) -> bool:
    """Whether a decision takes the pair out of the training list."""
    return review.decision in DROPPED and not corrects(review)


def confirmed_rows(store: Store, decisions: Mapping[str, Review]) -> np.ndarray:
    """Training rows that the decisions take out, in the order they were decided: int64 [r]."""
    found = [store.examples.find(id) for id, review in decisions.items() if confirms(review)]
    return np.array([row for row in found if row is not None and row < store.n_train], dtype=np.int64)
