"""What retrained models measured: the change of f without a set of pairs, beside the controls. No torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from traklens.engine.retraining.jobs import MOST_SEEDS, RetrainingMethod, kept_without, random_rows, retraining_method
from traklens.stores.retrained import Request, Retrained, RetrainedModel, model_key
from traklens.stores.store import Store


@dataclass(frozen=True)
class Measured:
    """Change of a target's model output f after retraining, in units of f, and of its cosine.

    `changes` has one value per seed: f without the set minus the mean f of all control models there are, which is less
    noisy than one control per seed; `random` likewise for as many pairs drawn at random. `deviation` is the standard
    deviation over the seeds, nan for a single one. `apart` are the changes against controls of their own, no two the same,
    for as many seeds as there are controls: their noise has nothing in common.
    """

    change: float
    deviation: float
    changes: tuple[float, ...]
    similarity_change: float
    control_f: float
    random: tuple[float, ...]
    apart: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "change": self.change,
            "deviation": None if np.isnan(self.deviation) else self.deviation,
            "changes": list(self.changes),
            "similarity_change": self.similarity_change,
            "control_f": self.control_f,
            "seeds": len(self.changes),
            "random": {"change": float(np.mean(self.random)), "changes": list(self.random)} if self.random else None,
        }


class Measurements:
    """The retrained models of a store, each read once; opened anew to see what has been added since."""

    def __init__(self, store: Store) -> None:
        self.store, self.retrained = store, Retrained(store.path)
        self._ways: dict[str | None, RetrainingMethod] = {}
        self._models: dict[str, RetrainedModel] = {}

    def model(self, kept: np.ndarray, seed: int, command: str | None = None) -> RetrainedModel | None:
        """The model trained on these pairs with this seed; None when it is not there yet."""
        if command not in self._ways:
            self._ways[command] = retraining_method(self.store, command)
        key = model_key(self._ways[command].digest, kept, seed)
        if key not in self._models and self.retrained.has(key):
            self._models[key] = self.retrained.read(key)
        return self._models.get(key)

    def of(self, request: Request, rows: int | slice | None = None) -> Measured | None:
        """What a request's models say about a row (its target if None), or about the mean over a slice of rows.

        None while no seed is finished, and for a request without a target when no rows are given.
        """
        rows = request.target if rows is None else rows
        if rows is None:
            return None

        def mean(values: np.ndarray) -> float:
            return float(np.mean(values[rows], dtype=np.float64))

        n, command = self.store.n_train, request.command
        without = kept_without(n, request.rows)
        controls = [self.model(np.ones(n, dtype=bool), seed, command) for seed in range(MOST_SEEDS)]
        controls = [model for model in controls if model is not None]
        found = [self.model(without, seed, command) for seed in range(request.seeds)]
        found = [model for model in found if model is not None]
        if not controls or not found:
            return None
        f, similarity = (float(np.mean([mean(getattr(c, x)) for c in controls])) for x in ("f", "similarity"))
        drawn = []
        for seed in range(request.seeds if request.random_control else 0):
            other = self.model(kept_without(n, random_rows(self.store, len(set(request.rows)), seed)), seed, command)
            if other is not None:
                drawn.append(mean(other.f) - f)
        changes = tuple(mean(model.f) - f for model in found)
        own = [
            mean(model.f) - float(np.mean([mean(c.f) for c in controls[seed :: len(found)]]))
            for seed, model in enumerate(found[: len(controls)])
        ]
        return Measured(
            change=float(np.mean(changes)),
            deviation=float(np.std(changes, ddof=1)) if len(changes) > 1 else float("nan"),
            changes=changes,
            similarity_change=float(np.mean([mean(model.similarity) for model in found])) - similarity,
            control_f=f,
            random=tuple(drawn),
            apart=tuple(own),
        )
