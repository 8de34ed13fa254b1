"""Answers of a store: rankings, removals, suspects, evaluations. Each is plain to print and drawn in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from traklens.engine.attribution.scores import Ranked, Target, ranked
from traklens.stores.errors import UsageError
from traklens.stores.examples import content_fields
from traklens.stores.store import Store as Opened

if TYPE_CHECKING:
    import pandas as pd

    from traklens.engine.label_errors.suspects import Suspects as Found
    from traklens.engine.removal.simulation import Prediction
    from traklens.engine.retraining.measurements import Measured
    from traklens.engine.tasks.contract import Task

SHOWN = 10


class Examples(Sequence[Ranked]):
    """Training examples in the order of their scores. An item is read when it is asked for; a slice is `Examples` again."""

    def __init__(self, store: Opened, rows: np.ndarray, scores: np.ndarray) -> None:
        """rows int64 [n] and scores float32 [n], in the same order."""
        self._store, self.rows, self.scores = store, rows, scores

    def __len__(self) -> int:
        return self.rows.size

    @overload
    def __getitem__(self, index: int) -> Ranked: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Ranked | Examples:
        if isinstance(index, slice):
            return Examples(self._store, self.rows[index], self.scores[index])
        return ranked(self._store, int(self.rows[index]), float(self.scores[index]))

    def __iter__(self) -> Iterator[Ranked]:
        return (self[i] for i in range(len(self)))

    @property
    def ids(self) -> list[str]:
        """Ids of the examples, in order."""
        return [str(self._store.examples.id[row]) for row in self.rows]

    def to_pandas(self) -> pd.DataFrame:
        """One line per example: id, score, its caption or label, image where there is one, split."""
        import pandas as pd

        examples, title = self._store.examples, self._store.task.title
        images = {"image": examples.image} if self._store.task.first("image") else {}
        texts = {name: examples.field(name) for name in content_fields(self._store.task)}
        columns = {title: examples.words, **texts, **images, "split": examples.split}
        shown = {name: [str(values[row]) for row in self.rows] for name, values in columns.items()}
        return pd.DataFrame({"id": self.ids, "score": self.scores, **shown})

    def __repr__(self) -> str:
        lines = [
            f"{pair.score:+.4f}  {pair.words[:100]}  ({pair.content[:100] or pair.image})" for pair in self[:SHOWN]
        ]
        more = [f"… and {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []
        return "\n".join([*lines, *more]) or "no examples"

    def _repr_html_(self) -> str:
        from traklens.engine.explore.report import listed

        return listed(self._store, self[:SHOWN])


@dataclass(frozen=True)
class Attribution:
    """What the training examples did to the output of one target. scores: τ, float32 [n_train], in units of f."""

    target: Target
    scores: np.ndarray
    picture: bytes | None
    _store: Opened

    @cached_property
    def proponents(self) -> Examples:
        """All training examples that raised f, the strongest first."""
        order = np.argsort(-self.scores, kind="stable")
        return self._examples(order[self.scores[order] > 0])

    @cached_property
    def opponents(self) -> Examples:
        """All training examples that lowered f, the strongest first."""
        order = np.argsort(self.scores, kind="stable")
        return self._examples(order[self.scores[order] < 0])

    def _examples(self, rows: np.ndarray) -> Examples:
        return Examples(self._store, rows, self.scores[rows])

    @property
    def f(self) -> float:
        """The model output, mean over the checkpoints."""
        return self.target.f

    def to_pandas(self) -> pd.DataFrame:
        """Every training example with its score, the strongest proponent first, as `Examples.to_pandas`."""
        return self._examples(np.argsort(-self.scores, kind="stable")).to_pandas()

    def __repr__(self) -> str:
        against = f" rather than {self.target.contrast!r}" if self.target.contrast else ""
        ends = (("proponents", self.proponents), ("opponents", self.opponents))
        lists = "\n".join(f"{name}:\n{examples[:SHOWN]!r}" for name, examples in ends)
        return f"{self.target.words!r}{against}, f = {self.f:+.3f}\n{lists}"

    def _repr_html_(self) -> str:
        from traklens.engine.explore.report import fragment

        return fragment(self._store, self.target, self.proponents[:SHOWN], self.opponents[:SHOWN], self.picture)


@dataclass(frozen=True)
class Removal:
    """Training examples to do without. rows: int64 [n]."""

    rows: np.ndarray
    _store: Opened
    _task: Task | str | None = None

    def effect_on(self, of: Attribution) -> Prediction:
        """The predicted change of a target's f; with an interval once enough removals were checked by retraining."""
        from traklens.engine.removal.simulation import prediction_of

        return prediction_of(self._store, of.target, self.rows)

    def measure(self, of: Attribution, *, seeds: int = 3, progress: bool = True) -> Measured:
        """Train again without the examples, `seeds` times, beside models trained on everything; the change of f.

        Models that are there already are not trained again; interrupted, it goes on. Raises StoreError for a store whose
        models cannot be retrained, UsageError for a target that is not stored or a number of seeds out of range.
        """
        from traklens.api.progress import drawn
        from traklens.engine.retraining.jobs import MOST_SEEDS, models_to_train
        from traklens.engine.retraining.measurements import Measurements
        from traklens.engine.retraining.worker import train_models
        from traklens.stores.retrained import Request

        if not 1 <= seeds <= MOST_SEEDS:
            raise UsageError("seeds", str(seeds), f"1 to {MOST_SEEDS}", "Try 3.")
        if of.target.row is None:
            raise UsageError("target", "an example that is not stored", "a stored one", "Ask with `id=`.")
        request = Request(tuple(int(row) for row in self.rows), seeds=seeds, target=of.target.row)
        with drawn(progress) as report:
            train_models(self._store, models_to_train(self._store, request), task=self._task, report=report)
        measured = Measurements(self._store).of(request)
        assert measured is not None  # all its models are there
        return measured

    def __len__(self) -> int:
        return self.rows.size

    def __repr__(self) -> str:
        return f"without {self.rows.size:,} of {self._store.n_train:,} training examples"


class Suspects(Examples):
    """Training examples whose caption or label may be wrong, the most suspect first; scores are its probability."""

    def __init__(self, store: Opened, found: Found, top: int) -> None:
        rows = found.order[:top]
        super().__init__(store, rows, found.probability[rows])
        self._found = found

    @property
    def expected_wrong(self) -> float:
        """How many of all training examples are estimated to be wrong; 0 where the models cannot tell."""
        return self._found.expected_wrong

    def to_pandas(self) -> pd.DataFrame:
        """One line per suspect, as `Examples.to_pandas`, and every signal."""
        signals = {name: values[self.rows] for name, values in self._found.signals.items()}
        return super().to_pandas().assign(**signals)


class Evaluation(dict[str, Any]):
    """What an evaluation found, as in `traklens evaluate --json`; printed, it is in words."""

    @property
    def lds(self) -> dict[str, float]:
        """The linear datamodeling score of each method: mean over the targets."""
        return {name: row["mean"] for name, row in self["lds"].items()}

    def __repr__(self) -> str:
        from traklens.engine.evaluation.evaluate import in_words

        return "\n".join(in_words(self))


def rows_of(store: Opened, examples: Iterable[Ranked | str]) -> np.ndarray:
    """Rows of training examples, given themselves or by id: int64 [n]. StoreError for an unknown id."""
    if isinstance(examples, Examples):
        return examples.rows
    if isinstance(examples, str):
        examples = [examples]
    found = [store.examples.row_of(e) if isinstance(e, str) else e.row for e in examples]
    return np.array(found, dtype=np.int64)
