"""Per-sample gradients: every strategy equals plain autograd, example by example, for every parameter."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

from traklens.engine.gradients import STRATEGIES, choose_strategy, per_sample_gradients, reference_gradients
from traklens.stores.errors import ModelError, UsageError

LENGTH, WIDTH, REFERENCES = 12, 32, 6
VIT: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": WIDTH, "layers": 2, "head_width": 16}
RESNET: dict[str, Any] = {"layers": [1, 1, 1, 1], "width": 4, "image_size": 64, "head_width": 8}
TEXT: dict[str, Any] = {"context_length": LENGTH, "vocab_size": 40, "width": WIDTH, "heads": 2, "layers": 2}
CUSTOM = {
    "qk_norm": True,
    "scale_heads": True,
    "scale_attn_inner": True,
    "scale_attn": True,
    "scale_fc": True,
}

MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (VIT, TEXT),
    "layer scale": ({**VIT, "ls_init_value": 0.1}, {**TEXT, "ls_init_value": 0.1}),
    "average pooling": (
        {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
        {**TEXT, "pool_type": "last"},
    ),
    "attentional pooling": ({**VIT, "attentional_pool": True, "attn_pooler_queries": 5}, TEXT),
    "custom blocks": ({**VIT, **CUSTOM}, {**TEXT, "proj_bias": True, "no_causal_mask": True}),
    "modified resnet": (RESNET, TEXT),
}


class Output(nn.Module):
    """f of one pair against fixed references, with a mask of the references that count for each sample."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, tokens: Tensor, keep: Tensor, ref_u: Tensor, ref_v: Tensor) -> Tensor:
        u, v = self.clip.encode_image(images, normalize=True), self.clip.encode_text(tokens, normalize=True)
        scale, own = self.clip.logit_scale.exp(), (u * v).sum(1, keepdim=True)
        to_text = (scale * (u @ ref_v.T - own)).masked_fill(~keep, -torch.inf).logsumexp(1)
        to_image = (scale * (v @ ref_u.T - own)).masked_fill(~keep, -torch.inf).logsumexp(1)
        return -to_text - to_image


def clip_output(kind: str, batch: int) -> tuple[Output, tuple[Tensor, ...], tuple[Tensor, ...], list[str]]:
    """A float64 model with random weights (none of them zero), inputs, shared references and names."""
    vision, text = MODELS[kind]
    torch.manual_seed(0)
    module = Output(CLIP(16, CLIPVisionCfg(**vision), CLIPTextCfg(**text))).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    size = vision["image_size"]
    keep = torch.rand(batch, REFERENCES, generator=generator) > 0.3
    keep[:, 0] = True
    inputs = (
        torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64),
        torch.randint(1, 40, (batch, LENGTH), generator=generator),
        keep,
    )
    shared = tuple(
        F.normalize(torch.randn(REFERENCES, 16, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)
    )
    return module, inputs, shared, [n for n, _ in module.named_parameters() if n != "clip.logit_scale"]


def collect(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    strategy: str = "hooks",
    shared: tuple[Tensor, ...] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """f and name -> [B, numel], of the parameters that the sink was called for."""
    found: dict[str, Tensor] = {}

    def sink(name: str, gradients: Tensor, rows: slice) -> None:
        assert not gradients.requires_grad
        if name not in found:
            found[name] = gradients.new_zeros(inputs[0].shape[0], gradients.shape[1])
        found[name][rows] += gradients

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        f = per_sample_gradients(module, inputs, sink, strategy=strategy, names=names, shared=shared)
    return f, found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Parameter by parameter, each against its own size (a key's bias has gradient zero but for rounding)."""
    floor = 1e-6 * max(float(g.abs().max()) for g in expected.values())
    assert set(found) == set(expected)
    for name, gradients in expected.items():
        error = float((found[name] - gradients).detach().abs().max()) / max(float(gradients.abs().max()), floor)
        assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("kind", MODELS)
def test_hooks_equal_plain_autograd_for_every_parameter(kind: str) -> None:
    module, inputs, shared, names = clip_output(kind, 3)
    f, found = collect(module, inputs, names, "hooks", shared)
    assert_same(found, reference_gradients(module, inputs, names, shared))
    assert torch.allclose(f, module(*inputs, *shared), rtol=1e-10, atol=0)
    assert not f.requires_grad


@pytest.mark.parametrize("strategy", ["single", "vmap"])
@pytest.mark.parametrize("kind", ["plain", "modified resnet"])
def test_other_strategies_equal_plain_autograd_for_every_parameter(kind: str, strategy: str) -> None:
    module, inputs, shared, names = clip_output(kind, 2)
    f, found = collect(module, inputs, names, strategy, shared)
    assert_same(found, reference_gradients(module, inputs, names, shared))
    assert torch.allclose(f, module(*inputs, *shared), rtol=1e-10, atol=0)


# 17 patches and class token, 12 text tokens, 5 queries or ResNet positions, 2 heads: sizes that could be
# mistaken for the batch.
@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        ("plain", LENGTH),
        ("plain", 17),
        ("custom blocks", 2),
        ("modified resnet", 5),
        ("attentional pooling", 5),
    ],
)
def test_a_batch_as_large_as_another_dimension_is_not_mistaken_for_it(kind: str, batch: int) -> None:
    module, inputs, shared, names = clip_output(kind, batch)
    assert_same(
        collect(module, inputs, names, "hooks", shared)[1], reference_gradients(module, inputs, names, shared)
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_do_not_depend_on_the_batch(strategy: str) -> None:
    module, inputs, shared, names = clip_output("plain", 8)
    whole = collect(module, inputs, names, strategy, shared)[1]
    for start, stop in ((0, 1), (2, 5), (7, 8)):
        part = collect(module, tuple(x[start:stop] for x in inputs), names, strategy, shared)[1]
        assert_same(part, {name: g[start:stop] for name, g in whole.items()}, 1e-9)


def test_small_memory_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs, shared, names = clip_output("attentional pooling", 4)
    whole = collect(module, inputs, names, "hooks", shared)[1]
    monkeypatch.setattr("traklens.engine.gradients.contract.CPU_BYTES", 8 * 3000)
    largest = []
    per_sample_gradients(
        module,
        inputs,
        lambda name, g, rows: largest.append((g.shape[0] == 1 or g.nbytes <= 8 * 3000, g.shape[0])),
        strategy="hooks",
        names=names,
        shared=shared,
    )
    assert all(small for small, _ in largest)
    assert {1, 4} <= {rows for _, rows in largest}
    assert_same(collect(module, inputs, names, "hooks", shared)[1], whole, 1e-12)


def test_half_precision_gradients_arrive_in_float32() -> None:
    layer = nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)).to(torch.bfloat16).eval()
    x = torch.ones(1, 4, dtype=torch.bfloat16)

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return layer(x).sum().reshape(1)

    module = Sum()
    module.layer = layer
    for strategy in STRATEGIES:
        _, found = collect(module.eval(), (x,), ["layer.0.weight"], strategy)
        assert found["layer.0.weight"].dtype == torch.float32


def state_of(module: nn.Module) -> list[tuple[Any, ...]]:
    return [
        (name, id(p), p.requires_grad, p.grad, len(p._backward_hooks or {}), p.detach().clone().sum().item())
        for name, p in module.named_parameters()
    ] + [(len(m._forward_hooks), len(m._backward_hooks), m.training) for m in module.modules()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fail", [False, True])
def test_the_module_is_left_as_it_was(strategy: str, fail: bool) -> None:
    module, inputs, shared, names = clip_output("plain", 2)
    module.get_parameter(names[5]).requires_grad_(False)
    before = state_of(module)

    def sink(name: str, gradients: Tensor, rows: slice) -> None:
        if fail and name == names[3]:
            raise KeyError(name)

    if fail:
        with pytest.raises(KeyError):
            per_sample_gradients(module, inputs, sink, strategy=strategy, names=names, shared=shared)
    else:
        per_sample_gradients(module, inputs, sink, strategy=strategy, names=names, shared=shared)
    assert state_of(module) == before


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_the_named_parameters_are_handed_over_even_if_frozen(strategy: str) -> None:
    module, inputs, shared, names = clip_output("plain", 2)
    some = [n for n in names if "resblocks.1" in n]
    module.requires_grad_(False)
    assert_same(collect(module, inputs, some, strategy, shared)[1], reference_gradients(module, inputs, some, shared))


def test_the_choice_is_the_fastest_measured_and_says_why_others_are_not() -> None:
    module, inputs, shared, names = clip_output("plain", 4)
    choice = choose_strategy(module, inputs, names, shared)
    assert choice.seconds[choice.strategy] == min(choice.seconds.values())
    assert set(choice.seconds) | set(choice.uncovered) == set(STRATEGIES)
    assert set(choose_strategy(module, inputs, names, shared, try_vmap=True).seconds) == set(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bad_input_gets_one_clear_message(strategy: str) -> None:
    module, inputs, shared, names = clip_output("plain", 2)
    with pytest.raises(ModelError, match="no_such_weight"):
        collect(module, inputs, [*names, "no_such_weight"], strategy, shared)
    with pytest.raises(UsageError, match="batch size"):
        collect(module, (inputs[0], inputs[1][:1], inputs[2]), names, strategy, shared)
    with pytest.raises(UsageError, match="hooks, single, vmap"):
        collect(module, inputs, names, "magic", shared)
    module.clip.visual.train()
    with pytest.raises(ModelError, match=r"clip\.visual: found training mode"):
        collect(module, inputs, names, strategy, shared)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_output_that_is_not_one_value_per_example_is_refused(strategy: str) -> None:
    layer = nn.Linear(3, 2).eval()
    with pytest.raises(ModelError, match="one value per example"):
        collect(layer, (torch.ones(4, 3),), ["weight"], strategy)
