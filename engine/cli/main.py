"""The command line: `traklens data | train | build | query | remove | evaluate | hunt | export | report | info | app | demo`.

Each command reads its arguments, calls one function of the engine and prints. Heavy imports stand inside the
commands, so that `traklens --help` and `traklens query` answer at once.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from traklens.engine.cli import app as cli_app
from traklens.engine.cli import data as cli_data
from traklens.engine.cli import hunt as cli_hunt
from traklens.engine.cli import removal as cli_removal
from traklens.engine.cli.console import AsJson, StoreDir, facts_table, notes, progress, results
from traklens.engine.cli.data import Data, Reader, Sample, Template, TextColumn, show_data
from traklens.stores.errors import TrakLensError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"traklens {version('traklens')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Which training pairs made a CLIP model match this image with this caption, and what happens without them?"""


app.command()(cli_data.data)
app.command()(cli_data.relocate)
app.command()(cli_removal.remove)
app.command()(cli_removal.evaluate)
app.command()(cli_removal.report)
app.command()(cli_hunt.hunt)
app.command()(cli_hunt.export)
app.command("app")(cli_app.open_app)
app.command()(cli_app.demo)


@app.command()
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


@app.command()
def build(
    data: Data,
    store: Annotated[Path, typer.Option(help="Store directory to write.")],
    run: Annotated[Path | None, typer.Option(help="Run directory of `traklens train`.")] = None,
    model: Annotated[str | None, typer.Option(help="open_clip architecture of the checkpoints.")] = None,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="Weights file; repeat for several.")] = None,
    targets: Annotated[Path | None, typer.Option(help="Further pairs to use as held-out targets.")] = None,
    proj_dim: Annotated[int, typer.Option(help="Projection dimension k.", min=1, max=1 << 20)] = 2048,
    projection: Annotated[str, typer.Option(help="sjlt or rademacher.")] = "sjlt",
    damping: Annotated[float, typer.Option(help="λ relative to the mean diagonal of the Gram matrix.")] = 1.0,
    weight_by_q: Annotated[bool, typer.Option(help="Weigh scores by the output-to-loss gradient Q.")] = True,
    references: Annotated[int, typer.Option(help="Reference pairs in the model output f.", min=1)] = 512,
    temperature: Annotated[str, typer.Option(help="Logit scale in f: checkpoint (its own) or one.")] = "checkpoint",
    seed: Annotated[int, typer.Option(help="Decides projection, reference pairs and --sample.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Pairs per backward pass; changes no score.")] = 64,
    gradients: Annotated[
        str | None, typer.Option(help="hooks, single or vmap; the fastest on a few pairs if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda (not yet run on hardware).")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace a finished store.")] = False,
    restart: Annotated[bool, typer.Option(help="Throw away an interrupted build of another specification.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what it would take.")] = False,
    reader: Reader = None,
    text_column: TextColumn = None,
    caption_template: Template = None,
    sample: Sample = None,
) -> None:
    """Precompute TRAK features and the indices into a store. Resumes where it was interrupted."""
    from traklens.engine.build.estimate import estimate
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.features.device import check_device
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    check_device(device)
    with progress(notes) as report:
        source = Source.open(
            data,
            run=run,
            model=model,
            checkpoints=tuple(checkpoint or ()),
            targets=targets,
            reader=reader,
            text_column=text_column,
            caption_template=caption_template,
            sample=sample,
            seed=seed,
            report=report,
        )
        show_data(source.dataset)
        specs = (
            ModelOutputSpec(kind="clip_margin", temperature=temperature, n_reference=references, reference_seed=seed),
            ProjectionSpec(kind=projection, dim=proj_dim, nonzeros=4, seed=seed),
            ScoreSpec(damping=damping, weight_by_q=weight_by_q),
        )
        if dry_run:
            expected = estimate(source, *specs[:2], batch_size=batch_size, device=device)
        else:
            build_store(
                source,
                store,
                *specs,
                batch_size=batch_size,
                gradients=gradients,
                device=device,
                overwrite=overwrite,
                restart=restart,
                report=report,
            )
    if dry_run:
        results.print(facts_table(f"{store} (dry run: nothing was written)", expected))
    else:
        results.print(f"Store ready. Next: traklens app {store}", highlight=False, soft_wrap=True)


@app.command()
def query(
    store: StoreDir,
    id: Annotated[str | None, typer.Option(help="Example id of a stored pair.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image file of a pair that is not stored.")] = None,
    caption: Annotated[str | None, typer.Option(help="Its caption; the nearest stored one if not given.")] = None,
    contrast: Annotated[str | None, typer.Option(help="Second caption: why the first rather than this one?")] = None,
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Proponents and opponents of a stored pair (--id) or of any image and caption."""
    from traklens.engine.explore.query import answer

    if (id is None) == (image is None):
        raise UsageError("query", "both or neither of --id and --image", "exactly one of them", "Name the target.")
    if id is not None and caption is not None:
        raise UsageError(
            "query", "--caption together with --id", "--caption with --image", "Use --contrast with --id."
        )
    found = answer(store, id=id, image=image, caption=caption, contrast=contrast, top=top)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    target = found["target"]
    heading = Text(f"{target['caption']!r}", style="bold")
    if contrast is not None:
        heading.append(f" rather than {contrast!r}")
    results.print(heading, Text(f"f = {found['f']:.3f}   similarity = {found['similarity']:.3f}"))
    for side in ("proponents", "opponents"):
        table = Table("score", "caption", "image", "id", title=side)
        for pair in found[side]:
            table.add_row(f"{pair['score']:+.4f}", Text(pair["caption"][:100]), Text(pair["image"]), pair["id"])
        results.print(table)


@app.command()
def info(
    store: StoreDir,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its checksum.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a store was built from, its size and, with --verify, whether every byte is as written."""
    from traklens.engine.explore.info import describe

    found = describe(store, verify=verify)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        results.print(facts_table(str(store), {k: v for k, v in found.items() if k != "manifest"}))
    if verify and found["problems"]:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors of ours become one message and exit code 2, an interruption exit code 130."""
    try:
        app()
    except TrakLensError as error:
        notes.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder one may not write to
        place = f" ({error.filename})" if error.filename else ""
        message = (
            f"error: {error.strerror or error}{place}. What was computed so far stays; repeat the command to go on."
        )
        notes.print(Text(message, style="red"), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        notes.print("Interrupted. The same command continues where it stopped.")
        sys.exit(130)


if __name__ == "__main__":
    main()
