"""The commands that make a store again, from what its manifest and its run record. No torch."""

import shlex

from traklens.engine.data.load import MASKED
from traklens.engine.training.run_directory import Recipe, open_run
from traklens.stores.errors import TrakLensError
from traklens.stores.specs import CLIP, DatasetSpec, Manifest, ScoreSpec
from traklens.stores.store import Store

COLUMNS = ("label", "input", "target")  # fields whose columns have an option of their own
KNOWN = ("text", "caption", *COLUMNS)
RECIPE_OPTIONS = {
    "checkpoints": "checkpoints",
    "epochs": "epochs",
    "subset": "subset",
    "heldout": "heldout",
    "seed": "seed",
    "batch_size": "batch-size",
    "learning_rate": "learning-rate",
    "augment": "augment",
    "optimizer": "optimizer",
}


def commands(store: Store) -> list[str]:
    """`traklens train`, where the store's run is at hand, and `traklens build`: shell lines."""
    manifest = store.manifest
    files = [store.checkpoint_path(m) for m in range(store.n_checkpoints)]
    data = str(store.data_root / manifest.dataset.file)
    folder = files[0].parent
    named = ["--task", manifest.task.path or manifest.task.name] if manifest.task.name != CLIP.name else []
    named_model = ["--model", manifest.model.name] if manifest.model.config else []
    found, source = [], [*named, *named_model, *(x for file in files for x in ("--checkpoint", str(file)))]
    try:
        recipe = open_run(folder).spec.recipe
    except TrakLensError:
        pass
    else:
        found.append(_shell(["train", data, "--out", str(folder), *named, *_recipe(recipe, manifest)]))
        source = ["--run", str(folder), *(named if manifest.task.source else [])]
    found.append(_shell(["build", data, *source, "--store", str(store.path), *_build(store)]))
    return found


def _recipe(recipe: Recipe, manifest: Manifest) -> list[str]:
    values = [x for name, option in RECIPE_OPTIONS.items() for x in (f"--{option}", str(getattr(recipe, name)))]
    return [
        *(["--model", manifest.model.name] if manifest.model.config else []),
        *values,
        *reading_options(manifest.dataset),
    ]


def _build(store: Store) -> list[str]:
    manifest = store.manifest
    output, projection, score = manifest.model_output, manifest.projection, manifest.score
    found = ["--proj-dim", str(projection.dim), "--projection", projection.kind, "--damping", f"{score.damping:g}"]
    if manifest.task.name == CLIP.name:
        found += ["--references", str(output.n_reference), "--temperature", output.temperature]
    if output.output != "margin":
        found += ["--output", output.output]
    for name in ("normalize", "second_moment", "gram"):
        if getattr(score, name) != getattr(ScoreSpec(), name):
            found += [f"--{name.replace('_', '-')}", getattr(score, name)]
    found += ["--seed", str(projection.seed)]
    if projection.modules:
        found += ["--modules", projection.modules]
    found.append("--weight-by-q" if score.weight_by_q else "--no-weight-by-q")
    if manifest.targets is not None:
        found += ["--targets", str(manifest.targets.seen_from(store.path) / manifest.targets.file)]
    return found + reading_options(manifest.dataset)


def reading_options(dataset: DatasetSpec) -> list[str]:
    """The options by which a data set was read."""
    options = {
        "--text-column": dataset.text_column,
        "--caption-template": dataset.caption_template,
        "--label-column": dataset.label_column,
        "--sample": dataset.sample,
    }
    found = [x for name, value in options.items() if value is not None for x in (name, str(value))]
    for field in dataset.fields:  # columns that are called otherwise than their fields
        if field.column:
            found += [f"--{field.name if field.name in COLUMNS else 'text'}-column", field.column]
        elif field.kind == "text" and field.name not in KNOWN:  # two columns of texts keep their names
            found += ["--text-column", field.name]
    return found + (["--mask-facts"] if dataset.reader == MASKED else [])


def _shell(words: list[str]) -> str:
    return shlex.join(["traklens", *words])
