"""One batched forward and backward whose hooks compute the per-sample gradients layer by layer.

f_b depends on sample b alone, so the gradient of sum_b f_b with respect to a layer's output holds, in row b,
exactly ∂f_b/∂output_b. With the layer's input that gives the weight gradient of each sample: an outer
product summed over tokens. The ordinary weight gradients, which sum over the batch, are never computed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from traklens.engine.gradients.contract import Sink, check_output
from traklens.engine.gradients.rules import RULES
from traklens.engine.gradients.tracker import AmbiguousBatchError, Shapes, Tracker
from traklens.stores.errors import ModelError


def gradients_by_hooks(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    sink: Sink,
    parameters: Mapping[str, nn.Parameter],
    shared: tuple[Tensor, ...],
    batch: int,
) -> Tensor:
    """f [B]; see per_sample_gradients. Raises ModelError naming every use of a parameter without a rule."""

    def forward(examples: int, known: Shapes | None) -> tuple[Tracker, Tensor]:
        tracker = Tracker(module, parameters, RULES, examples, sink, known)
        with torch.enable_grad(), tracker:
            return tracker, module(*(x[:examples].detach() for x in inputs), *(x.detach() for x in shared))

    # A dimension that happens to have the size of the batch could be mistaken for it. One example then
    # shows which dimensions change with the batch; where nothing coincides, that forward is saved.
    sizes = {size for x in inputs for size in x.shape[1:]}
    sizes |= {size for x in (*module.parameters(), *module.buffers()) for size in x.shape}
    known = forward(1, None)[0].shapes if batch > 1 and batch in sizes else None
    try:
        tracker, f = forward(batch, known)
    except AmbiguousBatchError:  # a size that no input or parameter shows, such as the number of heads
        tracker, f = forward(batch, forward(1, None)[0].shapes)
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
