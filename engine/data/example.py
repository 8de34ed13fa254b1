"""A data set that was read: its examples, an account of how, and what could not be used."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from traklens.stores.examples import Example
from traklens.stores.specs import DatasetSpec


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
        table = Table("left out", "how many", "first ten", "why", title="What cannot be used")
        for kind, count in self.counts().items():
            first = self.first(kind)
            table.add_row(
                kind, f"{count:,}", Text(", ".join(problem.item for problem in first)), Text(first[0].detail)
            )
        return table


@dataclass(frozen=True)
class Account:
    """What was read, in words and numbers: `samples` are (picture, caption or label) of three examples, `classes` the
    labels in the order in which models number them.
    """

    reader: str
    lists: tuple[str, ...]
    passed_over: tuple[str, ...]
    pairs: int
    images: int
    left_out: dict[str, int]
    samples: tuple[tuple[str, str], ...]
    classes: tuple[str, ...] = ()
    noun: str = "pairs"

    def facts(self) -> dict[str, str]:
        """One line each, for a person."""
        found = {"reader": self.reader}
        if self.lists:
            found["read from"] = shortened(self.lists, 4)
        found[self.noun] = f"{self.pairs:,} of {self.images:,} images" if self.noun == "pairs" else f"{self.pairs:,}"
        if self.classes:
            found["classes"] = f"{len(self.classes):,}: {shortened(self.classes, 12)}"
        if self.left_out:
            found["left out"] = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.items())
        if self.passed_over:
            found["not read"] = shortened(self.passed_over, 6)
        for number, (image, caption) in enumerate(self.samples, start=1):
            found[f"example {number}"] = f"{image}: {caption if len(caption) <= 300 else caption[:299] + '…'}"
        return found


def shortened(names: tuple[str, ...] | list[str], most: int) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True)
class Dataset:
    """Usable examples in file order, what was left out, and an account of how they were read."""

    root: Path
    examples: tuple[Example, ...]
    problems: ProblemReport
    spec: DatasetSpec
    account: Account
