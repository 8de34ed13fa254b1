"""What a build is going to be, as its manifest says it: data, task, model, checkpoints and every specification."""

from datetime import UTC, datetime
from pathlib import Path

from traklens.engine.build.source import Source
from traklens.engine.models.weights import weights_digest
from traklens.engine.tasks.registry import recorded
from traklens.engine.versions import libraries
from traklens.stores.layout import SCHEMA, relative_path
from traklens.stores.specs import CheckpointSpec, Manifest, ModelOutputSpec, ProjectionSpec, ScoreSpec, seen_from


def manifest_of(
    source: Source, path: Path, output: ModelOutputSpec, projection: ProjectionSpec, score: ScoreSpec
) -> Manifest:
    """The manifest of a store at `path` that is about to be built."""
    checkpoints = tuple(
        CheckpointSpec(
            path=relative_path(file, path),
            sha256=weights_digest(file),
            subset=None
            if source.subsets is None
            else f"{source.subsets[m].sum()} of {source.n_train} training {source.dataset.account.noun}",
        )
        for m, file in enumerate(source.checkpoints)
    )
    return Manifest(
        schema=SCHEMA,
        state="building",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=seen_from(path, source.dataset.spec),
        targets=seen_from(path, source.targets.spec) if source.targets else None,
        model=source.model,
        checkpoints=checkpoints,
        model_output=output,
        projection=projection,
        score=score,
        n_train=source.n_train,
        n_heldout=source.n - source.n_train,
        task=recorded(source.task),
        libraries=libraries(),
        options={"data": source.dataset.account.facts()},
    )
