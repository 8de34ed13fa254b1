"""Rows of embedding tables are projected as whole tables, and weights are spread back by the same matrices."""

import numpy as np
import pytest
import torch
from test_projection import LAYOUT, MATRIX, SPECS

from traklens.engine.projection import Spreads, TakesRows, make_projector
from traklens.engine.projection.inputs import WORTH_A_THREAD
from traklens.stores.errors import UsageError
from traklens.stores.specs import ProjectionSpec


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_weights_are_spread_by_the_defined_matrix(spec):
    weights = np.random.default_rng(0).normal(size=spec.dim)
    projector = make_projector(spec, LAYOUT, 3)
    assert isinstance(projector, Spreads)
    found = np.concatenate([projector.spread(name, weights) for name, _ in LAYOUT])
    np.testing.assert_allclose(found, MATRIX[spec.kind](spec, LAYOUT, 3) @ weights, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="one number for each output"):
        projector.spread("bias", weights[1:])


def _table_rows(spec, layout=LAYOUT, samples=9, length=6, width=13):
    """A projector, rows of the table "embedding" (some twice, some padding) with their ids, and them as whole gradients."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 10, (samples, length))
    ids[:, -1] = ids[:, 0]
    rows = rng.normal(size=(samples, length, width)).astype(np.float32)
    rows[:, 2] = 0
    whole = np.zeros((samples, 10, width), dtype=np.float32)
    for b in range(samples):
        np.add.at(whole[b], ids[b], rows[b])
    projector = make_projector(spec, layout, 0)
    return projector, torch.from_numpy(rows), torch.from_numpy(ids), whole.reshape(samples, -1)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.kind == "sjlt"], ids=str)
def test_rows_of_a_table_are_projected_as_the_whole_table(spec):
    projector, rows, ids, whole = _table_rows(spec)
    assert isinstance(projector, TakesRows)
    found, expected = (np.ones((len(whole), spec.dim), dtype=np.float32) for _ in range(2))
    projector.accumulate_rows("embedding", rows, ids, found)
    projector.accumulate("embedding", whole, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_batch_size_and_threads_change_no_bit_of_projected_rows():
    width, samples = 64, 40
    layout = (("embedding", 10 * width),)
    projector, rows, ids, _ = _table_rows(ProjectionSpec("sjlt", 64, 4, 1), layout, samples, 120, width)
    assert isinstance(projector, TakesRows)
    assert rows.numel() > WORTH_A_THREAD
    found = {}
    before = torch.get_num_threads()
    for threads, step in ((1, samples), (3, samples), (2, 7)):
        torch.set_num_threads(threads)
        out = np.zeros((samples, 64), dtype=np.float32)
        for start in range(0, samples, step):
            part = slice(start, start + step)
            projector.accumulate_rows("embedding", rows[part], ids[part], out[part])
        found[threads] = out
    torch.set_num_threads(before)
    assert np.array_equal(found[1], found[3])
    assert np.array_equal(found[1], found[2])


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        (torch.zeros(2, 3, 13), torch.full((2, 3), 10)),  # the table has 10 rows
        (torch.zeros(2, 3, 13), torch.full((2, 3), -1)),
        (torch.zeros(2, 3, 12), torch.zeros(2, 3, dtype=torch.int64)),
        (torch.zeros(2, 3, 13), torch.zeros(2, 4, dtype=torch.int64)),
        (torch.zeros(2, 39), torch.zeros(2, 39, dtype=torch.int64)),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_a_kernel_sees_them(rows, ids):
    projector = make_projector(ProjectionSpec("sjlt", 64, 4, 0), LAYOUT, 0)
    assert isinstance(projector, TakesRows)
    with pytest.raises(UsageError, match="ids of its rows"):
        projector.accumulate_rows("embedding", rows, ids, np.zeros((2, 64), dtype=np.float32))
