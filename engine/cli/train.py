"""`traklens train`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from traklens.engine.cli.console import notes, progress, results
from traklens.engine.cli.data import (
    Data,
    InputColumn,
    LabelColumn,
    MaskFacts,
    Reader,
    Sample,
    TargetColumn,
    Template,
    TextColumn,
    show_data,
)
from traklens.engine.cli.tasks import TaskName, task_or_clip


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    task: TaskName = None,
    model: Annotated[
        str,
        typer.Option(
            help="clip: tiny (default), tiny_resnet, a configuration JSON or an open_clip architecture; image_classifier: "
            "resnet9 (default; resnet9-64 is wider), resnet18, a name of torchvision or timm, or FILE.py:FUNCTION; text: "
            "tiny_bert, tiny_t5, tiny_gpt2 (by the task), or a folder of transformers."
        ),
    ] = "",
    checkpoints: Annotated[int, typer.Option(help="How many models to train.")] = 4,
    epochs: Annotated[int | None, typer.Option(help="Passes over each training part; by size if not given.")] = None,
    subset: Annotated[float, typer.Option(help="Share of the training examples each checkpoint sees.")] = 0.5,
    heldout: Annotated[float, typer.Option(help="Share of the examples held out as targets.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides split, subsets, weights and order.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Examples per training step.")] = 64,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate; 0.001 for adamw, 0.1 for sgd if not given.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="shift, flip (and shift), words (hides some of a text) or none; chosen by the task if not given."
        ),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd; chosen by the task if not given.")] = None,
    average: Annotated[
        float | None,
        typer.Option(
            help="Decay of the running mean of the weights that a model ends with; 0: those of the last step."
        ),
    ] = None,
    reader: Reader = None,
    text_column: TextColumn = None,
    caption_template: Template = None,
    label_column: LabelColumn = None,
    input_column: InputColumn = None,
    target_column: TargetColumn = None,
    sample: Sample = None,
    mask_facts: MaskFacts = False,
) -> None:
    """Train M small models, each on a recorded random part of the data. Resumes where it was interrupted."""
    from traklens.engine.tasks.reading import DataOptions
    from traklens.engine.training.run_directory import streams_of
    from traklens.engine.training.train import train as train_run

    options = DataOptions(
        reader, text_column, caption_template, label_column, input_column, target_column, sample, mask_facts
    )
    known = options.task(task_or_clip(task))
    with progress(notes) as report:
        dataset = options.load(data, known, seed=seed, streams=streams_of(out), report=report)
        show_data(dataset)
        run = train_run(
            dataset,
            out,
            task=known,
            model=model,
            checkpoints=checkpoints,
            epochs=epochs,
            subset=subset,
            heldout=heldout,
            seed=seed,
            batch_size=batch_size,
            learning_rate=learning_rate,
            augment=augment,
            optimizer=optimizer,
            average=average,
            report=report,
        )
    names = list(dict.fromkeys(name for quality in run.quality.values() for name in quality))
    table = Table("checkpoint", *(f"{name} (held-out)" for name in names), title=f"run {out}")
    for m, quality in sorted(run.quality.items()):
        table.add_row(m, *(f"{quality[name]:.2f}" if name in quality else "-" for name in names))
    results.print(table)
    own = f" --task {task}" if run.spec.task.source else ""
    results.print(f"Next: traklens build {data} --run {out}{own} --store STORE_DIR", highlight=False, soft_wrap=True)
