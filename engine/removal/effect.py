"""Predict the change of a model output when training examples are removed, in units of f. No torch.

Additive: every pair takes its own score with it, Δf = −Σ_{i∈R} τ(z, z_i).

Group: one Newton step for the removal of the whole set, which takes R's rows out of the Gram matrix too. With
G = ΦᵀΦ + ridge, B = G⁻¹Φ_Rᵀ and H = Φ_R B, by Woodbury's identity, averaged over the checkpoints:

    Δf = −1/M Σ_m φ_m(z)ᵀ (G_m − Φ_{m,R}ᵀΦ_{m,R})⁻¹ Φ_{m,R}ᵀ Q_{m,R} = −1/M Σ_m φ_m(z)ᵀ B_m (I − H_m)⁻¹ Q_{m,R}

Near-duplicates support one another; the additive form removes each of them while the others stay.

Source: TRAK (arXiv 2303.14186) section 3 for τ and the linearised model; Pregibon (1981) for the one-step removal. Both
forms are linear in the target's features, so one removal is two vectors, and its effect on any target an inner product.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular

from traklens.engine.attribution.scores import Target
from traklens.engine.retraining.jobs import kept_without
from traklens.stores.errors import UsageError
from traklens.stores.store import Store

MOST_ROWS = 2_000
METHODS = ("group", "additive")


@dataclass(frozen=True)
class Removal:
    """A set of training examples to remove. additive and group: float32 [M·k], Δf(z) = −q(z)ᵀ·vector."""

    rows: np.ndarray
    additive: np.ndarray
    group: np.ndarray

    def effect(self, query: np.ndarray, method: str = "group") -> float:
        """Predicted change of f for a target with q = concat_m φ_m(z) [M·k]."""
        return -float(query @ self._vector(method))

    def _vector(self, method: str) -> np.ndarray:
        if method not in METHODS:
            raise UsageError("method", repr(method), " or ".join(METHODS), "Choose one of them.")
        return self.group if method == "group" else self.additive

    def effects(self, store: Store, rows: Sequence[int] | np.ndarray | slice, method: str = "group") -> np.ndarray:
        """Predicted change of f of stored pairs: float32 [len(rows)]."""
        parts = np.split(self._vector(method), store.n_checkpoints)
        return -np.stack([_rows(store, m, "phi", rows) @ part for m, part in enumerate(parts)]).sum(axis=0)


def checked_rows(store: Store, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Distinct rows in the given order, int64. Raises UsageError when there are none, too many, or no training examples."""
    distinct = np.array(list(dict.fromkeys(int(row) for row in rows)), dtype=np.int64)
    kept_without(store.n_train, distinct)
    if distinct.size > MOST_ROWS:
        raise UsageError("pairs to remove", f"{distinct.size:,}", f"at most {MOST_ROWS:,}", "Remove fewer.")
    return distinct


def remove(store: Store, rows: Sequence[int] | np.ndarray) -> Removal:
    """Both predictions of removing these training rows; cost M·(|R|²·k + |R|³/3).

    Of one row the two differ by its leverage, 1/(1 − h), and since the group takes each checkpoint's own Q, the sum the mean.
    """
    rows = checked_rows(store, rows)
    group = []
    for m in range(store.n_checkpoints):
        blocks = _Blocks.read(store, m, rows)
        group.append(blocks.preconditioned.T @ cho_solve((blocks.factor(), True), blocks.q))
    additive = store.influence.rows(rows).sum(axis=0, dtype=np.float64)
    return Removal(
        rows=rows,
        additive=additive.astype(np.float32),
        group=(np.concatenate(group) / store.n_checkpoints).astype(np.float32),
    )


def curve(store: Store, target: Target, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Predicted Δf of removing the first 1, 2, …, |R| of the rows: {"group", "additive"}, float64 [|R|] each.

    I − H of the first j rows is the leading block of that of all of them, and so is its Cholesky factor L: with
    a = Bᵀφ(z), Δf_j = −(L⁻¹a)_{:j} · (L⁻¹Q)_{:j}, a running sum.
    """
    rows = checked_rows(store, rows)
    queries = np.split(target.influence_query, store.n_checkpoints)
    total = np.zeros(rows.size)
    for m, query in enumerate(queries):
        blocks = _Blocks.read(store, m, rows)
        sides = np.stack([blocks.preconditioned @ query, blocks.q], axis=1)
        left, right = solve_triangular(blocks.factor(), sides, lower=True).T
        total -= np.cumsum(left * right)
    scores = store.influence.rows(rows) @ target.influence_query
    return {"group": total / store.n_checkpoints, "additive": -np.cumsum(scores, dtype=np.float64)}


def most_damaging(store: Store, target: Target, size: int, candidates: Sequence[int] | np.ndarray) -> np.ndarray:
    """Greedily choose `size` of the candidate rows so that the predicted group effect falls fastest: int64 [size].

    One step of the bordered Cholesky factorisation per choice: with v_c = L⁻¹(−H_{R,c}) the next term of `curve` for
    candidate c is −(a_c − v_cᵀL⁻¹a)(Q_c − v_cᵀL⁻¹Q) / (1 − H_cc − v_cᵀv_c). Cost size·M·|candidates|·(k + size).
    """
    candidates = checked_rows(store, candidates)
    if not 1 <= size <= candidates.size:
        raise UsageError("pairs to remove", f"{size}", f"1 to {candidates.size}", "Choose fewer.")
    states = [
        _Greedy(_Blocks.read(store, m, candidates), query, size)
        for m, query in enumerate(np.split(target.influence_query, store.n_checkpoints))
    ]
    free = np.ones(candidates.size, dtype=bool)
    chosen = []
    for _ in range(size):
        gains = sum((state.gains() for state in states), np.zeros(candidates.size))
        best = int(np.argmin(np.where(free, gains, np.inf)))
        for state in states:
            state.take(best)
        free[best] = False
        chosen.append(best)
    return candidates[chosen]


@dataclass(frozen=True)
class _Blocks:
    """One checkpoint's rows of a set R: φ and G⁻¹φ [|R|, k], Q [|R|] (ones when scores are not weighed by Q)."""

    phi: np.ndarray
    preconditioned: np.ndarray
    q: np.ndarray

    @classmethod
    def read(cls, store: Store, m: int, rows: np.ndarray) -> "_Blocks":
        q = _rows(store, m, "q", rows) if store.manifest.score.weight_by_q else np.ones(rows.size)
        return cls(_rows(store, m, "phi", rows), _rows(store, m, "preconditioned", rows), q.astype(np.float64))

    def factor(self) -> np.ndarray:
        """Lower Cholesky factor of I − H, float64 [|R|, |R|]. It exists: G − Φ_RᵀΦ_R is positive definite.

        Raises UsageError where float32, in which G⁻¹φ is stored, cannot tell: of many equal examples with hardly any damping.
        """
        matrix = -(self.phi.astype(np.float64) @ self.preconditioned.T)
        matrix = (matrix + matrix.T) / 2
        matrix[np.diag_indices_from(matrix)] += 1
        try:
            return cholesky(matrix, lower=True, overwrite_a=True)
        except LinAlgError as error:
            raise UsageError(
                "examples to remove",
                f"{len(self.q)} so alike that nothing but the damping is left without them",
                "a store whose damping is not so small",
                "Build it with --damping 1, the default, or remove fewer.",
            ) from error


class _Greedy:
    """The bordered factorisation of one checkpoint while pairs are chosen."""

    def __init__(self, blocks: _Blocks, query: np.ndarray, size: int) -> None:
        self.blocks = blocks
        self.a, self.q = (blocks.preconditioned @ query).astype(np.float64), blocks.q.copy()
        self.d = 1 - np.einsum("ck,ck->c", blocks.phi, blocks.preconditioned, dtype=np.float64)
        self.v = np.zeros((size, blocks.q.size))
        self.steps = 0

    def gains(self) -> np.ndarray:
        """What removing each candidate next would add to Δf (times M)."""
        return -self.a * self.q / self.d

    def take(self, c: int) -> None:
        column = -(self.blocks.phi @ self.blocks.preconditioned[c]).astype(np.float64)
        pivot = np.sqrt(self.d[c])
        new = (column - self.v[: self.steps].T @ self.v[: self.steps, c]) / pivot
        self.a -= new * (self.a[c] / pivot)
        self.q -= new * (self.q[c] / pivot)
        self.d = np.maximum(self.d - new**2, 1e-9)
        self.v[self.steps] = new
        self.steps += 1


def _rows(store: Store, m: int, name: str, rows: Sequence[int] | np.ndarray | slice) -> np.ndarray:
    """Some rows of an array, in the given order; a slice is read chunk by chunk."""
    array = store.array(m, name)
    if isinstance(rows, slice):
        return np.asarray(array[rows])
    rows = np.asarray(rows, dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    found = np.empty((rows.size, *array.shape[1:]), dtype=array.dtype)
    found[order] = array.oindex[rows[order]]
    return found
