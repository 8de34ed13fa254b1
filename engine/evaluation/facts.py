"""`traklens evaluate --queries`: facts traced, and forgotten; what was found is kept beside the store."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from traklens.engine.evaluation.counterfactual import forgotten
from traklens.engine.evaluation.fact_tracing import queries_in, traced
from traklens.engine.progress import Report, silent
from traklens.stores.atomic import read_json, write_json
from traklens.stores.errors import StoreError
from traklens.stores.layout import FACTS
from traklens.stores.locks import writing
from traklens.stores.store import Store

OF_REMOVALS = ("counterfactual", "known", "facts", "k", "seeds")  # kept from one evaluation to the next


def evaluate_facts(
    store: Store,
    file: Path,
    *,
    methods: Sequence[str] | None = None,
    removal_methods: Sequence[str] | None = None,
    counterfactual: int | None = None,
    facts: int = 64,
    seeds: int = 3,
    report: Report = silent,
) -> dict[str, Any]:
    """Trace the queries of a file and, with `counterfactual` = k, train without what the methods find; keeps the outcome.

    {"created", "queries", "sentences", "retrieval": {method: …}, "counterfactual": {…} or null, "known", "k", "seeds"}; see
    `traced` and counterfactual.py. Raises DataError and UsageError as `queries_in`.
    """
    queries = queries_in(store, file)
    outcome: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "queries": len(queries.rows),
    }
    outcome |= {"sentences": int(queries.relevant.shape[1]), "retrieval": traced(store, queries, methods)}
    with writing(store.path, "store", shared=True):
        kept = kept_facts(store) or {}
        outcome |= {name: kept.get(name) for name in OF_REMOVALS}
        if counterfactual is not None:
            found = forgotten(
                store, queries, counterfactual, methods=removal_methods, facts=facts, seeds=seeds, report=report
            )
            outcome |= {"counterfactual": found.pop("methods"), **found}
        write_json(store.path / FACTS, outcome)
    return outcome


def kept_facts(store: Store) -> dict[str, Any] | None:
    """What `evaluate_facts` found for this store; None when it has not run. StoreError when the file is damaged."""
    path, again = store.path / FACTS, "Run `traklens evaluate … --queries` again."
    if not path.is_file():
        return None
    found = read_json(path, "what fact tracing found", again)
    if not isinstance(found, dict) or not isinstance(found.get("retrieval"), dict):
        raise StoreError(f"{path}", "something else", "what fact tracing found", again)
    return found
