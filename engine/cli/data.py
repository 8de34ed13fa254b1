"""`traklens data`: what would be read of a data set; and what every command says about it before it works on it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from traklens.engine.cli.console import AsJson, StoreDir, facts_table, notes, progress, results
from traklens.engine.cli.tasks import OwnTask, TaskName, name_task, task_or_clip


def show_data(dataset, console=notes) -> None:
    """Print what was read, and what was left out and why."""
    console.print(facts_table(f"data {dataset.root}", dataset.account.facts()))
    if dataset.problems.problems:
        console.print(dataset.problems.table())


Reader = Annotated[
    str | None, typer.Option(help="The form of the data (`traklens data DATA` names it); detected if not given.")
]
TextColumn = Annotated[
    list[str] | None, typer.Option(help="Column that holds the caption, or the text; twice for pairs of texts.")
]
Template = Annotated[
    str | None,
    typer.Option("--caption-template", help="Caption made of columns, e.g. 'a photo of a {label}'."),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of the metadata that holds the label; folders name it if there is none.")
]
InputColumn = Annotated[str | None, typer.Option(help="Column that holds the input of a language model's task.")]
TargetColumn = Annotated[str | None, typer.Option(help="Column that holds what the model is to answer.")]
MaskFacts = Annotated[
    bool,
    typer.Option("--mask-facts", help="Mask an entity of a sentence's facts at a time, to be answered (seq2seq)."),
]
Sample = Annotated[int | None, typer.Option(help="Take only this many examples, drawn with --seed.", min=1)]
Data = Annotated[
    Path, typer.Argument(help="Folder, list or shard of examples: image-caption pairs, labelled images, …")
]


def data(
    data: Data,
    task: TaskName = None,
    reader: Reader = None,
    text_column: TextColumn = None,
    caption_template: Template = None,
    label_column: LabelColumn = None,
    input_column: InputColumn = None,
    target_column: TargetColumn = None,
    sample: Sample = None,
    mask_facts: MaskFacts = False,
    seed: Annotated[int, typer.Option(help="Decides --sample.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """What would be read: form, lists, how much, what is left out and why, three examples. Writes nothing."""
    from traklens.engine.tasks.reading import DataOptions

    options = DataOptions(
        reader, text_column, caption_template, label_column, input_column, target_column, sample, mask_facts
    )
    with progress(notes) as report:
        dataset = options.load(data, options.task(task_or_clip(task)), seed=seed, report=report)
    if as_json:
        problems = [asdict(problem) for problem in dataset.problems.problems]
        print(json.dumps(asdict(dataset.account) | {"problems": problems}, ensure_ascii=False))
    else:
        show_data(dataset, results)


def relocate(
    store: StoreDir,
    data: Annotated[Path | None, typer.Option(help="Where the data set is now.")] = None,
    run: Annotated[Path | None, typer.Option(help="Where the run directory is now.")] = None,
    targets: Annotated[Path | None, typer.Option(help="Where the further targets are now.")] = None,
    task: OwnTask = None,
) -> None:
    """Tell a store where its data or its run were moved to; it must be the same data and the same weights."""
    from traklens.engine.build.relocate import relocate as move

    name_task(task)
    move(store, data=data, run=run, targets=targets)
    results.print(f"Store {store}: places renewed.", highlight=False, soft_wrap=True)
