"""The rule that carries nearly all the work: y = x Wᵀ + b."""

import torch
import torch.nn.functional as F
from torch import Tensor

from traklens.engine.gradients.tracker import NoRuleError, Tracker


def linear(
    t: Tracker, input: Tensor, weight: Tensor, bias: Tensor | None = None, *, batch_dim: int | None = None
) -> Tensor:
    """x [..., I], W [O, I]; the batch is any dimension of x but the last. batch_dim: where it is known."""
    if t.is_tracked(input):
        raise NoRuleError("input made of parameters")
    if batch_dim is None:
        batch_dim = t.batch_dim(input.shape, range(input.ndim - 1))
    output = F.linear(input, t.plain(weight), t.plain(bias))
    return t.watch(output, batch_dim, input, [(weight, _weight), (bias, lambda g, x: summed(g, 1))])


def _weight(g: Tensor, x: Tensor) -> Tensor:
    """g [b, ..., O], x [b, ..., I] -> [b, O, I], summed over the dimensions between."""
    if g.ndim == 2:
        return g[:, :, None] * x[:, None, :]
    return torch.bmm(g.flatten(1, -2).transpose(1, 2), x.flatten(1, -2))


def summed(g: Tensor, inner: int) -> Tensor:
    """[b, ..., *inner dims] -> [b, *inner dims]: the sum over everything between."""
    middle = g.shape[1 : g.ndim - inner]
    return g.reshape(g.shape[0], middle.numel(), *g.shape[g.ndim - inner :]).sum(1)
