"""The entry: per-sample gradients by a named strategy."""

from collections.abc import Sequence

from torch import Tensor, nn

from traklens.engine.gradients.contract import STRATEGIES, RowsSink, Sink, batch_size, selected_parameters
from traklens.engine.gradients.hooks import gradients_by_hooks
from traklens.engine.gradients.plain import gradients_by_vmap, gradients_one_by_one
from traklens.stores.errors import UsageError


def per_sample_gradients(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    sink: Sink,
    *,
    strategy: str,
    names: Sequence[str],
    shared: tuple[Tensor, ...] = (),
    rows_sink: RowsSink | None = None,
) -> Tensor:
    """Gradients of every f_b with respect to the named parameters (g = ∇θ f(z; θ), TRAK section 3).

    module(*inputs, *shared) returns f [B], where f_b depends on sample b alone; inputs have the batch in dim
    0, shared are the same for all. Each gradient goes to `sink(name, gradients [b, numel], rows)` as soon as
    it exists and is then dropped: the matrix [B, p] never exists. `rows_sink`, where given, gets the rows of embedding tables
    that occur instead of whole tables, as far as the strategy knows them (hooks). Calls for the same parameter and rows add
    up; a parameter without a call has gradient zero. The sink must copy what it keeps. The module is left as
    it was: no hooks, no .grad, no changed requires_grad, also after an exception.

    Returns f [B], detached. Raises UsageError for an unknown strategy or inputs of different batch sizes,
    ModelError for a module in training mode, unknown names, an f of another shape, or (hooks) a parameter
    that is used in a way without a rule: it is listed, never passed over.
    """
    if strategy not in STRATEGIES:
        raise UsageError("gradient strategy", repr(strategy), f"one of {', '.join(STRATEGIES)}", "Choose one.")
    batch = batch_size(module, inputs)
    parameters = selected_parameters(module, names)
    if strategy == "hooks":
        return gradients_by_hooks(module, inputs, sink, parameters, shared, batch, rows_sink)
    if strategy == "vmap":
        return gradients_by_vmap(module, inputs, sink, parameters, shared, batch)
    return gradients_one_by_one(module, inputs, sink, parameters, shared, batch)
