"""Strategies that leave the mathematics to autograd: one example at a time, and torch.func.vmap(grad).

`reference_gradients` is the judge: slow, obvious, and independent of everything else in this package.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from traklens.engine.gradients.contract import Sink, check_output, sample_blocks, widen


def reference_gradients(
    module: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], shared: tuple[Tensor, ...] = ()
) -> dict[str, Tensor]:
    """name -> [B, numel] by torch.autograd.grad, example by example. Holds the whole matrix: for tests."""
    # Fresh leaves, so that frozen parameters can be differentiated and the module's own stay untouched.
    own = dict(module.named_parameters())
    leaves = {name: own[name].detach().clone().requires_grad_() for name in names}
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for b in range(inputs[0].shape[0]):
        example = tuple(x[b : b + 1] for x in inputs)
        with torch.enable_grad():
            f = functional_call(module, leaves, (*example, *shared))
        gradients = torch.autograd.grad(f[0], list(leaves.values()), allow_unused=True)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            rows[name].append((torch.zeros_like(leaf) if gradient is None else gradient).reshape(-1))
    return {name: torch.stack(parts) for name, parts in rows.items()}


def gradients_one_by_one(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    sink: Sink,
    parameters: Mapping[str, nn.Parameter],
    shared: tuple[Tensor, ...],
    batch: int,
) -> Tensor:
    """One forward and backward per example; a gradient goes to the sink the moment it is complete."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    current = slice(0, 1)

    def hand_over(name: str):
        def hook(leaf: Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            if gradient is not None:
                sink(name, widen(gradient).reshape(1, -1), current)

        return hook

    for name, leaf in leaves.items():
        leaf.register_post_accumulate_grad_hook(hand_over(name))
    outputs = []
    for b in range(batch):
        current = slice(b, b + 1)
        with torch.enable_grad():
            f = functional_call(module, leaves, (*(x[current].detach() for x in inputs), *shared))
        check_output(f, 1)
        outputs.append(f.detach())
        if f.requires_grad and leaves:
            f.sum().backward(inputs=list(leaves.values()))
    return torch.cat(outputs)


def gradients_by_vmap(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    sink: Sink,
    parameters: Mapping[str, nn.Parameter],
    shared: tuple[Tensor, ...],
    batch: int,
) -> Tensor:
    """vmap(grad) over blocks of samples: all gradients of a block exist together, so the blocks are small."""
    leaves = {name: p.detach() for name, p in parameters.items()}

    def f_of(values: dict[str, Tensor], *example: Tensor) -> Tensor:
        f = functional_call(module, values, (*(x.unsqueeze(0) for x in example), *shared))
        check_output(f, 1)
        return f[0]

    in_dims = (None, *(0 for _ in inputs))
    per_sample = vmap(grad_and_value(f_of), in_dims=in_dims, randomness="error")
    total = sum(p.numel() for p in parameters.values())
    outputs = []
    # A budget of 16 calls to the sink for all parameters together: smaller blocks would waste what vmap gains.
    for rows in sample_blocks(batch, max(1, total // 16), inputs[0].device):
        with torch.no_grad():  # no graph to the parameters that are not differentiated
            gradients, f = per_sample(leaves, *(x[rows].detach() for x in inputs))
        outputs.append(f)
        for name in leaves:
            sink(name, widen(gradients[name]).reshape(f.shape[0], -1), rows)
        del gradients
    return torch.cat(outputs)
