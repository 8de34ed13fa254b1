"""Which pairs of a store to list: by a recorded attribute, by what reviewers decided, by how well the models match them."""

from collections import Counter
from collections.abc import Collection

import numpy as np

from traklens.stores.store import Store

REVIEWED = ("any", "reviewed", "not reviewed")
ORDERS = ("stored", "worst", "best", "opponents", "proponents")
MOST_VALUES = 200


def attributes_of(store: Store) -> dict[str, tuple[str, ...]]:
    """What the data set records of its pairs to choose from: attributes with 2 to 200 values, frequent ones first."""
    counts: dict[str, Counter[str]] = {}
    for row in range(store.n):
        for name, value in store.examples.attributes(row).items():
            counts.setdefault(name, Counter())[str(value)] += 1
    return {
        name: tuple(value for value, _ in counter.most_common())
        for name, counter in sorted(counts.items())
        if 2 <= len(counter) <= MOST_VALUES
    }


def having(store: Store, name: str, value: str) -> np.ndarray:
    """Pairs of which the data set records this value: bool [n]."""
    found = (str(store.examples.attributes(row).get(name)) == value for row in range(store.n))
    return np.fromiter(found, dtype=bool, count=store.n)


def decided(store: Store, ids: Collection[str], reviewed: str) -> np.ndarray | None:
    """Pairs that are (not) among the reviewed ids: bool [n]; None for "any"."""
    if reviewed == "any":
        return None
    among = np.isin(store.examples.id.astype(str), list(ids))
    return among if reviewed == "reviewed" else ~among


def order_values(store: Store, order: str, influence_query: np.ndarray | None = None) -> np.ndarray | None:
    """What to sort by, lowest first: float [n]; None for the stored order.

    "worst" and "best": by the mean model output f; "proponents" and "opponents": by influence on the target with this
    query, held-out pairs last, since they have none.
    """
    if order in ("worst", "best"):
        f = np.mean([np.asarray(store.array(m, "f")[:]) for m in range(store.n_checkpoints)], axis=0)
        return f if order == "worst" else -f
    if order in ("proponents", "opponents") and influence_query is not None:
        values = np.full(store.n, np.inf)
        scores = store.influence.scores(influence_query)
        values[: store.n_train] = -scores if order == "proponents" else scores
        return values
    return None
