"""Examples as batches: read from where they lie, put into tensors by their task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from traklens.engine.data import Example, values_of
from traklens.engine.progress import Report
from traklens.engine.tasks.contract import Batch, Task, Training
from traklens.stores.errors import UsageError


@dataclass(frozen=True)
class Placed:
    """One row: the example, the folder its files lie in, and the data set it came from ("dataset" or "targets")."""

    example: Example
    root: Path
    source: str


class Loader:
    """Batches of rows, read from disk when asked for."""

    def __init__(self, task: Task, rows: Sequence[Placed]) -> None:
        """task: bound to its model."""
        self.task, self.rows = task, rows

    def values(self, row: int) -> dict[str, Any]:
        """One example read: its fields, and its group."""
        placed = self.rows[row]
        return values_of(placed.root, placed.example, self.task.fields)

    def load(self, start: int, stop: int) -> Batch:
        """The batch of rows start … stop − 1."""
        return self.load_rows(np.arange(start, stop))

    def load_rows(self, rows: np.ndarray) -> Batch:
        """The batch of some rows. UsageError when the task's `batch` does not give tensors of as many."""
        batch = self.task.batch([self.values(int(row)) for row in rows])
        sizes = {name: tuple(getattr(values, "shape", ())) for name, values in batch.items()}
        if not sizes or any(not shape or shape[0] != len(rows) for shape in sizes.values()):
            raise UsageError(
                f"task {self.task.name!r}, batch",
                f"shapes {sizes} for {len(rows)} examples",
                "tensors with one row per example",
                "Stack the examples along dimension 0.",
            )
        return batch

    def whole(self, report: Report, stage: str = "reading examples", block: int = 64) -> dict[str, torch.Tensor]:
        """All rows as one batch in memory: pictures take 3 KB each at 32 pixels, 150 KB at 224."""
        found: dict[str, torch.Tensor] = {}
        n = len(self.rows)
        for start in range(0, n, block):
            stop = min(start + block, n)
            for name, values in self.load(start, stop).items():
                if name not in found:
                    found[name] = torch.zeros((n, *values.shape[1:]), dtype=values.dtype)
                found[name] = _grown(found[name], values.shape[1:])
                found[name][(slice(start, stop), *(slice(size) for size in values.shape[1:]))] = values
            report(stage, stop, n, "")
        return found

    def training(
        self,
        model: nn.Module,
        n: int,
        *,
        streams: int,
        checkpoint: int = 0,
        embed: Callable[[np.ndarray], Mapping[str, torch.Tensor]] | None = None,
    ) -> Training:
        """The first n rows as what a task draws its context from; `embed` gives embeddings that are already computed."""

        @torch.no_grad()
        def embedded(rows: np.ndarray) -> Mapping[str, torch.Tensor]:
            device = next(model.parameters()).device
            batch = {name: values.to(device) for name, values in self.load_rows(rows).items()}
            return {name: values.cpu() for name, values in self.task.embed(model, batch).items()}

        return Training(
            n=n,
            checkpoint=checkpoint,
            streams=streams,
            examples=lambda rows: [self.rows[int(row)].example for row in rows],
            embed=embed or embedded,
            batch=self.load_rows,
        )


def _grown(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A tensor [n, …] with room for rows of a shape, zeros where there was nothing: batches of texts differ in length."""
    wanted = [max(there, new) for there, new in zip(tensor.shape[1:], shape, strict=True)]
    if list(tensor.shape[1:]) == wanted:
        return tensor
    grown = tensor.new_zeros((len(tensor), *wanted))
    grown[tuple(slice(size) for size in tensor.shape)] = tensor
    return grown
