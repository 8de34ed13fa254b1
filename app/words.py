"""How the pages speak of a store's examples: pairs with captions, examples with labels, or of the user's own."""

from dataclasses import dataclass

from traklens.engine.attribution.described import classes_of, is_matching
from traklens.stores.store import Store


@dataclass(frozen=True)
class Words:
    """kind: "pairs", "labels" or "own", which decides what the pages offer and explain.

    one and many: what an example is called; what: what stands in words beside it; raises, lowers: what a proponent and an
    opponent do.
    """

    kind: str
    one: str
    many: str
    what: str
    raises: str
    lowers: str

    @property
    def whats(self) -> str:
        """The plural of what stands in words."""
        return self.what if self.what.endswith("s") else f"{self.what}s"

    def count(self, n: int) -> str:
        """So many of them."""
        return f"{n:,} {self.one if n == 1 else self.many}"


def words_of(store: Store) -> Words:
    """How to speak of this store's examples."""
    if is_matching(store):
        return Words("pairs", "pair", "pairs", "caption", "raise the match", "lower the match")
    if classes_of(store):
        return Words("labels", "example", "examples", "label", "speak for the label", "speak against the label")
    return Words("own", "example", "examples", store.task.title, "raise the output", "lower the output")
