"""Sentences that state facts, as questions: one entity of a sentence's facts masked at a time, to be answered.

Source: FTRACE-TREx (Akyürek et al. 2022, arXiv 2205.11482), on which TRAK (section 4.2) traces facts.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from traklens.engine.data.example import Problem
from traklens.engine.data.values import GROUP
from traklens.stores.specs import FieldSpec

MASK = "[MASK]"
STATED = (FieldSpec("text", "text"), FieldSpec("facts", "tensor"))  # the columns of sentences: text, and triples


def masked(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any] | Problem]:
    """Sentences with "text" and "facts" (subject, relation, object) → inputs with an entity masked, and the entity as target.

    All of one sentence are of one group. A sentence none of whose entities stands in it word by word is a Problem.
    """
    for row in rows:
        text = str(row["text"])
        further = {name: value for name, value in row.items() if name != "text"}
        entities = [e for e in entities_of(row["facts"]) if _found(e, text) is not None]
        if not entities:
            yield Problem(
                "no entity in the sentence", str(row.get("id", text[:60])), f"facts {str(row['facts'])[:80]}"
            )
        for entity in entities:
            place = _found(entity, text)
            assert place is not None
            yield {
                **further,
                GROUP: text,
                "input": text[: place.start()] + MASK + text[place.end() :],
                "target": entity,
            }


def entities_of(facts: Any) -> list[str]:
    """Subjects and objects of triples in words, each once; none where they are no triples."""
    try:
        triples = json.loads(facts) if isinstance(facts, str) else facts
        names = [str(name) for subject, _, thing in triples for name in (subject, thing)]
    except (TypeError, ValueError):
        return []
    words = [" ".join(name.replace("_", " ").strip('"').split()) for name in names]
    return list(dict.fromkeys(word for word in words if word))


def _found(entity: str, text: str) -> re.Match[str] | None:
    """Where an entity stands in a sentence as whole words."""
    return re.search(rf"(?<!\w){re.escape(entity)}(?!\w)", text)
