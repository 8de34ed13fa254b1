"""`traklens build`."""

from pathlib import Path
from typing import Annotated

import typer

from traklens.engine.cli.console import facts_table, notes, progress, results
from traklens.engine.cli.data import (
    Data,
    InputColumn,
    LabelColumn,
    Reader,
    Sample,
    TargetColumn,
    Template,
    TextColumn,
    show_data,
)
from traklens.engine.cli.tasks import TaskName


def build(
    data: Data,
    store: Annotated[Path, typer.Option(help="Store directory to write.")],
    task: TaskName = None,
    run: Annotated[Path | None, typer.Option(help="Run directory of `traklens train`, which knows its task.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Architecture of the checkpoints, as for `traklens train`.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Weights: a file, or a folder as saved; repeat for several.")
    ] = None,
    targets: Annotated[Path | None, typer.Option(help="Further examples to use as held-out targets.")] = None,
    proj_dim: Annotated[int, typer.Option(help="Projection dimension k.", min=1, max=1 << 20)] = 2048,
    projection: Annotated[str, typer.Option(help="sjlt or rademacher.")] = "sjlt",
    modules: Annotated[
        str, typer.Option(help="Parameters to attribute, as patterns: 'visual.*, *.mlp'; all if not given.")
    ] = "",
    damping: Annotated[float, typer.Option(help="λ relative to the mean diagonal of the Gram matrix.")] = 1.0,
    weight_by_q: Annotated[
        bool | None,
        typer.Option(help="Weigh scores by the output-to-loss gradient Q; if not given, but for language models."),
    ] = None,
    output: Annotated[str, typer.Option(help="Model output f: margin (log odds) or log_probability.")] = "margin",
    normalize: Annotated[
        str,
        typer.Option(help="Length of projected gradients: none (as they are) or unit (scores then have no unit)."),
    ] = "none",
    second_moment: Annotated[
        str,
        typer.Option(
            help="Scale gradients by Adam's second moments: none, gradients (estimated) or optimizer (the checkpoints' own)."
        ),
    ] = "none",
    gram: Annotated[
        str, typer.Option(help="Whose gradients the Gram matrix is of: train, targets (held-out) or mixed.")
    ] = "train",
    references: Annotated[int, typer.Option(help="Reference pairs in CLIP's model output f.", min=1)] = 512,
    temperature: Annotated[
        str, typer.Option(help="Logit scale in CLIP's f: checkpoint (its own) or one.")
    ] = "checkpoint",
    seed: Annotated[int, typer.Option(help="Decides projection, reference pairs and --sample.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Examples per backward pass; changes no score.")] = 64,
    gradients: Annotated[
        str | None, typer.Option(help="hooks, single or vmap; the fastest on a few examples if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda (not yet run on hardware).")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace a finished store.")] = False,
    restart: Annotated[bool, typer.Option(help="Throw away an interrupted build of another specification.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what it would take.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only compare gradients with plain autograd.")] = False,
    reader: Reader = None,
    text_column: TextColumn = None,
    caption_template: Template = None,
    label_column: LabelColumn = None,
    input_column: InputColumn = None,
    target_column: TargetColumn = None,
    sample: Sample = None,
) -> None:
    """Precompute TRAK features and the indices into a store. Resumes where it was interrupted."""
    from traklens.engine.build.estimate import checked, estimate
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.engine.features.device import check_device
    from traklens.engine.tasks.reading import DataOptions
    from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

    check_device(device)
    with progress(notes) as report:
        source = Source.open(
            data,
            task=task,
            run=run,
            model=model,
            checkpoints=tuple(checkpoint or ()),
            targets=targets,
            options=DataOptions(
                reader, text_column, caption_template, label_column, input_column, target_column, sample
            ),
            seed=seed,
            report=report,
        )
        show_data(source.dataset)
        specs = (
            ModelOutputSpec(output=output, temperature=temperature, n_reference=references, reference_seed=seed),
            ProjectionSpec(kind=projection, dim=proj_dim, nonzeros=4, seed=seed, modules=modules),
            ScoreSpec(
                damping=damping,
                weight_by_q=source.task.weighs_by_q if weight_by_q is None else weight_by_q,
                normalize=normalize,
                second_moment=second_moment,
                gram=gram,
            ),
        )
        if check:
            expected = checked(source, *specs[:2], gradients=gradients, device=device)
        elif dry_run:
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
    if check or dry_run:
        kind = "check" if check else "dry run"
        results.print(facts_table(f"{store} ({kind}: nothing was written)", expected))
    else:
        results.print(f"Store ready. Next: traklens app {store}", highlight=False, soft_wrap=True)
