"""A query of a stored target against a NumPy matrix–vector product over the same rows, taking turns.

    python benchmarks/query.py [--n N ...] [--dim D] [--store STORE] [--repeats N] [--json]

The query is what `traklens query` and the app do: both ends of the ranking in one pass over the memory-mapped float16
index, and the ids and captions. The peer multiplies float32 rows that are already in memory by the same query and does
nothing else: no ranking, no names.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from machine import machine

from traklens.engine.attribution.scores import rank, stored_target
from traklens.stores.index import IndexWriter, VectorIndex, scale_for
from traklens.stores.store import open_store

TARGET = 1.2
TOP = 10


def of_index(index: VectorIndex, query: np.ndarray, repeats: int, ask) -> dict[str, float]:
    """Median milliseconds of `ask`, of the product over float32 rows, and of two FAISS searches of the same index."""
    rows = index.rows(slice(0, index.count))
    peer, ours, both = [], [], []
    ends = np.stack([query, -query])
    for turn in range(repeats + 2):
        start = time.perf_counter()
        np.dot(rows, query)
        between = time.perf_counter()
        ask()
        end = time.perf_counter()
        index.search(ends, TOP)
        last = time.perf_counter()
        if turn >= 2:
            peer.append(between - start)
            ours.append(end - between)
            both.append(last - end)
    found = {"n": index.count, "dim": index.dim, "query_ms": 1e3 * statistics.median(ours)}
    found["matvec_ms"] = 1e3 * statistics.median(peer)
    found["two_faiss_searches_ms"] = 1e3 * statistics.median(both)
    found["ratio"] = found["query_ms"] / found["matvec_ms"]
    return found


def synthetic(n: int, dim: int, repeats: int) -> dict[str, float]:
    """An index of n random rows written by our own writer."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        writer = IndexWriter(Path(folder), "rows", dim, scale_for(6.0))
        for start in range(0, n, 4096):
            writer.append(rng.standard_normal((min(4096, n - start), dim), dtype=np.float32))
        writer.close()
        index = VectorIndex(Path(folder), "rows")
        query = rng.standard_normal(dim, dtype=np.float32)
        return of_index(index, query, repeats, lambda: index.extremes(query, TOP))


def of_store(path: Path, repeats: int) -> dict[str, float]:
    """A finished store, first held-out target: reading its row, ranking, and naming the pairs."""
    store = open_store(path)
    row = store.n_train if store.n_heldout else 0
    query = stored_target(store, row).influence_query
    target = stored_target(store, row)
    return of_index(store.influence, query, repeats, lambda: rank(store, target, top=TOP))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, nargs="*", default=[2_000, 20_000, 80_000])
    parser.add_argument("--dim", type=int, default=8_192, help="M·k: 4 checkpoints of 2,048")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = [synthetic(n, options.dim, options.repeats) for n in options.n]
    if options.store:
        found.append(of_store(options.store, options.repeats))
    if options.json:
        print(json.dumps({"machine": machine(), "faiss": faiss.__version__, "query": found}))
        return
    print(machine(), "faiss", faiss.__version__, "threads", faiss.omp_get_max_threads())
    for line in found:
        print(
            f"n {line['n']:>7,}  dim {line['dim']:,}  query {line['query_ms']:8.2f} ms  matvec {line['matvec_ms']:8.2f} ms"
            f"  two FAISS searches {line['two_faiss_searches_ms']:8.2f} ms  ratio {line['ratio']:.2f} (target ≤ {TARGET})"
        )


if __name__ == "__main__":
    main()
