"""Fact tracing: do the sentences that a method holds responsible for an answer state the fact?

Source: Akyürek et al. 2022 (arXiv 2205.11482), section 3: reciprocal rank and recall of the sentences that state the fact
of each query; TRAK (Park et al. 2023), section 4.2. A sentence of which several questions were made (`--mask-facts`) is
ranked by the sum of its attributions, or by its best cosine or BM25.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from traklens.engine.attribution.methods import METHODS, scores_of, unit
from traklens.engine.data.example import Problem
from traklens.engine.data.tables import Record, json_lines
from traklens.engine.statistics import bootstrap
from traklens.stores.errors import DataError, UsageError
from traklens.stores.store import Store

UNIT = "trak_unit"
TRACED = ("trak", "weighted", "unweighted", UNIT, "influence", "gradcos", "graddot", "clip", "bm25", "random")
# attributions, which add up; the rest say how alike two examples are
SUMMED = ("trak", "weighted", "unweighted", UNIT, "influence", "graddot")
AT = (1, 10)
NAMES = {UNIT: "TRAK, rows of length one", "relevant": "the sentences that state the fact"} | {
    name: METHODS[name].title for name in TRACED if name != UNIT
}


@dataclass(frozen=True)
class Queries:
    """Stored targets with the sentences that state their facts: rows int64 [T], relevant bool [T, S] of S sentences.

    sentence: int64 [n_train], which sentence a training row is of.
    """

    rows: np.ndarray
    relevant: np.ndarray
    sentence: np.ndarray


def queries_in(store: Store, file: Path) -> Queries:
    """The queries of a JSON-lines file ("text", "answer", "relevant": the data's own ids) that are targets of the store.

    Raises DataError for a file without queries, UsageError where the store holds none of them or its data have no ids.
    """
    asked = [record.columns for record in json_lines(file) if not isinstance(record, Problem) and _is_query(record)]
    if not asked:
        raise DataError(
            f"queries {file}", "none", 'JSON lines with "text", "answer" and "relevant"', "Check the file."
        )
    examples, names = store.examples, [field.name for field in store.task.fields if field.kind == "text"]
    known = {tuple(str(examples.field(name)[row]) for name in names): row for row in range(store.n_train, store.n)}
    groups, sentence = np.unique(examples.group[: store.n_train].astype(str), return_inverse=True)
    of_id: dict[str, int] = {}
    for row in range(store.n_train):
        if (id := examples.attributes(row).get("id")) is not None:
            of_id[id] = int(sentence[row])
    rows, relevant = [], []
    for query in asked:
        row = known.get(tuple(str(query[name]) for name in ("text", "answer"))[: len(names)])
        found = [of_id[id] for id in map(str, query["relevant"]) if id in of_id]
        if row is not None and found:
            rows.append(row)
            relevant.append(np.isin(np.arange(len(groups)), found))
    if not rows:
        what = (
            "no training example has an id of its data"
            if not of_id
            else f"none of its {len(asked):,} queries is a target"
        )
        raise UsageError(
            f"queries {file}", what, "targets of this store", f"Build it with --targets {file}, from data with ids."
        )
    return Queries(np.array(rows), np.stack(relevant), sentence)


def _is_query(record: Record) -> bool:
    found = record.columns
    return all(isinstance(found.get(name), str) for name in ("text", "answer")) and isinstance(
        found.get("relevant"), list
    )


def traced(store: Store, queries: Queries, methods: Sequence[str] | None = None) -> dict[str, Any]:
    """Per method {"mrr", "recall@1", "recall@10", "precision@10", "lo", "hi"}: means over the queries, 95 % interval of mrr.

    Raises UsageError for an unknown method.
    """
    possible = [name for name in TRACED if name == UNIT or METHODS[name].fits(store)]
    unknown = [name for name in methods or () if name not in possible]
    if unknown:
        raise UsageError("methods", unknown[0], ", ".join(possible), "Choose among them.")
    found = {}
    for method in methods or possible:
        each = measured(by_sentence(store, queries, method), queries.relevant)
        interval = asdict(bootstrap(each["mrr"]))
        found[method] = {name: float(values.mean()) for name, values in each.items()}
        found[method] |= {"lo": interval["lo"], "hi": interval["hi"]}
    return found


def by_sentence(store: Store, queries: Queries, method: str) -> np.ndarray:
    """Scores of every sentence for each query [T, S]."""
    if method == UNIT:
        rows = unit(store.influence.rows(slice(0, store.n_train)).astype(np.float32))
        phi = [np.asarray(store.array(m, "phi").oindex[queries.rows]) for m in range(store.n_checkpoints)]
        scores = np.concatenate(phi, axis=1) @ rows.T
    else:
        scores = scores_of(store, method, queries.rows).scores
    total = np.full((len(queries.rows), queries.relevant.shape[1]), 0.0 if method in SUMMED else -np.inf)
    into = np.add if method in SUMMED else np.maximum
    for column, sentence in enumerate(queries.sentence):
        into(total[:, sentence], scores[:, column], out=total[:, sentence])
    return total


def measured(scores: np.ndarray, relevant: np.ndarray) -> dict[str, np.ndarray]:
    """Of scores and relevance [T, S]: reciprocal rank of the first relevant one, recall and precision, [T] each.

    Ties count against the method: a relevant sentence stands behind all others of its score.
    """
    order = np.lexsort((relevant, -scores), axis=1)
    hits = np.take_along_axis(relevant, order, axis=1)
    found = {"mrr": 1.0 / (1 + hits.argmax(axis=1))}
    for k in AT:
        found[f"recall@{k}"] = hits[:, :k].sum(axis=1) / relevant.sum(axis=1)
    return found | {"precision@10": hits[:, :10].mean(axis=1)}
