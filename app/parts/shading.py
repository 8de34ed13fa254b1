"""Words of ranked texts, shaded by what they contribute to the scores."""

from collections.abc import Iterable
from dataclasses import dataclass

import streamlit as st

from traklens.app import caches
from traklens.app.markup import notice, shaded_text
from traklens.engine.attribution.scores import Ranked, Target
from traklens.stores.errors import TrakLensError
from traklens.stores.examples import content_fields
from traklens.stores.store import Store

WHOLE = "The shaded words of what was learned add up to the score."
PART = "Words of an input are shaded by what they contribute through their embeddings: a part of the score."


@dataclass(frozen=True)
class Looks:
    """The texts of a ranked example as HTML: what its words are about, and the words."""

    content: str
    words: str


def looks(store: Store, target: Target, shown: Iterable[Ranked]) -> dict[int, Looks]:
    """Per row of the ranked examples its texts, shaded; none, and a message, where the models cannot be asked."""
    examples = {example.row: example for example in shown if example.row < store.n_train}
    try:
        found = caches.shaded(store, target, tuple(sorted(examples)))
    except TrakLensError as error:
        notice(str(error), kind="error")
        return {}
    largest = {
        whole: max(
            (abs(w.score) for fs in found.values() for f in fs if f.whole == whole for w in f.words), default=0.0
        )
        for whole in (True, False)
    }
    wholes = {field.whole for fields in found.values() for field in fields}
    st.html(f'<div class="tl-quiet">{" ".join([WHOLE] * (True in wholes) + [PART] * (False in wholes))}</div>')
    drawn = {}
    for row, fields in found.items():
        html = {
            field.field: shaded_text(str(store.examples.field(field.field)[row]), field.words, largest[field.whole])
            for field in fields
        }
        names = content_fields(store.task)
        drawn[row] = Looks("\n".join(html[name] for name in names if name in html), html.get(store.task.title, ""))
    return drawn
