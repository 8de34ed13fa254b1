"""f and Q are what the formulas say: small cases by hand, finite differences, no dependence on the batch."""

import math

import numpy as np
import pytest
import torch

from traklens.engine.tasks.classifier import class_margin
from traklens.engine.tasks.clip import ClipTask, Margins, draw_references, key_of, margins
from traklens.stores.errors import UsageError
from traklens.stores.examples import Example


def _unit(rows):
    x = torch.tensor(rows, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def test_margin_of_a_case_computed_by_hand():
    u, v = _unit([[1.0, 0.0]]), _unit([[1.0, 0.0]])
    reference_u, reference_v = _unit([[0.0, 1.0], [-1.0, 0.0]]), _unit([[0.0, 1.0], [0.0, -1.0]])
    found = margins(u, v, torch.ones(1, 2, dtype=torch.bool), reference_u, reference_v, torch.tensor(2.0))
    # uᵀv = 1; uᵀV = 0, 0; vᵀU = 0, −1; s = 2
    assert found.image_to_text.item() == pytest.approx(-math.log(2 * math.exp(-2)))
    assert found.text_to_image.item() == pytest.approx(-math.log(math.exp(-2) + math.exp(-4)))
    p = math.exp(2) / (math.exp(2) + 2), math.exp(2) / (math.exp(2) + 1 + math.exp(-2))
    assert found.p()[0].tolist() == pytest.approx(p)
    assert found.q().item() == pytest.approx(1 - sum(p) / 2)


def test_masked_references_do_not_count():
    generator = torch.Generator().manual_seed(0)
    u, v, U, V = (torch.nn.functional.normalize(torch.randn(4, 5, generator=generator), dim=1) for _ in range(4))
    keep = torch.tensor([[True, False, True, True]] * 4)
    masked = margins(u, v, keep, U, V, torch.tensor(3.0)).f()
    left_out = margins(u, v, keep[:, [0, 2, 3]], U[[0, 2, 3]], V[[0, 2, 3]], torch.tensor(3.0)).f()
    torch.testing.assert_close(masked, left_out)


def test_output_to_loss_is_the_derivative_of_the_loss_by_f():
    # loss of one direction = −log p with p = σ(f): dloss/df = −(1 − p), by finite differences
    f = torch.tensor([-2.0, 0.3, 4.0], dtype=torch.float64)
    step = 1e-6
    above, below = (-torch.nn.functional.logsigmoid(x) for x in (f + step, f - step))
    slope = (above - below) / (2 * step)
    q = Margins(f, f).q()
    torch.testing.assert_close(-slope, q, rtol=1e-6, atol=1e-8)


def test_f_of_a_pair_does_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(1)
    u, v, U, V = (torch.nn.functional.normalize(torch.randn(6, 5, generator=generator), dim=1) for _ in range(4))
    keep = torch.ones(6, 6, dtype=torch.bool)
    together = margins(u, v, keep, U, V, torch.tensor(10.0)).f()
    alone = torch.cat([margins(u[i : i + 1], v[i : i + 1], keep[:1], U, V, torch.tensor(10.0)).f() for i in range(6)])
    torch.testing.assert_close(together, alone)
    assert (margins(u[:1], v[:1], keep[:1], U, V, torch.tensor(10.0)).q() > 0).all()


def test_references_are_drawn_without_replacement_and_uniformly():
    counts = np.zeros(20)
    for checkpoint in range(2000):
        rows = draw_references(20, 5, 7, checkpoint)
        assert len(set(rows.tolist())) == 5
        counts[rows] += 1
    deviation = np.sqrt(2000 * 0.25 * 0.75)  # of the binomial distribution each count has
    assert np.abs(counts - counts.mean()).max() < 5 * deviation
    assert np.array_equal(draw_references(20, 5, 7, 3), draw_references(20, 5, 7, 3))


def _keys(*texts: str) -> torch.Tensor:
    return torch.tensor([key_of(text) for text in texts])


def test_references_with_the_same_caption_or_image_are_left_out():
    generator = torch.Generator().manual_seed(2)
    u, v, U, V = (torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (2, 2, 3, 3))
    task, model = ClipTask(), torch.nn.Module()
    model.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
    batch = {"caption": _keys("a", "b"), "image": _keys("1", "2")}
    context = {
        "caption": _keys("a", "c", "c"),
        "image": _keys("9", "2", "3"),
        "image_embedding": U,
        "text_embedding": V,
    }
    found = task.measure(model, batch, context, {"image_embedding": u, "text_embedding": v})
    keep = torch.tensor([[False, True, True], [True, False, True]])
    expected = margins(u, v, keep, U, V, model.logit_scale.exp())
    torch.testing.assert_close(found["f"], expected.f())
    torch.testing.assert_close(found["q"], expected.q())


def test_a_target_without_any_reference_is_named():
    context = {"caption": _keys("a frog", "a frog"), "image": _keys("2", "3")}
    frog = Example("x", "1", {"image": "1.png", "caption": "a frog"}, None, {})
    with pytest.raises(UsageError, match="a frog"):
        ClipTask().check([frog], context)


def test_the_class_margin_is_the_log_odds_of_the_labelled_class():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 5), torch.arange(7) % 5
    p = torch.softmax(logits, dim=1)[torch.arange(7), labels]
    torch.testing.assert_close(class_margin(logits, labels), torch.log(p / (1 - p)), rtol=1e-4, atol=1e-5)


def test_q_of_a_pair_that_is_matched_beyond_doubt_is_small_and_not_zero():
    f = torch.tensor([17.0, 40.0, 80.0])
    torch.testing.assert_close(Margins(f, f).q(), torch.exp(-f), rtol=1e-5, atol=0)
