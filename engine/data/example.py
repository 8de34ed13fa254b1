"""The unit of everything: one image with one caption; and what could not be used."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from stores.specs import DatasetSpec


@dataclass(frozen=True)
class Example:
    """One pair. `image` is a path relative to the data set's root, POSIX; `attributes` are further columns."""

    id: str
    image_id: str
    image: str
    caption: str
    split: str | None
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Problem:
    """Something left out: its kind in words, the item and the detail."""

    kind: str
    item: str
    detail: str


@dataclass(frozen=True)
class ProblemReport:
    """Everything that was left out."""

    problems: tuple[Problem, ...]

    def counts(self) -> dict[str, int]:
        return dict(Counter(problem.kind for problem in self.problems))

    def first(self, kind: str, count: int = 10) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind == kind][:count]

    def table(self) -> Table:
        """One table: kind, how many, the first ten items."""
        table = Table("left out", "how many", "first ten", title="Pairs that cannot be used")
        for kind, count in self.counts().items():
            table.add_row(kind, f"{count:,}", Text(", ".join(problem.item for problem in self.first(kind))))
        return table


@dataclass(frozen=True)
class Dataset:
    """Usable pairs in file order, and what was left out."""

    root: Path
    examples: tuple[Example, ...]
    problems: ProblemReport
    spec: DatasetSpec
