"""`traklens train`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from traklens.engine.cli.console import notes, progress, results
from traklens.engine.cli.data import Data, Reader, Sample, Template, TextColumn, show_data


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    model: Annotated[
        str, typer.Option(help="tiny, tiny_resnet, a configuration JSON or an open_clip architecture.")
    ] = "tiny",
    checkpoints: Annotated[int, typer.Option(help="How many models to train.")] = 4,
    epochs: Annotated[int | None, typer.Option(help="Passes over each training part; by size if not given.")] = None,
    subset: Annotated[float, typer.Option(help="Share of the training pairs each checkpoint sees.")] = 0.5,
    heldout: Annotated[float, typer.Option(help="Share of the pairs held out as targets.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides split, subsets, weights and order.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Pairs per training step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    augment: Annotated[str, typer.Option(help="shift, flip (and shift) or none.")] = "shift",
    reader: Reader = None,
    text_column: TextColumn = None,
    caption_template: Template = None,
    sample: Sample = None,
) -> None:
    """Train M small CLIPs, each on a recorded random part of the data. Resumes where it was interrupted."""
    from traklens.engine.data import load_dataset
    from traklens.engine.training.run_directory import streams_of
    from traklens.engine.training.train import train as train_run

    with progress(notes) as report:
        dataset = load_dataset(
            data,
            reader=reader,
            text_column=text_column,
            caption_template=caption_template,
            sample=sample,
            seed=seed,
            streams=streams_of(out),
            report=report,
        )
        show_data(dataset)
        run = train_run(
            dataset,
            out,
            model=model,
            checkpoints=checkpoints,
            epochs=epochs,
            subset=subset,
            heldout=heldout,
            seed=seed,
            batch_size=batch_size,
            learning_rate=learning_rate,
            augment=augment,
            report=report,
        )
    table = Table("checkpoint", "recall@1 (held-out)", "recall@10", title=f"run {out}")
    for m, quality in sorted(run.quality.items()):
        table.add_row(m, *(f"{quality[k]:.2f}" if k in quality else "-" for k in ("recall@1", "recall@10")))
    results.print(table)
    results.print(f"Next: traklens build {data} --run {out} --store STORE_DIR", highlight=False, soft_wrap=True)
