"""How healthy a store is: the fit of each checkpoint, the spectrum and condition of its Gram matrix, its gradients.

No torch.
"""

from dataclasses import dataclass

import numpy as np

from traklens.engine.label_errors.signals import trained_on
from traklens.stores.store import Store

GRADIENTS_LOOKED_AT = 2_048


@dataclass(frozen=True)
class Health:
    """One checkpoint. p: mean probability (1 − Q) of the true partner, or of the label, on training, held-out (nan where
    none) and unseen training examples (nan where unknown). eigenvalues: float64 [k] of ΦᵀΦ,
    descending; ridge: what the damping adds to each.

    effective_rank is (Σλ)² / Σλ²; condition that of the damped matrix; zero_gradients the share of training examples, among
    a sample, whose gradient is zero.
    """

    checkpoint: int
    p_train: float
    p_heldout: float
    p_unseen: float
    unseen: float
    eigenvalues: np.ndarray
    ridge: float
    zero_gradients: float

    @property
    def effective_rank(self) -> float:
        total = float(self.eigenvalues.sum())
        return total**2 / max(float((self.eigenvalues**2).sum()), 1e-300)

    @property
    def condition(self) -> float:
        return float((self.eigenvalues[0] + self.ridge) / max(self.eigenvalues[-1] + self.ridge, 1e-300))

    def in_words(self) -> str:
        """One line."""
        line = f"checkpoint {self.checkpoint}: mean p {self.p_train:.2f} on training data"
        if not np.isnan(self.p_heldout):
            line += f", {self.p_heldout:.2f} held-out"
        k = self.eigenvalues.size
        rank, condition = self.effective_rank, self.condition
        return f"{line}; effective rank of G {rank:.0f} of {k}, condition {condition:.2g} after damping"


def health_of(store: Store) -> list[Health]:
    """Every checkpoint's health; reads f, p and the spectra, and the gradients of at most 2,048 training examples."""
    seen = trained_on(store)
    rows = np.sort(np.random.default_rng(0).permutation(store.n_train)[:GRADIENTS_LOOKED_AT])
    found = []
    for m in range(store.n_checkpoints):
        eigenvalues = np.maximum(np.asarray(store.array(m, "gram_eigenvalues")[:], dtype=np.float64), 0)
        p = 1 - np.asarray(store.array(m, "q")[:], dtype=np.float64)  # of the partner, of the label
        train, unseen = p[: store.n_train], ~seen[m]
        found.append(
            Health(
                checkpoint=m,
                p_train=float(train.mean()),
                p_heldout=float(p[store.n_train :].mean()) if store.n_heldout else float("nan"),
                p_unseen=float(train[unseen].mean()) if unseen.any() else float("nan"),
                unseen=float(unseen.mean()),
                eigenvalues=eigenvalues,
                ridge=store.manifest.score.damping * float(eigenvalues.mean()),
                zero_gradients=float((~np.asarray(store.array(m, "phi").oindex[rows]).any(axis=1)).mean()),
            )
        )
    return found


def unseen_by(store: Store) -> tuple[int, int]:
    """The least and the largest number of checkpoints that never saw a training pair."""
    counts = (~trained_on(store)).sum(axis=0)
    return int(counts.min()), int(counts.max())
