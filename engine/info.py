"""`traklens info`: what a store was built from, how healthy it is, how large."""

from pathlib import Path
from typing import Any

import numpy as np

from stores.checksums import files_of
from stores.specs import to_dict
from stores.store import Store, open_store


def describe(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """Facts about a store; with `verify`, `problems` lists every file whose bytes are not as written.

    Raises StoreError when the store cannot be opened.
    """
    store = open_store(path)
    manifest = store.manifest
    found: dict[str, Any] = {
        "pairs": {"training": store.n_train, "held-out": store.n_heldout},
        "model": manifest.model.name,
        "checkpoints": [f"{c.path} ({c.subset or 'training set unknown'})" for c in manifest.checkpoints],
        "projection": f"{manifest.projection.kind}, k = {manifest.projection.dim}, seed {manifest.projection.seed}",
        "damping": manifest.score.damping,
        "model_output": f"{manifest.model_output.kind}, temperature {manifest.model_output.temperature}, "
        f"{manifest.model_output.n_reference} reference pairs",
        "health": [health(store, m) for m in range(store.n_checkpoints)],
        "index": {"type": manifest.score.index} | manifest.recall,
        "data": manifest.dataset.root,
        "created": manifest.created,
        "libraries": manifest.libraries,
        "megabytes": round(sum((path / name).stat().st_size for name in files_of(path)) / 1e6, 1),
        "manifest": to_dict(manifest),
    }
    if verify:
        found["problems"] = store.verify()
    return found


def health(store: Store, m: int) -> str:
    """One line about a checkpoint: how well it fits, and how well its Gram matrix is conditioned.

    The effective rank is (Σλ)² / Σλ² of the spectrum; the condition number is that of the damped matrix.
    """
    eigenvalues = np.maximum(np.asarray(store.array(m, "gram_eigenvalues")[:], dtype=np.float64), 0)
    ridge = store.manifest.score.damping * eigenvalues.mean()
    p = float(np.asarray(store.array(m, "p")[: store.n_train]).mean())
    rank = eigenvalues.sum() ** 2 / max(float((eigenvalues**2).sum()), 1e-300)
    condition = (eigenvalues[0] + ridge) / max(eigenvalues[-1] + ridge, 1e-300)
    line = f"checkpoint {m}: mean p {p:.2f} on training pairs"
    if store.n_heldout:
        line += f", {float(np.asarray(store.array(m, 'p')[store.n_train :]).mean()):.2f} held-out"
    return f"{line}; effective rank of G {rank:.0f} of {len(eigenvalues)}, condition {condition:.2g} after damping"
