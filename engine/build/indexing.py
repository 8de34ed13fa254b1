"""The last stage of a build: the two indices, from the preconditioned rows and from the embeddings."""

import numpy as np

from traklens.engine.features.precondition import influence_rows, similarity_rows
from traklens.engine.progress import Report
from traklens.stores.builder import StoreBuilder
from traklens.stores.features import chunks
from traklens.stores.index import VectorIndex, recall_against, scale_for
from traklens.stores.layout import INFLUENCE, SIMILARITY

RECALL_TARGETS = 16


def write_indices(builder: StoreBuilder, report: Report) -> None:
    """influence.faiss over the preconditioned rows and, where the task has embeddings, similarity.faiss over these."""
    manifest = builder.manifest
    checkpoints, n = range(len(manifest.checkpoints)), manifest.n_train

    def arrays(name: str, rows: slice) -> list[np.ndarray]:
        return [np.asarray(builder.array(m, name)[rows]) for m in checkpoints]

    def influence(rows: slice) -> np.ndarray:
        mean_q = np.mean(arrays("q", rows), axis=0)
        return influence_rows(arrays("preconditioned", rows), mean_q, weight_by_q=manifest.score.weight_by_q)

    def similarity(rows: slice) -> np.ndarray:
        return similarity_rows([arrays(name, rows) for name in manifest.task.embeddings])

    wanted = [(INFLUENCE, influence), *([(SIMILARITY, similarity)] if manifest.task.embeddings else [])]
    for name, rows_of in wanted:
        largest = max(float(np.abs(rows_of(rows)).max()) for _, rows in chunks(n))
        width = rows_of(slice(0, 1)).shape[1]
        writer = builder.index_writer(name, width, scale_for(largest))
        for _, rows in chunks(n):
            writer.append(rows_of(rows))
            report(f"{name} index", rows.stop, n, "")
        writer.close()
    _measure_recall(builder, influence, arrays)


def _measure_recall(builder: StoreBuilder, influence, arrays) -> None:
    """How many of the true top ten the index finds, both ways, on a few targets and at most 4,096 training examples."""
    n = builder.manifest.n_train
    index = VectorIndex(builder.building, INFLUENCE)
    rng = np.random.default_rng(0)
    targets = np.sort(rng.choice(n, size=min(RECALL_TARGETS, n), replace=False))
    queries = np.concatenate([np.concatenate(arrays("phi", slice(t, t + 1)), axis=1) for t in targets])
    exact = np.concatenate([queries.astype(np.float64) @ influence(rows).T for _, rows in chunks(n)], axis=1)
    builder.record(recall={"targets": len(targets), "top": min(10, n)} | recall_against(index, exact, queries))
