"""Is a task fit to be attributed, and are its gradients right? Asked on a few examples before anything is built.

What can go wrong in a task of one's own: f of the wrong shape, f that mixes the examples of a batch, f that is not finite, a
gradient that does not depend on the parameters, code that fails.
"""

import math

import torch

from traklens.engine.build.source import Source
from traklens.engine.features.featurize import PREFIX, Featurizer
from traklens.engine.gradients import reference_gradients
from traklens.engine.tasks.contract import Batch, Context
from traklens.engine.tasks.loading import Loader
from traklens.engine.tasks.registry import guarded, in_your_code, is_ours
from traklens.stores.errors import ModelError, UsageError
from traklens.stores.specs import ProjectionSpec

EXAMPLES = 4
COMPARED = 3  # examples of which gradients are compared
OFF = 0.02  # relative difference of whole gradients: a ReLU at its kink may go the other way, a wrong rule is far from it
TOLERANCE = 1e-3  # of the largest |f|: what rounding may change between batch sizes


def check_task(source: Source, projection: ProjectionSpec) -> None:
    """Raise UsageError, saying what is wrong and where, for a task of the user's own that cannot be attributed.

    The tasks of this project are held to the same by the tests; of these only `modules` is looked at here.
    """
    task = source.task
    ours = is_ours(task)
    if ours and not projection.modules:
        return
    what = f"task {task.name!r}"
    with in_your_code(what):
        model = task.load_checkpoint(source.model, source.checkpoints[0])
    featurizer = Featurizer(task, model, projection, 0, strategy="single")  # names a wrong pattern of modules
    if ours:
        return
    loader, count = Loader(task, source.rows), min(EXAMPLES, source.n)
    with in_your_code(what):
        batch = loader.load(0, count)
        context = task.context(model, loader.training(model, source.n_train, streams=source.dataset.spec.streams))
        together = _f(featurizer, batch, context)
        alone = torch.cat([_f(featurizer, loader.load(row, row + 1), context) for row in range(count)])
    if not torch.isfinite(together).all():
        raise UsageError(
            f"{what}, model_output", "NaN or infinity", "a finite f for every example", "Look at its code."
        )
    mixed = (together - alone).abs() > TOLERANCE * together.abs().max().clamp_min(1)
    if mixed.any():
        row = int(mixed.nonzero()[0, 0])
        raise UsageError(
            f"{what}, model_output",
            f"f = {together[row]:.6g} of example {source.rows[row].example.id} in a batch of {count}, {alone[row]:.6g} alone",
            "an f that depends on no other example of the batch",
            "Take no mean, no batch norm in training mode and no in-batch contrast over dimension 0; compare with fixed "
            "examples in `context` instead.",
        )
    names = [f"{PREFIX}{name}" for name in featurizer.parameters]
    with in_your_code(what):
        gradients = reference_gradients(
            featurizer.output(batch, context), tuple(x[:1] for x in batch.values()), names, tuple(context.values())
        )
    if not any(bool(g.any()) for g in gradients.values()):
        raise UsageError(
            f"{what}, model_output",
            "a gradient of zero for every parameter",
            "an f that depends on the model's parameters",
            "Compute f from the model given, without torch.no_grad() or .detach().",
        )
    with in_your_code(what):
        q = task.output_to_loss(model, batch, context)
    if tuple(q.shape) != (count,) or not torch.isfinite(q).all():
        raise UsageError(
            f"{what}, output_to_loss", f"shape {tuple(q.shape)}", f"({count},), finite", "Look at its code."
        )


def _f(featurizer: Featurizer, batch: Batch, context: Context) -> torch.Tensor:
    """f of a batch, [B]. UsageError when it has another shape."""
    with torch.no_grad():
        f = featurizer.task.model_output(featurizer.model, batch, context)
    count = len(next(iter(batch.values())))
    if not isinstance(f, torch.Tensor) or tuple(f.shape) != (count,):
        found = f"shape {tuple(f.shape)}" if isinstance(f, torch.Tensor) else type(f).__name__
        raise UsageError(
            f"task {featurizer.task.name!r}, model_output",
            found,
            f"one number per example, shape ({count},)",
            "Sum or average over what belongs to one example, never over dimension 0.",
        )
    return f


def check_gradients(source: Source, featurizer: Featurizer) -> float:
    """Compare the chosen way to per-sample gradients with plain autograd on three examples; the largest relative difference.

    source.task is bound. Raises ModelError, naming the parameter that is furthest off, where they are not the same.
    """
    task, loader, count = source.task, Loader(source.task, source.rows), min(COMPARED, source.n)
    with guarded(task):
        batch = loader.load(0, count)
        training = loader.training(featurizer.model, source.n_train, streams=source.dataset.spec.streams)
        context = task.context(featurizer.model, training)
    on = featurizer.device
    batch, context = ({name: x.to(on) for name, x in found.items()} for found in (batch, context))
    found = {name: torch.zeros((count, size), device=on) for name, size in featurizer.layout}

    def sink(name: str, gradients: torch.Tensor, rows: slice) -> None:
        found[name][rows] += gradients

    with guarded(task):
        featurizer.gradients(batch, context, sink)
    names = [f"{PREFIX}{name}" for name in featurizer.parameters]
    most = 0.0
    for row in range(count):
        one = {name: x[row : row + 1] for name, x in batch.items()}
        with guarded(task):
            module = featurizer.output(one, context)
            expected = reference_gradients(module, tuple(one.values()), names, tuple(context.values()))
        sizes = [float(expected[f"{PREFIX}{name}"].norm()) for name in found]
        apart = [float((found[name][row] - expected[f"{PREFIX}{name}"][0]).norm()) for name in found]
        relative = math.hypot(*apart) / max(math.hypot(*sizes), 1e-30)
        if not relative <= OFF:
            furthest = max(zip(apart, found, strict=True))[1]
            raise ModelError(
                f"per-sample gradients by {featurizer.strategy}",
                f"{relative:.0%} away from plain autograd on example {source.rows[row].example.id}, most in {furthest}",
                "the same gradients",
                "Build with --gradients single, and report the model: this should not happen.",
            )
        most = max(most, relative)
    return most
