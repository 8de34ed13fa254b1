"""How far the attributions of a store can be trusted, measured by retraining: `traklens evaluate`.

What needs many retrained models is computed once: the models are kept in the store, an interrupted evaluation goes on,
and one with more subsets or targets adds to what is there. The outcome is kept as evaluation.json.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from traklens.engine.attribution.methods import METHODS, NAMES, scores_of
from traklens.engine.evaluation import leave_k_out
from traklens.engine.evaluation.lds import Judged, judged, judged_with_threshold
from traklens.engine.progress import Report, silent
from traklens.engine.removal.calibration import points, summary
from traklens.engine.removal.simulation import most_removable
from traklens.engine.retraining.jobs import retraining_method
from traklens.engine.retraining.noise_ceiling import ceiling
from traklens.engine.retraining.subsets import MOST_SUBSETS, measured_subsets, repeated_subsets, subset_models
from traklens.engine.streams import generator
from traklens.stores.atomic import read_json, write_json
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.layout import EVALUATION
from traklens.stores.locks import writing
from traklens.stores.store import Store

if TYPE_CHECKING:
    from traklens.engine.tasks.contract import Task

REMOVED_BY = ("trak", "clip", "random")
INTERVALS = "targets and models"  # what an evaluation's intervals are over; of targets alone in older ones
DEFAULT_METHODS = ("trak", "clip", "graddot", "gradcos", "influence", "bm25", "random")


def evaluate(
    store: Store,
    *,
    subsets: int = 32,
    repeats: int = 1,
    targets: int = 100,
    methods: Sequence[str] | None = None,
    leave_out: Sequence[int] = (),
    removal_targets: int = 16,
    removal_methods: Sequence[str] | None = None,
    seeds: int = 3,
    task: "Task | None" = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Train what is missing, then LDS per method, leave-k-out and calibration; keeps and returns the outcome.

    `subsets` random halves with `repeats` models each; `targets` held-out examples, or all where there are fewer; `methods`
    and `removal_methods` are those that fit the task if None; `task` is the user's own, for a store that has one;
    `leave_out` sizes k removed for each of `removal_targets` targets and each removal method, `seeds` retrainings each.
    Raises UsageError for values out of range, StoreError when the store's models cannot be retrained.
    """
    for name, value, least, most in (
        ("subsets", subsets, 4, MOST_SUBSETS),
        ("repeats", repeats, 1, 16),
        ("targets", targets, 1, 100_000),
        ("removal_targets", removal_targets, 1, 100_000),
        ("seeds", seeds, 1, 32),
    ):
        if not least <= value <= most:
            raise UsageError(name, str(value), f"{least} to {most}", "Choose a value in between.")
    for k in leave_out:
        if not 1 <= k <= most_removable(store):
            raise UsageError("leave_out", str(k), f"1 to {most_removable(store):,}", "Choose a value in between.")
    methods = [m for m in DEFAULT_METHODS if METHODS[m].fits(store)] if methods is None else methods
    if removal_methods is None:
        removal_methods = [m for m in REMOVED_BY if m not in METHODS or METHODS[m].fits(store)]
    known = [m for m in leave_k_out.METHODS if m not in METHODS or METHODS[m].fits(store)]
    unknown = [m for m in methods if m not in known or m not in METHODS] + [
        m for m in removal_methods if m not in known
    ]
    if unknown:
        raise UsageError("methods", unknown[0], ", ".join(known), "Choose among them.")
    from traklens.engine.retraining.cost import (
        seconds_per_pair,  # torch only here: the app reads what was found without it
    )
    from traklens.engine.retraining.worker import train_models

    with writing(store.path, "store", shared=True):
        train_models(store, subset_models(store, subsets, repeats), task=task, report=report)
        rows = target_rows(store, targets)
        outcome: dict[str, Any] = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
        outcome |= {"subsets": subsets, "repeats": repeats, "targets": int(rows.size), "intervals": INTERVALS}
        outcome["lds"], outcome["lds_by_checkpoints"] = _lds(
            store, rows, methods, subsets, repeats, seconds_per_pair(store, task), report
        )
        repeated = repeated_subsets(store, retraining_method(store), subsets, repeats)
        outcome["lds_attainable"] = ceiling(repeated[:, :, rows])
        outcome["leave_k_out"] = _leave_k_out(
            store, rows[:removal_targets], removal_methods, leave_out, seeds, task, report
        )
        outcome["calibration"] = summary(points(store))
        write_json(store.path / EVALUATION, outcome)
    return outcome


def target_rows(store: Store, count: int) -> np.ndarray:
    """The targets an evaluation looks at: held-out rows in a seeded order, training rows where none are held out."""
    first = store.n_train if store.n_heldout else 0
    rows = np.arange(first, store.n)
    return generator("evaluation targets", store.n, version=store.manifest.dataset.streams).permutation(rows)[:count]


def kept_evaluation(store: Store) -> dict[str, Any] | None:
    """What was found for this store; None when it was never evaluated. StoreError when the file is damaged."""
    path = store.path / EVALUATION
    if not path.is_file():
        return None
    again = "Run `traklens evaluate` again."
    found = read_json(path, "an evaluation", again)
    lds = found.get("lds") if isinstance(found, dict) else None
    if not isinstance(lds, dict) or not all(isinstance(row, dict) and "mean" in row for row in lds.values()):
        raise StoreError(f"{path}", "something else", "an evaluation", again)
    return found


def in_words(found: dict[str, Any]) -> list[str]:
    """What an evaluation means, in plain sentences."""
    scores = {name: row["mean"] for name, row in found["lds"].items()}
    others = {name: value for name, value in scores.items() if name != "trak"}
    sentences = []
    if "trak" in scores:
        sentence = f"On this store TRAK predicts retrained models with rank correlation {scores['trak']:.2f}"
        if others:
            best = max(others, key=lambda name: others[name])
            named = sorted({best, "clip"} & set(others), key=lambda name: -others[name])
            said = ", ".join(f"{NAMES[name]} {others[name]:.2f}" for name in named)
            lead = found["lds"][best]["behind_trak"]
            verdict = "ahead of" if lead["lo"] > 0 else "behind" if lead["hi"] < 0 else "not told apart from"
            sentence += f" ({said}). On the same pairs it is {verdict} the best of the others"
            sentence += f" (difference {lead['mean']:.3f}, 95 % {lead['lo']:.3f} to {lead['hi']:.3f})"
        if found.get("intervals") != INTERVALS:
            sentence += (
                "; this interval is over targets alone and too narrow: evaluate again, which trains nothing anew"
            )
        sentences.append(sentence + "." + _at_most(found.get("lds_attainable")))
    calibration = found["calibration"]
    if calibration.get("rank_correlation") is not None:
        sentence = (
            f"Over {calibration['removals']} removals checked by retraining, predicted and measured change have rank "
            f"correlation {calibration['rank_correlation']:.2f}"
        )
        within = calibration.get("rank_correlation_within")
        if within is not None:
            interval = calibration["rank_correlation_within_interval"]
            sentence += f", and {within:.2f} among those of one target"
            sentence += f" (95 % {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
        if calibration.get("interval_coverage") is not None:
            sentence += f", and {calibration['interval_coverage']:.0%} of held-out ones fell inside the 90 % interval"
        sentences.append(sentence + "." + _at_most(calibration.get("attainable")))
    return sentences


def _at_most(attainable: float | None) -> str:
    if attainable is None:
        return ""
    most = f"A rank correlation of about {attainable:.2f} is the most that could be had"
    return f" {most}: retrained models differ that much by their seeds alone."


def _lds(
    store: Store, rows: np.ndarray, methods: Sequence[str], subsets: int, repeats: int, cost, report: Report
) -> tuple[dict, list]:
    """Per method the score with all checkpoints, and a list of (method, checkpoints, seconds, mean) for the scatter."""
    kept, f, _ = measured_subsets(store, retraining_method(store), subsets, repeats)
    measured = within_membership(f[:, rows], kept, rows)
    table: dict[str, Any] = {}
    by_method: dict[str, Judged] = {}
    scatter: list[dict[str, Any]] = []
    for place, method in enumerate(methods):
        report("scoring", place, len(methods), method)
        needs = METHODS[method].needs
        counts = [m for m in (1, 2, 4, 8, 16) if m < store.n_checkpoints] if needs else []
        for m in [*counts, store.n_checkpoints]:
            scored = scores_of(store, method, rows, checkpoints=m)
            per_pair = {"gradients": cost.gradient, "embeddings": cost.embedding, None: 0.0}[needs]
            seconds = per_pair * (store.n_train + rows.size) * m + scored.seconds
            scores = without_themselves(store, rows, scored.scores)
            found = judged_with_threshold(scores, kept, measured)
            scatter.append({"method": method, "checkpoints": m, "seconds": seconds} | asdict(found.interval))
            if m == store.n_checkpoints:
                by_method[method] = found
                table[method] = asdict(found.interval) | {
                    "seconds": seconds,
                    "keep_share": found.share,
                    "without_threshold": asdict(judged(scores, kept, measured).interval),
                }
    if "trak" in by_method:  # paired: on the same targets and models, so what they share cancels
        for method in table:
            table[method]["behind_trak"] = asdict(by_method["trak"].lead(by_method[method]))
    report("scoring", len(methods), len(methods), "")
    return table, scatter


def without_themselves(store: Store, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores [T, n_train] without those of the targets themselves and of their groups (their other captions): 0 there.

    Where training examples are the targets, whether a half holds the target itself would decide nearly everything.
    """
    own = store.examples.group[rows][:, None] == store.examples.group[: store.n_train][None, :]
    return np.where(own, 0, scores)


def within_membership(measured: np.ndarray, kept: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """f [J, T] less its mean over the subsets that hold the target, or over those that do not; of held-out ones as it is."""
    found = measured.copy()
    for place, row in enumerate(rows):
        if row < kept.shape[1]:
            for holds in (kept[:, row], ~kept[:, row]):
                if holds.any():
                    found[holds, place] -= found[holds, place].mean()
    return found


def _leave_k_out(
    store: Store, rows, methods, sizes: Sequence[int], seeds: int, task: "Task | None", report: Report
) -> dict:
    """Train the removals that are asked for; report all that the store holds."""
    from traklens.engine.retraining.jobs import history, models_to_train
    from traklens.engine.retraining.worker import train_models

    wanted = leave_k_out.requests(store, rows, methods, sizes, seeds) if sizes else []
    models = [model for request in wanted for model in models_to_train(store, request)]
    models += leave_k_out.controls_for(store, wanted)
    train_models(store, sorted(models, key=lambda model: model.seed), task=task, report=report)
    leave_k_out.keep_requests(store, wanted)
    done = [request for _, request, _ in history(store) if request.origin == "evaluate"]
    return leave_k_out.drops(store, done)
