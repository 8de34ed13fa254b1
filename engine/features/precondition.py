"""From projected gradients to rows that can be looked up: the Gram matrix, its damped inverse, the weights.

Source: TRAK (Park et al. 2023, arXiv 2303.14186), section 3.3, with relative damping:

    G = Φᵀ Φ + λ·(tr(Φᵀ Φ) / k)·I        over the whole training set, per checkpoint
    τ(z, z_i) = [1/M Σ_m φ_m(z)ᵀ G_m⁻¹ φ_m(z_i)] · Q̄_i        Q̄_i the mean of Q over the checkpoints

so with x_i = Q̄_i·concat_m(G_m⁻¹ φ_m(z_i)) / M and q = concat_m φ_m(z), τ = qᵀx_i exactly. Scores stay in units of f:
nothing is rescaled.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import zarr

from traklens.stores.errors import UsageError
from traklens.stores.features import chunks


def gram_matrix(blocks: Iterable[np.ndarray], dim: int) -> np.ndarray:
    """Sum of φᵀφ over blocks of rows [b, k] → float64 [k, k]. Products in float32, sums in float64."""
    gram = np.zeros((dim, dim), dtype=np.float64)
    for block in blocks:
        gram += block.T @ block
    return gram


def gram_of(kind: str, phi: zarr.Array, n_train: int) -> np.ndarray:
    """The Gram matrix of a store's φ [n, k], training rows first → float64 [k, k].

    `kind`: "train"; "targets", of the held-out rows, times n_train over their number; or "mixed", the mean of both.
    """
    n, dim = phi.shape

    def over(first: int, last: int) -> np.ndarray:
        parts = (np.asarray(phi[first + rows.start : first + rows.stop]) for _, rows in chunks(last - first))
        return gram_matrix(parts, dim)

    if kind == "train":
        return over(0, n_train)
    targets = over(n_train, n) * (n_train / (n - n_train))
    return targets if kind == "targets" else (over(0, n_train) + targets) / 2


class DampedGram:
    """G = gram + λ·(tr gram / k)·I, factored once by Cholesky in float64."""

    def __init__(self, gram: np.ndarray, damping: float) -> None:
        """Raises UsageError when the damping is negative, G is not positive definite, or no damping can make it so."""
        if damping < 0:
            raise UsageError("damping", str(damping), "0 or more", "Try 1.")
        trace = float(np.trace(gram))
        if not 0 < trace < np.inf:
            raise UsageError(
                "projected gradients",
                "nothing but zeros" if trace == 0 else f"a sum of squares of {trace}",
                "finite gradients that are not all 0",
                "Does the model output depend on the attributed parameters (--modules), and is the checkpoint sound?",
            )
        self.ridge = damping * trace / len(gram)
        matrix = gram.astype(np.float64, copy=True)
        matrix[np.diag_indices_from(matrix)] += self.ridge
        try:
            self._factor = torch.linalg.cholesky(torch.from_numpy(matrix))
        except RuntimeError as error:
            raise UsageError(
                "Gram matrix of the projected gradients",
                f"not positive definite with damping {damping}",
                "a positive definite matrix",
                "Raise --damping (1 is the default) or lower --proj-dim below the number of training examples.",
            ) from error

    def solve(self, rows: np.ndarray) -> np.ndarray:
        """G⁻¹ applied to each row: [b, k] → float32 [b, k]."""
        right = torch.from_numpy(rows.T.astype(np.float64))
        return np.ascontiguousarray(torch.cholesky_solve(right, self._factor).T.numpy(), dtype=np.float32)


def influence_rows(preconditioned: list[np.ndarray], mean_q: np.ndarray, *, weight_by_q: bool) -> np.ndarray:
    """x_i = Q̄_i·concat_m(G_m⁻¹ φ_m(z_i)) / M: M blocks [b, k] and Q̄ [b] → float32 [b, M·k]."""
    rows = np.concatenate(preconditioned, axis=1) / np.float32(len(preconditioned))
    return rows * mean_q[:, None].astype(np.float32) if weight_by_q else rows


def similarity_rows(embeddings: Sequence[list[np.ndarray]]) -> np.ndarray:
    """concat_m(U_i, V_i, …) / (E·M): of each of E embeddings M blocks [b, e] → float32 [b, E·M·e].

    Its inner product with concat_m(u, v, …) is the mean over checkpoints and embeddings of the cosines.
    """
    blocks = [block for of_checkpoint in zip(*embeddings, strict=True) for block in of_checkpoint]
    return np.concatenate(blocks, axis=1).astype(np.float32) / np.float32(len(blocks))
