"""`traklens hunt` and `traklens export`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from traklens.engine.cli.console import AsJson, StoreDir, notes, progress, results


def hunt(
    store: StoreDir,
    top: Annotated[int, typer.Option(help="How many suspects to list or write.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Write them to this .csv, .parquet or .jsonl file.")] = None,
    truth: Annotated[
        str | None, typer.Option(help="Column of the metadata with the true caption or label: measures the hunt.")
    ] = None,
    retrain: Annotated[
        int | None,
        typer.Option(help="First train this many models without the suspects, and judge again with them. Resumes."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the training examples most likely to have a wrong caption, label or answer."""
    from traklens.engine.label_errors.export import save, suspects_table
    from traklens.engine.label_errors.hunt import hunt as run
    from traklens.engine.label_errors.measured import Suggested
    from traklens.engine.label_errors.suspects import estimate_in_words
    from traklens.stores.errors import UsageError
    from traklens.stores.reviews import Reviews
    from traklens.stores.store import open_store

    if top < 1:
        raise UsageError("--top", str(top), "1 or more", "Try 20.")
    opened = open_store(store)
    with progress(notes) as report:
        suspects, measured = run(opened, truth=truth, retrain=retrain, report=report)
    rows, decisions, what = suspects.order[:top], Reviews(opened.path).current(), opened.task.title
    if out is not None:
        save(suspects_table(opened, suspects, decisions, rows, out.suffix), out)
        notes.print(f"{rows.size:,} suspects written to {out}", highlight=False, soft_wrap=True)
    if as_json:
        listed = [
            {
                "id": str(opened.examples.id[row]),
                opened.task.title: str(opened.examples.words[row]),
                "image": str(opened.examples.image[row]),
                "probability": float(suspects.probability[row]),
                "signals": {name: float(values[row]) for name, values in suspects.signals.items()},
            }
            for row in rows
        ]
        found = {"expected_wrong": suspects.expected_wrong, "suspects": listed}
        print(json.dumps(found | (measured or {}), ensure_ascii=False))
        return
    if out is None:
        table = Table(
            "", "likely wrong", "id", what, title=f"{opened.n_train:,} training {opened.noun}, the most suspect"
        )
        for place, row in enumerate(rows, start=1):
            words = Text(str(opened.examples.words[row])[:120])
            table.add_row(str(place), f"{suspects.probability[row]:.0%}", str(opened.examples.id[row]), words)
        results.print(table)
        results.print(estimate_in_words(opened, suspects, what), highlight=False)
    if measured is not None:
        title = f"{measured['wrong']:,} of {measured['pairs']:,} are wrong by {truth!r}"
        table = Table("ranking", "AUROC", "95 %", "AP", *(f"first {k}" for k in _sizes(measured)), title=title)
        for name, row in sorted(measured["methods"].items(), key=lambda item: -item[1]["auroc"]):
            label = f"{name} (baseline)" if name in measured["baselines"] else name
            shares = (f"{share:.1%}" for share in row["precision"].values())
            interval = f"{row['lo']:.3f}–{row['hi']:.3f}"
            table.add_row(label, f"{row['auroc']:.3f}", interval, f"{row['auprc']:.3f}", *shares)
        results.print(table)
        lead = measured["lead"]
        results.print(
            f"AUROC over that of {lead['over']}, the best baseline: {lead['mean']:+.3f} "
            f"({lead['lo']:+.3f} to {lead['hi']:+.3f}).",
            highlight=False,
        )
        if "suggestions" in measured:
            results.print(Suggested(**measured["suggestions"]).in_words(what), highlight=False)


def _sizes(measured: dict) -> list[str]:
    return list(next(iter(measured["methods"].values()))["precision"])


def export(
    store: StoreDir,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="open_clip (of pictures), records (of texts), webdataset-keys, cleanlab, fiftyone or parquet."
        ),
    ] = None,
) -> None:
    """Write the training examples with people's decisions applied."""
    from traklens.engine.label_errors.decisions import confirms, corrects
    from traklens.engine.label_errors.export import export as run
    from traklens.engine.label_errors.export import formats_of, save
    from traklens.engine.label_errors.suspects import find_suspects
    from traklens.stores.reviews import Reviews
    from traklens.stores.store import open_store

    opened = open_store(store)
    decisions = Reviews(opened.path).current()
    with progress(notes) as report:
        content = run(opened, find_suspects(opened, report), decisions, format or formats_of(opened)[0])
    save(content, out)
    gone, mended = (sum(map(counts, decisions.values())) for counts in (confirms, corrects))
    results.print(
        f"{out}: {opened.n_train:,} training {opened.noun}, {gone:,} left out, {mended:,} {opened.task.title}s corrected",
        highlight=False,
        soft_wrap=True,
    )
