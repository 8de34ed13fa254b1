"""The per-sample gradient of each function that models apply to a parameter and a batch.

A rule has the signature of its function, after the tracker. It runs the function on the parameters' plain
values and names, for each parameter, the formula that gives its gradient [b, *shape] from the gradient g of
the output and the input x of b samples, both with the batch in dim 0.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from traklens.engine.gradients.attention import multi_head_attention
from traklens.engine.gradients.linear import linear, summed
from traklens.engine.gradients.tracker import Formula, NoRuleError, Rule, TableFormula, Tracker


def matmul(t: Tracker, input: Tensor, other: Tensor) -> Tensor:
    """x [..., I] @ W [I, O]."""
    if t.is_tracked(input) or other.ndim != 2 or input.ndim < 2:
        raise NoRuleError("only x @ W with a matrix W on the right")
    batch_dim = t.batch_dim(input.shape, range(input.ndim - 1))

    def weight(g: Tensor, x: Tensor) -> Tensor:
        if g.ndim == 2:
            return x[:, :, None] * g[:, None, :]
        return torch.bmm(x.flatten(1, -2).transpose(1, 2), g.flatten(1, -2))

    return t.watch(torch.matmul(input, t.plain(other)), batch_dim, input, [(other, weight)])


def addmm(t: Tracker, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """b + x @ W, x [B·L, I] with the samples one after another, W [I, O]: the layers of GPT-2."""
    if t.is_tracked(mat1) or beta != 1 or alpha != 1:
        raise NoRuleError("only b + x @ W")
    samples, length = t.batch, t.folded(mat1.shape)
    output = torch.addmm(t.plain(input), mat1, t.plain(mat2)).view(samples, length, -1)

    def weight(g: Tensor, x: Tensor) -> Tensor:
        return torch.bmm(x.transpose(1, 2), g)

    saved = mat1.reshape(samples, length, -1)
    return t.watch(output, 0, saved, [(mat2, weight), (input, lambda g, x: g.sum(1))]).flatten(0, 1)


def rms_norm(
    t: Tracker, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    if t.is_tracked(input):
        raise NoRuleError("input made of parameters")
    shape = tuple(normalized_shape)
    batch_dim = t.batch_dim(input.shape, range(input.ndim - len(shape)))

    def of_weight(g: Tensor, x: Tensor) -> Tensor:
        return summed(g * F.rms_norm(x, shape, eps=eps), len(shape))

    return t.watch(F.rms_norm(input, shape, t.plain(weight), eps), batch_dim, input, [(weight, of_weight)])


def layer_norm(
    t: Tracker,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if t.is_tracked(input):
        raise NoRuleError("input made of parameters")
    shape = tuple(normalized_shape)
    batch_dim = t.batch_dim(input.shape, range(input.ndim - len(shape)))

    def of_weight(g: Tensor, x: Tensor) -> Tensor:
        return summed(g * F.layer_norm(x, shape, eps=eps), len(shape))

    output = F.layer_norm(input, shape, t.plain(weight), t.plain(bias), eps)
    return t.watch(output, batch_dim, input, [(weight, of_weight), (bias, lambda g, x: summed(g, len(shape)))])


def embedding(
    t: Tracker,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """At most L rows of a sample's gradient differ from zero.

    Ids that are the same for every sample (positions, distances) give a function of the table alone.
    """
    if max_norm is not None or scale_grad_by_freq:
        raise NoRuleError("max_norm and scale_grad_by_freq change or reweight the table")
    try:
        batch_dim = t.batch_dim(input.shape, range(input.ndim))
    except NoRuleError:
        return t.derive(F.embedding, (input, weight, padding_idx), {})
    pad = None if padding_idx is None else padding_idx % len(weight)
    table = TableFormula(len(weight), pad)
    return t.watch(F.embedding(input, t.plain(weight), padding_idx), batch_dim, input, [(weight, table)])


def conv2d(
    t: Tracker,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """The gradient is g times the unfolded input (im2col); patches that do not overlap need no copies."""
    if t.is_tracked(input) or input.ndim != 4 or isinstance(padding, str):
        raise NoRuleError("only a batch of images [B, C, H, W] with numeric padding")
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    kernel = tuple(weight.shape[2:])
    output = F.conv2d(input, t.plain(weight), t.plain(bias), stride, padding, dilation, groups)

    def of_weight(g: Tensor, x: Tensor) -> Tensor:
        samples = g.shape[0]
        if (kernel, stride, padding) == ((1, 1), (1, 1), (0, 0)):
            columns = x.flatten(2)
        else:
            columns = F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)
        columns = columns.reshape(samples * groups, -1, columns.shape[-1])
        by_group = g.reshape(samples * groups, -1, columns.shape[-1])
        return torch.bmm(by_group, columns.transpose(1, 2)).view(samples, *weight.shape)

    return t.watch(output, 0, input, [(weight, of_weight), (bias, lambda g, x: g.flatten(2).sum(2))])


def batch_norm(
    t: Tracker,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None or t.is_tracked(input):
        raise NoRuleError("batch statistics mix the samples; only running statistics can be used")
    output = F.batch_norm(input, running_mean, running_var, t.plain(weight), t.plain(bias), False, momentum, eps)

    def of_weight(g: Tensor, x: Tensor) -> Tensor:
        # sum g·(x - mean)/std over positions, without an array for the normalised input
        flat = g.flatten(2) if g.ndim > 2 else g[:, :, None]
        product = (flat * x.reshape(flat.shape)).sum(2) - flat.sum(2) * running_mean
        return product * torch.rsqrt(running_var + eps)

    formulas = [(weight, of_weight), (bias, lambda g, x: g.flatten(2).sum(2) if g.ndim > 2 else g)]
    return t.watch(output, 0, input, formulas)


def group_norm(
    t: Tracker,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if t.is_tracked(input) or input.ndim < 3:
        raise NoRuleError("only a batch [B, C, ...]")

    def of_weight(g: Tensor, x: Tensor) -> Tensor:
        return (g * F.group_norm(x, num_groups, eps=eps)).flatten(2).sum(2)

    output = F.group_norm(input, num_groups, t.plain(weight), t.plain(bias), eps)
    return t.watch(output, 0, input, [(weight, of_weight), (bias, lambda g, x: g.flatten(2).sum(2))])


def expand(t: Tracker, input: Tensor, *sizes: Any, **options: Any) -> Tensor:
    """A parameter repeated for each sample (class token, query of a pooler): the batch starts here."""
    output = t.plain(input).expand(*sizes, **options)
    try:
        return _broadcast(t, output, input, None, lambda g, x: g)
    except NoRuleError:  # repeated, but not over the batch: still a function of parameters alone
        return t.derive(torch.Tensor.expand, (input, output.shape), {})


def expand_as(t: Tracker, input: Tensor, other: Tensor) -> Tensor:
    if not t.is_tracked(input):
        return input.expand_as(other)
    return expand(t, input, other.shape)


def broadcast_to(t: Tracker, input: Tensor, size: Sequence[int]) -> Tensor:
    return expand(t, input, tuple(size))


def add(t: Tracker, input: Any, other: Any) -> Tensor:
    parameter, rest = (other, input) if t.is_tracked(other) else (input, other)
    return _broadcast(t, t.plain(parameter) + rest, parameter, None, lambda g, x: g)


def subtract(t: Tracker, input: Any, other: Any) -> Tensor:
    if t.is_tracked(other):
        return _broadcast(t, input - t.plain(other), other, None, lambda g, x: -g)
    return _broadcast(t, t.plain(input) - other, input, None, lambda g, x: g)


def reversed_subtract(t: Tracker, input: Any, other: Any) -> Tensor:
    return subtract(t, other, input)


def multiply(t: Tracker, input: Any, other: Any) -> Tensor:
    parameter, rest = (other, input) if t.is_tracked(other) else (input, other)
    output = t.plain(parameter) * rest
    return _broadcast(t, output, parameter, rest.expand_as(output), lambda g, x: g * x)


def _broadcast(t: Tracker, output: Tensor, parameter: Tensor, saved: Tensor | None, local: Formula) -> Tensor:
    """Watch a parameter that was broadcast over the batch; `local` is its gradient before summation."""
    if t.is_tracked(saved):
        raise NoRuleError("both operands made of parameters")
    shape = (1,) * (output.ndim - parameter.ndim) + tuple(parameter.shape)
    batch_dim = t.batch_dim(output.shape, [d for d, size in enumerate(shape) if size == 1], of_output=True)
    inner = shape[:batch_dim] + shape[batch_dim + 1 :]

    def formula(g: Tensor, x: Tensor) -> Tensor:
        return local(g, x).sum_to_size(g.shape[0], *inner).reshape(g.shape[0], *parameter.shape)

    return t.watch(output, batch_dim, saved, [(parameter, formula)])


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


expand.meets_batch_alone = True  # type: ignore[attr-defined]
broadcast_to.meets_batch_alone = True  # type: ignore[attr-defined]

RULES: MappingProxyType[Any, Rule] = MappingProxyType(
    {
        F.linear: linear,
        torch.matmul: matmul,
        torch.mm: matmul,
        torch.Tensor.matmul: matmul,
        torch.Tensor.mm: matmul,
        torch.addmm: addmm,
        F.rms_norm: rms_norm,
        F.layer_norm: layer_norm,
        F.embedding: embedding,
        F.conv2d: conv2d,
        F.batch_norm: batch_norm,
        F.group_norm: group_norm,
        F.multi_head_attention_forward: multi_head_attention,
        torch.Tensor.expand: expand,
        torch.Tensor.expand_as: expand_as,
        torch.broadcast_to: broadcast_to,
        torch.Tensor.broadcast_to: broadcast_to,
        torch.add: add,
        torch.Tensor.add: add,
        torch.sub: subtract,
        torch.Tensor.sub: subtract,
        torch.Tensor.__rsub__: reversed_subtract,
        torch.mul: multiply,
        torch.Tensor.mul: multiply,
    }
)
