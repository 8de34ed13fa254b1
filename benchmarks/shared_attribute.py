"""Of each target's 20 top proponents, the share that bears the target's own character, by method, on the demo data.

    python benchmarks/shared_attribute.py STORE [--attribute character] [--top 20] [--sweep] [--json]

STORE is a store of the demo data set (`traklens demo --no-app` says where). Targets are the held-out pairs whose caption
was not planted wrong; the character is the one drawn on the picture. Chance is the share among all training pairs.
The rarest characters (at most ten training pairs) are shown beside all of them. `--sweep` repeats TRAK over damping λ.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from machine import machine

from traklens.engine.features.precondition import DampedGram, gram_matrix
from traklens.stores.store import Store, open_store

RARE = 10
DAMPINGS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--attribute", default="character")
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    store = open_store(options.store)
    known = [store.examples.attributes(row) for row in range(store.n)]
    value = np.array([facts[options.attribute] for facts in known])
    targets = np.array([row for row in range(store.n_train, store.n) if known[row].get("planted") != "wrong caption"])
    same = value[targets][:, None] == value[: store.n_train]
    counts = same.sum(axis=1)
    groups = {
        "all targets": np.ones(len(targets), dtype=bool),
        f"at most {RARE} alike": (counts <= RARE) & (counts > 0),
    }
    table = {
        name: {group: _share(scores, same, options.top)[chosen].mean() for group, chosen in groups.items()}
        for name, scores in {**methods(store, targets), **(sweep(store, targets) if options.sweep else {})}.items()
    }
    table["chance"] = {group: same[chosen].mean() for group, chosen in groups.items()}
    table["best possible"] = {
        group: (np.minimum(counts, options.top) / options.top)[chosen].mean() for group, chosen in groups.items()
    }
    spec = store.manifest
    facts = {
        "machine": machine(), "n_train": store.n_train, "checkpoints": store.n_checkpoints, "k": spec.projection.dim,
        "targets": {group: int(chosen.sum()) for group, chosen in groups.items()}, "top": options.top,
    }  # fmt: skip
    if options.json:
        print(json.dumps(facts | {"share": {k: {g: float(x) for g, x in v.items()} for k, v in table.items()}}))
        return
    print(*(f"{key} {item}" for key, item in facts.items()), sep="; ")
    print(f"{'share of the top ' + str(options.top):34}", *(f"{group:>18}" for group in groups))
    for name, row in table.items():
        print(f"{name:34}", *(f"{row[group]:18.3f}" for group in groups))


def _share(scores: np.ndarray, same: np.ndarray, top: int) -> np.ndarray:
    """Share of the `top` highest-scored training pairs that are alike, per target: [t, n], [t, n] → [t]."""
    best = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    return np.take_along_axis(same, best, axis=1).mean(axis=1)


def _blocks(store: Store, name: str) -> list[np.ndarray]:
    return [np.asarray(store.array(m, name)[:]) for m in range(store.n_checkpoints)]


def methods(store: Store, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Scores [t, n] of each method, from what the store holds: every one a mean over the checkpoints."""
    n = store.n_train
    phi, image, text = _blocks(store, "phi"), *(_blocks(store, name) for name in store.task.embeddings)
    return {
        "TRAK": trak(store, targets, store.manifest.score.damping),
        "TRAK without Q": trak(store, targets, store.manifest.score.damping, weight_by_q=False),
        "CLIP similarity (image and text)": sum(e[targets] @ e[:n].T for e in (*image, *text)),
        "CLIP similarity (image)": sum(e[targets] @ e[:n].T for e in image),
        "CLIP similarity (text)": sum(e[targets] @ e[:n].T for e in text),
        "gradient dot product": sum(p[targets] @ p[:n].T for p in phi),
        "gradient cosine": sum(_unit(p[targets]) @ _unit(p[:n]).T for p in phi),
    }  # type: ignore[return-value]


def trak(store: Store, targets: np.ndarray, damping: float, *, weight_by_q: bool = True) -> np.ndarray:
    """TRAK's scores [t, n] with another damping, from the stored φ."""
    n, total = store.n_train, np.zeros((len(targets), store.n_train))
    for phi in _blocks(store, "phi"):
        solved = DampedGram(gram_matrix([phi[:n]], phi.shape[1]), damping).solve(phi[:n])
        total += phi[targets] @ solved.T / store.n_checkpoints
    return total * np.mean(_blocks(store, "q"), axis=0)[:n] if weight_by_q else total


def sweep(store: Store, targets: np.ndarray) -> dict[str, np.ndarray]:
    """TRAK at several λ, relative to the mean diagonal of the Gram matrix."""
    return {f"TRAK, λ = {damping:g}": trak(store, targets, damping) for damping in DAMPINGS}


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
