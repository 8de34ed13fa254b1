"""One batched forward and backward whose hooks compute the per-sample gradients layer by layer.

f_b depends on sample b alone, so the gradient of sum_b f_b with respect to a layer's output holds, in row b,
exactly ∂f_b/∂output_b. With the layer's input that gives the weight gradient of each sample: an outer
product summed over tokens. The ordinary weight gradients, which sum over the batch, are never computed.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from traklens.engine.gradients.contract import RowsSink, Sink, check_output
from traklens.engine.gradients.rules import RULES
from traklens.engine.gradients.tracker import AmbiguousBatchError, Known, Tracker
from traklens.stores.errors import ModelError


def gradients_by_hooks(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    sink: Sink,
    parameters: Mapping[str, nn.Parameter],
    shared: tuple[Tensor, ...],
    batch: int,
    rows_sink: RowsSink | None = None,
) -> Tensor:
    """f [B]; see per_sample_gradients. Raises ModelError naming every use of a parameter without a rule."""

    def forward(rows: list[int], known: Known | None, probing: bool = False) -> tuple[Tracker, Tensor]:
        tracker = Tracker(module, parameters, RULES, len(rows), sink, known, probing, rows_sink)
        given = [(x if len(rows) == batch else x[rows]).detach() for x in inputs] + [x.detach() for x in shared]
        with torch.enable_grad(), tracker:
            return tracker, module(*given)

    def probed(rows: list[int]) -> Known:
        """The shapes of a pass of another number of examples, which show what changes with it."""
        tracker = forward(rows, None, probing=True)[0]
        return Known(tracker.shapes, len(rows), tracker.calls)

    everything = list(range(batch))
    tracker, f = _unmistaken(forward, probed, everything, _coincides(module, inputs, batch))
    check_output(f, batch)
    uncovered = [*tracker.uncovered, *_unseen_uses(f, parameters, tracker)]
    if uncovered:
        raise ModelError(
            "per-sample gradients by hooks",
            f"{len(uncovered)} use(s) of a parameter without a rule: " + "; ".join(uncovered[:8]),
            "functions that engine/gradients/rules.py knows",
            "Use the strategy 'vmap' or 'single', or add a rule.",
        )
    if f.requires_grad and tracker.starts:
        torch.autograd.grad(f.sum(), tracker.starts, allow_unused=True)
    return f.detach()


def _coincides(module: nn.Module, inputs: tuple[Tensor, ...], batch: int) -> bool:
    """Whether a dimension that is not the batch has its size, and could be mistaken for it."""
    sizes = {size for x in inputs for size in x.shape[1:]}
    sizes |= {size for x in (*module.parameters(), *module.buffers()) for size in x.shape}
    return batch > 1 and batch in sizes


def _unmistaken(
    forward: Callable[[list[int], Known | None], tuple[Tracker, Tensor]],
    probed: Callable[[list[int]], Known],
    rows: list[int],
    coincides: bool,
) -> tuple[Tracker, Tensor]:
    """The forward pass, with what a pass of one example shows where the batch cannot be told by its size alone.

    A model may go other ways with one example (without a mask where nothing is padded). It then makes other calls, and a pass
    of all examples with the first of them once more shows the same.
    """
    if not coincides:
        try:
            return forward(rows, None)
        except AmbiguousBatchError:  # a size that no input or parameter shows, such as the number of heads
            pass
    known = probed(rows[:1])
    tracker, f = forward(rows, known)
    if tracker.calls != known.calls:
        tracker, f = forward(rows, probed([*rows, 0]))
    return tracker, f


def _unseen_uses(f: Tensor, parameters: Mapping[str, nn.Parameter], tracker: Tracker) -> list[str]:
    """Parameters that f depends on although no call with them was seen (compiled or scripted parts).

    Every call that was seen ran on a stand-in, so the graph of f must not reach an original parameter.
    """
    if tracker.is_tracked(f):
        return ["f depends on parameters alone, not on the examples"]
    names = {id(p): name for name, p in parameters.items()}
    found, visited, queue = [], set(), [f.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        name = names.get(id(getattr(node, "variable", None)))
        if name is not None:
            found.append(f"{name} in code that cannot be followed (compiled or scripted)")
        queue.extend(parent for parent, _ in node.next_functions)
    return found
