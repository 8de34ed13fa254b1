"""Hooks never pass over a use of a parameter: it has a rule and equals plain autograd, or it is listed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.test_gradients import assert_same, collect
from traklens.engine.gradients import choose_strategy, per_sample_gradients, reference_gradients
from traklens.stores.errors import ModelError

B, L, D = 3, 4, 6


class Function(nn.Module):
    """f(x; w, b) given as a function; x [B, L, D]."""

    def __init__(self, f: Callable[[Tensor, Tensor, Tensor], Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.f = f
        generator = torch.Generator().manual_seed(0)
        w, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x, self.w, self.b).tanh().flatten(1).sum(1)


def example(batch: int = B) -> Tensor:
    return torch.randn(batch, L, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def mha(x: Tensor, w: Tensor, b: Tensor, **options: Any) -> Tensor:
    s = x.transpose(0, 1)
    out = torch.eye(D, dtype=x.dtype)
    base = (D, 2, w, b, None, None, False, 0.0, out, None)
    return F.multi_head_attention_forward(s, s, s, *base, need_weights=False, **options)[0].transpose(0, 1)


hidden = torch.ones(L, L, dtype=torch.bool).triu(1)
padding = torch.arange(L) >= torch.tensor([L, 2, 3])[:, None]

COVERED = {
    "add": (lambda x, w, b: (x + w) * 2 + b, (L, D), (D,)),
    "subtract and reversed subtract": (lambda x, w, b: b - (w - (x - w)), (L, D), ()),
    "reversed subtract of a number": (lambda x, w, b: x * (1 - w) + b, (D,), (1, 1)),
    "multiply with a broadcast input": (lambda x, w, b: x.mean((1, 2), keepdim=True) * w + b, (L, D), (D,)),
    "scalar": (lambda x, w, b: x * w.exp() - b, (), ()),
    "sliced positions": (lambda x, w, b: x + w[:L] + b[None, :, None], (L + 2, D), (L,)),
    "expanded token": (
        lambda x, w, b: torch.cat([w.view(1, 1, -1).expand(x.shape[0], -1, -1), x], 1) + b,
        (D,),
        (D,),
    ),
    "expanded, but not over the batch": (lambda x, w, b: x + w.expand(L, D) + b, (1, D), (D,)),
    "expanded over tokens, as many as the batch": (lambda x, w, b: x + w.expand(L, D) * b.exp(), (1, D), ()),
    "token expanded as the input": (
        lambda x, w, b: x * w.expand_as(x[:, :1]) + b.broadcast_to(x.shape),
        (D,),
        (),
    ),
    "matmul": (lambda x, w, b: x @ w + b, (D, 5), (5,)),
    "matmul of pooled input": (lambda x, w, b: torch.mm(x[:, 0], w) + b, (D, 5), (5,)),
    "linear, one weight used twice": (lambda x, w, b: F.linear(F.linear(x, w, b).tanh(), w, b), (D, D), (D,)),
    "linear with a normalised weight": (lambda x, w, b: F.linear(x, F.normalize(w), b), (5, D), (5,)),
    "linear in 2, 4 dimensions": (
        lambda x, w, b: F.linear(x[:, 0], w, b) + F.linear(x[:, None], w, b)[:, 0, 1],
        (5, D),
        (5,),
    ),
    "sequence first": (lambda x, w, b: F.linear(x.transpose(0, 1), w, b).transpose(0, 1), (5, D), (5,)),
    "cast": (lambda x, w, b: x * w.to(torch.float32).to(x) + b.type_as(x), (D,), (D,)),
    "layer norm over two dimensions": (lambda x, w, b: F.layer_norm(x, (L, D), w, b), (L, D), (L, D)),
    "a size that only the forward shows": (
        lambda x, w, b: F.layer_norm(x.reshape(-1, L, 3, 2), (2,), w, b),
        (2,),
        (2,),
    ),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (L,), (L,)),
    "batch norm": (
        lambda x, w, b: F.batch_norm(x, torch.full((L,), 0.3).to(x), torch.full((L,), 1.3).to(x), w, b),
        (L,),
        (L,),
    ),
    "batch norm of vectors": (
        lambda x, w, b: F.batch_norm(x[:, 0], torch.full((D,), 0.3).to(x), torch.ones(D).to(x), w, b),
        (D,),
        (D,),
    ),
    "convolution": (
        lambda x, w, b: F.conv2d(x[:, None].repeat(1, 2, 1, 1), w, b, stride=(2, 1), padding=1, dilation=(1, 2)),
        (5, 2, 2, 3),
        (5,),
    ),
    "grouped convolution": (
        lambda x, w, b: F.conv2d(torch.stack([x, x.sin(), x.cos(), x * x], 1), w, b, groups=2),
        (6, 2, 2, 3),
        (6,),
    ),
    "strided 1x1 convolution": (lambda x, w, b: F.conv2d(x[:, None], w, b, stride=2), (5, 1, 1, 1), (5,)),
    "embedding with padding": (
        lambda x, w, b: F.embedding((x[:, :, 0] > 0).long(), w, padding_idx=0) + b,
        (3, D),
        (D,),
    ),
    "attention": (lambda x, w, b: mha(x, w, b), (3 * D, D), (3 * D,)),
    "attention, additive mask": (
        lambda x, w, b: mha(x, w, b, attn_mask=torch.zeros(L, L).to(x).masked_fill(hidden, -torch.inf)),
        (3 * D, D),
        (3 * D,),
    ),
    "attention, causal hint": (
        lambda x, w, b: mha(x, w, b, attn_mask=hidden, is_causal=True),
        (3 * D, D),
        (3 * D,),
    ),
    "in place on the result": (lambda x, w, b: torch.relu_(F.linear(x, w, b)), (5, D), (5,)),
}


@pytest.mark.parametrize("name", COVERED)
def test_a_covered_use_equals_plain_autograd(name: str) -> None:
    f, *shapes = COVERED[name]
    module = Function(f, *shapes).eval()
    for batch in (1, B, L):
        inputs = (example(batch),)
        found = collect(module, inputs, ["w", "b"])[1]
        tolerance = 1e-5 if name == "cast" else 1e-10
        assert_same(found, reference_gradients(module, inputs, ["w", "b"]), tolerance)


def test_padding_masks_of_attention_belong_to_their_sample() -> None:
    class Padded(Function):
        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return mha(x, self.w, self.b, key_padding_mask=padding, attn_mask=hidden).flatten(1).sum(1)

    module = Padded(mha, (3 * D, D), (3 * D,)).eval()
    inputs = (example(), padding)
    assert_same(collect(module, inputs, ["w", "b"])[1], reference_gradients(module, inputs, ["w", "b"]))


UNCOVERED = {
    "maximum of batch and parameter": (
        lambda x, w, b: torch.maximum(x, w) + b,
        (D,),
        (D,),
        "w in .*maximum",
    ),
    "in place addition": (lambda x, w, b: x.clone().add_(w) + b, (D,), (D,), "w in .*add_"),
    "parameter on the left": (lambda x, w, b: w @ x + b, (L, L), (D,), "w in .*matmul"),
    "einsum": (lambda x, w, b: torch.einsum("bld,de->ble", x, w) + b, (D, D), (D,), "w in .*einsum"),
    "batch and tokens flattened": (
        lambda x, w, b: F.linear(x.reshape(-1, D), w, b).view(x.shape[0], -1),
        (5, D),
        (5,),
        "no batch dimension",
    ),
    "batch statistics that update running ones": (
        lambda x, w, b: F.batch_norm(x, torch.zeros(L).to(x), torch.ones(L).to(x), w, b, training=True),
        (L,),
        (L,),
        "w in .*batch_norm .*mix",
    ),
    "batch statistics": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        (L,),
        (L,),
        "w in .*batch_norm .*mix",
    ),
    "both parameters": (lambda x, w, b: torch.maximum(torch.minimum(x, w), b), (D,), (D,), "b in .*maximum"),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_an_uncovered_use_is_refused_with_parameter_and_function(name: str) -> None:
    f, w, b, message = UNCOVERED[name]
    module = Function(f, w, b).eval()
    with pytest.raises(ModelError, match=message):
        collect(module, (example(),), ["w", "b"])


def test_code_that_cannot_be_followed_is_refused() -> None:
    module = nn.Sequential(torch.jit.script(nn.Linear(D, 1)), nn.Flatten(0)).double().eval()
    with pytest.raises(ModelError, match=r"0\.weight"):
        collect(module, (example()[:, 0],), ["0.weight", "0.bias"])


def test_an_unused_parameter_is_zero_and_not_uncovered() -> None:
    module = Function(lambda x, w, b: x * w, (D,), (D,)).eval()
    assert set(collect(module, (example(),), ["w", "b"])[1]) == {"w"}
    assert not reference_gradients(module, (example(),), ["b"])["b"].any()
    detached = Function(lambda x, w, b: x * w + b.detach(), (D,), (D,)).eval()
    assert set(collect(detached, (example(),), ["w", "b"])[1]) == {"w"}


def test_an_input_changed_in_place_after_its_layer_is_refused() -> None:
    def f(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        hidden = x * 1
        y = F.linear(hidden, w, b)
        hidden.zero_()
        return y

    with pytest.raises(ModelError, match="changed in place"):
        collect(Function(f, (5, D), (5,)).eval(), (example(),), ["w", "b"])


def test_the_choice_falls_back_where_hooks_do_not_cover() -> None:
    module = Function(lambda x, w, b: torch.maximum(x, w) + b, (D,), (D,)).eval()
    choice = choose_strategy(module, (example(),), ["w", "b"])
    assert set(choice.seconds) == {"single", "vmap"}
    assert "maximum" in choice.uncovered["hooks"]


def test_rows_of_tables_are_handed_over_where_they_are_wanted_and_are_the_same_gradient() -> None:
    """A table read twice, once with padding, and used as a matrix: the rows and the rest add up to its gradient."""

    def f(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ids = (x[:, :, 0] > 0).long() + (x[:, :, 1] > 0).long()
        return (
            F.linear(F.embedding(ids, w, padding_idx=0) * F.embedding(ids[:, :2], w).sum(1, keepdim=True), w) + b[0]
        )

    module, inputs = Function(f, (3, D), (D,)).eval(), (example(),)
    found: dict[str, Tensor] = {}
    asked_for_rows = 0

    def sink(name: str, gradients: Tensor, rows: slice) -> None:
        found.setdefault(name, torch.zeros(B, gradients.shape[1], dtype=torch.float64))[rows] += gradients

    def rows_sink(name: str, values: Tensor, ids: Tensor, rows: slice) -> None:
        nonlocal asked_for_rows
        asked_for_rows += 1
        assert values.shape == (*ids.shape, D)
        whole = torch.zeros(len(ids), 3, D, dtype=torch.float64)
        for b in range(len(ids)):
            whole[b].index_add_(0, ids[b], values[b])
        sink(name, whole.flatten(1), rows)

    per_sample_gradients(module, inputs, sink, strategy="hooks", names=["w", "b"], rows_sink=rows_sink)
    assert asked_for_rows == 2
    assert_same(found, reference_gradients(module, inputs, ["w", "b"]))
