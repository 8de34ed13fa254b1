"""`traklens remove` and `traklens evaluate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from traklens.engine.cli.console import AsJson, StoreDir, facts_table, notes, progress, results
from traklens.engine.cli.tasks import OwnTask, name_task
from traklens.stores.errors import UsageError


def remove(
    store: StoreDir,
    id: Annotated[str, typer.Option(help="Example id of the target.")],
    top: Annotated[int | None, typer.Option(help="Remove this many of its top proponents.")] = None,
    ids: Annotated[Path | None, typer.Option(help="Remove the examples named in this file, one id per line.")] = None,
    method: Annotated[str, typer.Option(help="The prediction to show first: group or additive.")] = "group",
    retrain: Annotated[int | None, typer.Option(help="Check by retraining with this many seeds.")] = None,
    train_command: Annotated[
        str | None,
        typer.Option(help="Your own training, with {keep}, {seed} and {out}, for models not trained here."),
    ] = None,
    task: OwnTask = None,
    as_json: AsJson = False,
) -> None:
    """Predict what removing training examples does to a target; --retrain measures it."""
    from traklens.engine.cli.removal_request import answer
    from traklens.stores.store import open_store

    name_task(task)
    if (top is None) == (ids is None):
        raise UsageError("remove", "both or neither of --top and --ids", "exactly one of them", "Say what to remove.")
    with progress(notes) as report:
        found = answer(
            open_store(store),
            id=id,
            top=top,
            ids=ids,
            method=method,
            retrain=retrain,
            command=train_command,
            report=report,
        )
    if as_json:
        print(json.dumps({k: v for k, v in found.items() if k not in ("words", "noun")}, ensure_ascii=False))
        return
    results.print(Text(f"{found['words']!r} without {found['removed']:,} training {found['noun']}", style="bold"))
    results.print(facts_table("change of f", _removal_facts(found)))


def _removal_facts(found: dict[str, Any]) -> dict[str, str]:
    predicted, measured = found["predicted"], found["measured"]
    other = "additive" if found["method"] == "group" else "group"
    facts = {"f of the store": f"{found['target']['f']:+.2f}"}
    for name in (found["method"], other):
        facts[f"predicted ({name})"] = f"{predicted[name]:+.2f}"
    if predicted["interval"] is None:
        facts["90 % interval"] = "none yet: fewer than 12 removals of this store have been checked by retraining"
    else:
        low, high = predicted["interval"]
        facts["calibrated"] = f"{predicted['calibrated']:+.2f}, 90 % interval {low:+.2f} to {high:+.2f}"
    if measured is not None:
        facts["measured"] = f"{measured['change']:+.2f}, each seed " + ", ".join(
            f"{x:+.2f}" for x in measured["changes"]
        )
        facts[f"measured {'cosine' if found['noun'] == 'pairs' else 'p'}"] = f"{measured['similarity_change']:+.3f}"
        if measured["random"]:
            facts["as many at random"] = f"{measured['random']['change']:+.2f}"
    return facts


def report(
    store: StoreDir,
    id: Annotated[str, typer.Option(help="Example id of the target.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    without: Annotated[int | None, typer.Option(help="Also what removing this many top proponents would do.")] = None,
) -> None:
    """Write one target, and what a removal would do to it, as a single HTML file with its pictures inside."""
    from traklens.engine.attribution.scores import as_ranked, stored_target
    from traklens.engine.explore.report import report as make
    from traklens.engine.label_errors.export import save
    from traklens.engine.removal.simulation import choose, prediction_of
    from traklens.stores.store import open_store

    opened = open_store(store)
    target = stored_target(opened, id)
    removed, prediction = None, None
    if without is not None:
        rows = choose(opened, target, "trak", without)
        removed = as_ranked(opened, target, rows)
        prediction = prediction_of(opened, target, rows)
    save(make(opened, target, top=top, removed=removed, prediction=prediction).encode("utf-8", "replace"), out)
    results.print(f"{out}", highlight=False, soft_wrap=True)


def evaluate(
    store: StoreDir,
    subsets: Annotated[int, typer.Option(help="Random halves of the training set to train models on.")] = 32,
    repeats: Annotated[int, typer.Option(help="Models per half; more make the measurement less noisy.")] = 1,
    targets: Annotated[int, typer.Option(help="Held-out examples to look at.")] = 100,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated methods; all that fit the task if not given.")
    ] = None,
    leave_k_out: Annotated[
        list[int] | None,
        typer.Option(help="Remove this many per target and method, and retrain; repeat for several."),
    ] = None,
    removal_targets: Annotated[int, typer.Option(help="Targets of --leave-k-out.")] = 16,
    removal_methods: Annotated[
        str | None,
        typer.Option(
            help="Methods of --leave-k-out: those above or greedy; trak,clip,random if not given. Of --counterfactual: "
            "those above or relevant."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Retrainings per removal.")] = 3,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Only fact tracing: JSON lines of text, answer and relevant ids that were built in as --targets."
        ),
    ] = None,
    counterfactual: Annotated[
        int | None,
        typer.Option(help="With --queries: train again without the first K sentences of each method, and ask again."),
    ] = None,
    facts: Annotated[int, typer.Option(help="Facts of --counterfactual, of those that the models know.")] = 64,
    task: OwnTask = None,
    as_json: AsJson = False,
) -> None:
    """Measure by retraining how far this store's attributions can be trusted. Resumes; keeps what it found."""
    if queries is not None:
        _trace(store, queries, _names(methods), _names(removal_methods), counterfactual, facts, seeds, as_json)
        return
    if counterfactual is not None:
        raise UsageError("counterfactual", "no --queries", "a file of queries", "Say which facts.")
    from traklens.engine.evaluation.evaluate import evaluate as run
    from traklens.stores.store import open_store

    name_task(task)
    with progress(notes) as report:
        found = run(
            open_store(store),
            subsets=subsets,
            repeats=repeats,
            targets=targets,
            methods=_names(methods),
            leave_out=tuple(leave_k_out or ()),
            removal_targets=removal_targets,
            removal_methods=_names(removal_methods),
            seeds=seeds,
            report=report,
        )
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    title = f"LDS over {found['subsets']} random halves, {found['targets']} targets"
    table = Table("method", "LDS", "95 % interval", "TRAK's lead", "without threshold", "seconds", title=title)
    for name, row in sorted(found["lds"].items(), key=lambda item: -item[1]["mean"]):
        interval = f"{row['lo']:.3f} to {row['hi']:.3f}"
        plain = f"{row['without_threshold']['mean']:.3f}"
        lead = row.get("behind_trak")
        ahead = (
            "" if lead is None or name == "trak" else f"{lead['mean']:+.3f} ({lead['lo']:+.3f} to {lead['hi']:+.3f})"
        )
        table.add_row(name, f"{row['mean']:.3f}", interval, ahead, plain, f"{row['seconds']:.1f}")
    results.print(table)
    if found["leave_k_out"]:
        table = Table("k", "method", "drop of f", "95 % interval", "drop of cosine", "targets", title="leave-k-out")
        for k, by_method in found["leave_k_out"].items():
            for name, row in by_method.items():
                interval = f"{row['lo']:.2f} to {row['hi']:.2f}"
                numbers = (f"{row['drop']:.2f}", interval, f"{row['similarity_drop']:.3f}", str(row["targets"]))
                table.add_row(k, name, *numbers)
        results.print(table)
    calibration = {k: v for k, v in found["calibration"].items() if k != "points" and v is not None}
    results.print(facts_table("calibration", calibration))


def _names(given: str | None) -> tuple[str, ...] | None:
    """Names separated by commas."""
    return None if given is None else tuple(given.split(","))


def _trace(
    store: Path,
    file: Path,
    methods: tuple[str, ...] | None,
    removal_methods: tuple[str, ...] | None,
    k: int | None,
    facts: int,
    seeds: int,
    as_json: bool,
) -> None:
    """How well methods find the sentences that state a fact, and what these are worth."""
    from traklens.engine.evaluation.fact_tracing import NAMES
    from traklens.engine.evaluation.facts import evaluate_facts
    from traklens.stores.store import open_store

    with progress(notes) as report:
        found = evaluate_facts(
            open_store(store), file, methods=methods, removal_methods=removal_methods,
            counterfactual=k, facts=facts, seeds=seeds, report=report,
        )  # fmt: skip
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    measures = [name for name in next(iter(found["retrieval"].values())) if name not in ("lo", "hi")]
    title = f"{found['queries']:,} queries, {found['sentences']:,} sentences"
    table = Table("method", *measures, "95 % interval of mrr", title=title)
    for name, row in sorted(found["retrieval"].items(), key=lambda item: -item[1]["mrr"]):
        numbers = (f"{row[measure]:.3f}" for measure in measures)
        table.add_row(NAMES[name], *numbers, f"{row['lo']:.3f} to {row['hi']:.3f}")
    results.print(table)
    if found["counterfactual"]:
        title = f"without the first {found['k']} sentences of each of {found['facts']} facts, {found['seeds']} seeds"
        table = Table(
            "method", "drop of log p", "95 % interval", "facts lost", "sentences", "TRAK's lead", title=title
        )
        for name, row in sorted(found["counterfactual"].items(), key=lambda item: -item[1]["drop"]):
            lead = row.get("behind_trak")
            ahead = (
                ""
                if lead is None or name == "trak"
                else f"{lead['mean']:+.2f} ({lead['lo']:+.2f} to {lead['hi']:+.2f})"
            )
            table.add_row(
                NAMES[name], f"{row['drop']:.2f}", f"{row['lo']:.2f} to {row['hi']:.2f}", f"{row['lost']:.1f}",
                f"{row['sentences']:,}", ahead,
            )  # fmt: skip
        results.print(table)
