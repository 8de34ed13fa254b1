"""How the pages speak of a store's examples: pairs with captions, examples with labels, texts, or of the user's own."""

from dataclasses import dataclass

from traklens.engine.attribution.described import classes_of, is_language, is_matching
from traklens.stores.examples import content_fields
from traklens.stores.store import Store

ANSWER = "answer"


@dataclass(frozen=True)
class Words:
    """kind: "pairs", "labels", "language" or "own", which decides what the pages offer and explain.

    one and many: what an example is called; what: what stands in words beside it; raises, lowers: what a proponent and an
    opponent do; shown: what these words are about, "image", "text" or "example".
    """

    kind: str
    one: str
    many: str
    what: str
    raises: str
    lowers: str
    shown: str = "image"

    @property
    def whats(self) -> str:
        """The plural of what stands in words."""
        return self.what if self.what.endswith("s") else f"{self.what}s"

    @property
    def hunts(self) -> bool:
        """Whether what stands in words can be wrong in a way that is hunted: a caption, a label or an answer."""
        return self.kind in ("pairs", "labels") or self.what == ANSWER

    def count(self, n: int) -> str:
        """So many of them."""
        return f"{n:,} {self.one if n == 1 else self.many}"


def words_of(store: Store) -> Words:
    """How to speak of this store's examples."""
    if is_matching(store):
        return Words("pairs", "pair", "pairs", "caption", "raise the match", "lower the match")
    if classes_of(store):
        shown = "image" if store.task.first("image") else "text" if content_fields(store.task) else "example"
        return Words(
            "labels", "example", "examples", "label", "speak for the label", "speak against the label", shown
        )
    if is_language(store):
        what = ANSWER if content_fields(store.task) else "text"
        return Words("language", "text", "texts", what, f"taught the {what}", f"spoke against the {what}", "text")
    return Words("own", "example", "examples", store.task.title, "raise the output", "lower the output")
