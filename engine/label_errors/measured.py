"""How well a hunt does where the truth is known: its ranking, its lead over another one, its suggestions. No torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from traklens.engine.label_errors.ground_truth import differs
from traklens.engine.label_errors.suggestion import SHOWN, suggestions
from traklens.engine.label_errors.suspects import Suspects
from traklens.stores.store import Store

PRECISION_AT = (50, 100, 500)
CURVE_POINTS = 200
NORMAL = 1.959964  # of a 95 % interval
MOST_ASKED = 300  # wrong examples of which suggestions are asked for
SEED = 13


@dataclass(frozen=True)
class Found:
    """How well a ranking finds the wrong pairs.

    auroc: chance that a wrong pair is ranked above a right one, lo to hi with 95 % over the pairs; auprc: average precision;
    precision: share of wrong pairs among the first 50, 100, 500; curve: (inspected, found) counts.
    """

    auroc: float
    lo: float
    hi: float
    auprc: float
    precision: dict[str, float]
    curve: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "auroc": self.auroc,
            "lo": self.lo,
            "hi": self.hi,
            "auprc": self.auprc,
            "precision": self.precision,
            "curve": [list(point) for point in self.curve],
        }


def measure(scores: np.ndarray, wrong: np.ndarray, points: int = CURVE_POINTS) -> Found:
    """Judge a ranking (larger = more suspect, [n]) by the truth (bool [n], some of each kind)."""
    from sklearn.metrics import average_precision_score

    order = np.argsort(-scores, kind="stable")
    found = np.concatenate([[0], np.cumsum(wrong[order])])
    steps = np.unique(np.linspace(0, wrong.size, min(points, wrong.size) + 1).astype(int))
    area, half = _mean_and_half(*_placements(scores, wrong))
    return Found(
        auroc=area,
        lo=max(0.0, area - half),
        hi=min(1.0, area + half),
        auprc=float(average_precision_score(wrong, scores)),
        precision={str(k): float(found[k] / k) for k in PRECISION_AT if k <= wrong.size},
        curve=tuple((int(k), int(found[k])) for k in steps),
    )


def lead(scores: np.ndarray, others: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """AUROC of a ranking less that of another one of the same pairs, with a 95 % interval over the pairs (DeLong, DeLong and
    Clarke-Pearson 1988): {"mean", "lo", "hi"}."""
    pairs = zip(_placements(scores, wrong), _placements(others, wrong), strict=True)
    mean, half = _mean_and_half(*(one - other for one, other in pairs))
    return {"mean": mean, "lo": mean - half, "hi": mean + half}


def _placements(scores: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wrong pair the share of right ones below it, for each right one that of wrong ones above it; ties half."""
    bad, good = scores[wrong], scores[~wrong]

    def below(values: np.ndarray, among: np.ndarray) -> np.ndarray:
        ordered = np.sort(among)
        return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (
            2 * among.size
        )

    return below(bad, good), 1 - below(good, bad)


def _mean_and_half(of_wrong: np.ndarray, of_right: np.ndarray) -> tuple[float, float]:
    """The mean of placements, and half of its 95 % interval."""
    variance = sum(part.var(ddof=1) / part.size if part.size > 1 else 0.0 for part in (of_wrong, of_right))
    return float(of_wrong.mean()), NORMAL * float(np.sqrt(variance))


@dataclass(frozen=True)
class Suggested:
    """Of how many wrong examples suggestions were asked for; for which share the true words came first, and in four."""

    asked: int
    first: float
    first_four: float

    def in_words(self, what: str) -> str:
        """A sentence of it; `what` is a caption, a label, an answer."""
        return (
            f"Of {self.asked:,} wrong ones whose true {what} another example has, it is the first suggestion for "
            f"{self.first:.0%} and among the first four for {self.first_four:.0%}."
        )


def measure_suggestions(store: Store, suspects: Suspects, column: str, wrong: np.ndarray) -> Suggested | None:
    """How good suggestions are by a column of true words, over wrong examples whose true words another training example has.

    At most 300 of them, drawn with a seed; None where there are none, as where the column says only which are wrong.
    """
    words, template = [str(x) for x in store.examples.words[: store.n_train]], store.manifest.dataset.caption_template
    first = any_of_them = asked = 0
    known = {}
    for row in np.random.default_rng(SEED).permutation(np.flatnonzero(wrong)):
        truth = store.examples.attributes(int(row)).get(column, "")
        if truth not in known:
            known[truth] = any(not differs(other, truth, template) for other in set(words))
        if not known[truth]:
            continue
        right = [not differs(one, truth, template) for one in suggestions(store, int(row), suspects, count=SHOWN)]
        first, any_of_them, asked = first + any(right[:1]), any_of_them + any(right), asked + 1
        if asked == MOST_ASKED:
            break
    return Suggested(asked, first / asked, any_of_them / asked) if asked else None
