"""The projection matrices are what definition.py says, on every path, for any batch and thread count."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from traklens.engine.projection import make_projector
from traklens.engine.projection.definition import (
    projection_key,
    rademacher_matrix,
    reference_projection,
    sjlt_matrix,
    tile_permutation,
)
from traklens.engine.projection.inputs import WORTH_A_THREAD, as_rows
from traklens.stores.errors import UsageError
from traklens.stores.specs import ProjectionSpec

LAYOUT = (("weight", 613), ("bias", 7), ("embedding", 130))
P = sum(size for _, size in LAYOUT)
MATRIX = {"sjlt": sjlt_matrix, "rademacher": rademacher_matrix}
SPECS = [
    ProjectionSpec("sjlt", 64, 4, 1),
    ProjectionSpec("sjlt", 60, 4, 1),  # T = 15 is no power of two
    ProjectionSpec("sjlt", 48, 1, 1),
    ProjectionSpec("sjlt", 40, 8, 1),
    ProjectionSpec("sjlt", 32, 16, 1),
    ProjectionSpec("sjlt", 16, 16, 1),  # T = 1
    ProjectionSpec("sjlt", 512, 2, 1),
    ProjectionSpec("rademacher", 64, 4, 1),
    ProjectionSpec("rademacher", 150, 4, 1),
    ProjectionSpec("rademacher", 1, 4, 1),
]


def _project(spec: ProjectionSpec, gradients: np.ndarray, checkpoint: int = 0) -> np.ndarray:
    projector = make_projector(spec, LAYOUT, checkpoint)
    out = np.zeros((len(gradients), spec.dim), dtype=np.float32)
    start = 0
    for name, size in LAYOUT:
        projector.accumulate(name, torch.from_numpy(gradients[:, start : start + size].copy()), out)
        start += size
    return out


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_unit_vectors_give_the_rows_of_the_defined_matrix(spec):
    expected = MATRIX[spec.kind](spec, LAYOUT, 3)
    found = _project(spec, np.eye(P, dtype=np.float32), checkpoint=3)
    assert np.array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("batch", [1, 9])
def test_tensor_by_tensor_equals_the_flat_float64_product(spec, batch):
    gradients = np.random.default_rng(0).standard_normal((batch, P)).astype(np.float32)
    expected = reference_projection(spec, LAYOUT, 0, gradients)
    error = np.linalg.norm(_project(spec, gradients) - expected) / np.linalg.norm(expected)
    assert error < 1e-6


@pytest.mark.parametrize("size", [1, 2, 12, 15, 64, 97])
def test_a_tile_is_permuted(size):
    for tile in range(50):
        assert sorted(tile_permutation((tile, 7), 0, tile, 0, size)) == list(range(size))


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
def test_every_coordinate_has_unit_length(kind):
    spec = ProjectionSpec(kind, 64, 4, 0)
    np.testing.assert_allclose(np.linalg.norm(MATRIX[kind](spec, LAYOUT, 0), axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
@pytest.mark.parametrize("nonzeros", [2, 4])  # 1/√2 is no power of two: products are rounded
def test_batch_size_and_threads_change_no_bit(kind, nonzeros):
    spec, numel = ProjectionSpec(kind, 300, nonzeros, 1), 8_413
    layout = (("weight", numel),)
    gradients = np.random.default_rng(1).standard_normal((37, numel)).astype(np.float32)
    assert gradients.size > WORTH_A_THREAD

    def project(rows: int, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        projector = make_projector(spec, layout, 0)
        out = np.ones((len(gradients), spec.dim), dtype=np.float32)  # not zero: there may be earlier contributions
        for start in range(0, len(gradients), rows):
            part = slice(start, start + rows)
            projector.accumulate("weight", gradients[part], out[part])
        return out

    before = torch.get_num_threads()
    try:
        expected = project(1, 1)
        for rows, threads in ((5, 1), (37, 1), (37, 2), (37, 3), (16, 7)):
            assert np.array_equal(project(rows, threads), expected), (rows, threads)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
def test_other_types_and_strides_give_the_same_as_contiguous_float32(kind):
    spec = ProjectionSpec(kind, 64, 4, 1)
    gradients = np.random.default_rng(4).standard_normal((3, 130)).astype(np.float32)
    projector = make_projector(spec, LAYOUT, 0)
    expected = np.zeros((3, 64), np.float32)
    projector.accumulate("embedding", gradients, expected)
    turned = torch.from_numpy(np.ascontiguousarray(gradients.T)).T
    readonly = gradients.copy()
    readonly.flags.writeable = False
    for same in (torch.from_numpy(gradients), gradients.astype(np.float64), turned, turned.double(), readonly):
        out = np.zeros((3, 64), np.float32)
        projector.accumulate("embedding", same, out)
        assert np.array_equal(out, expected)


def test_the_gradients_are_read_in_place_and_left_as_they_are():
    gradients = torch.randn(3, 130, generator=torch.Generator().manual_seed(0))
    rows = as_rows(gradients, "embedding", 130, np.zeros((3, 8), np.float32), 8)
    assert rows.ctypes.data == gradients.data_ptr()


def test_contributions_of_several_calls_add_up():
    spec, gradients = SPECS[0], np.random.default_rng(2).standard_normal((2, 613)).astype(np.float32)
    projector = make_projector(spec, LAYOUT, 0)
    twice, once = np.zeros((2, 64), np.float32), np.zeros((2, 64), np.float32)
    projector.accumulate("weight", gradients, twice)
    projector.accumulate("weight", gradients, twice)
    projector.accumulate("weight", 2 * gradients, once)
    np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
def test_inner_products_are_kept_with_error_of_order_one_over_root_k(kind):
    spec, layout = ProjectionSpec(kind, 1024, 4, 0), (("weight", 20_000),)
    x = np.random.default_rng(3).standard_normal((40, 20_000)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    projector, out = make_projector(spec, layout, 0), np.zeros((40, 1024), np.float32)
    projector.accumulate("weight", x, out)
    error = (out @ out.T - x @ x.T)[~np.eye(40, dtype=bool)]
    assert 0.8 < error.std() * np.sqrt(1024) < 1.2
    assert abs(error.mean()) * np.sqrt(1024) < 0.1


def test_checkpoint_seed_and_layout_each_change_the_matrix():
    spec = ProjectionSpec("sjlt", 64, 4, 0)
    keys = {
        projection_key(spec, LAYOUT, 0),
        projection_key(spec, LAYOUT, 1),
        projection_key(ProjectionSpec("sjlt", 64, 4, 1), LAYOUT, 0),
        projection_key(spec, LAYOUT[::-1], 0),
        projection_key(ProjectionSpec("rademacher", 64, 4, 0), LAYOUT, 0),
    }
    assert len(keys) == 5


GOLDEN = {
    "sjlt": "4cf83dcc5ffd4edc",
    "rademacher": "2074693b420ed714",
}


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
def test_the_definition_never_drifts(kind):
    signs = np.sign(MATRIX[kind](ProjectionSpec(kind, 64, 4, 0), LAYOUT, 0)).astype(np.int8)
    assert hashlib.sha256(signs.tobytes()).hexdigest()[:16] == GOLDEN[kind]


def test_a_fresh_process_makes_the_same_matrix():
    code = (
        "import hashlib; from traklens.engine.projection.definition import sjlt_matrix as f; "
        "from traklens.stores.specs import ProjectionSpec as S; "
        f"print(hashlib.sha256(f(S('sjlt', 64, 4, 0), {LAYOUT!r}, 0).tobytes()).hexdigest())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    matrix = sjlt_matrix(ProjectionSpec("sjlt", 64, 4, 0), LAYOUT, 0)
    assert found == hashlib.sha256(matrix.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("spec", "device", "words"),
    [
        (ProjectionSpec("sjlt", 66, 4, 0), "cpu", "Try 64 or 68"),
        (ProjectionSpec("gaussian", 64, 4, 0), "cpu", "sjlt or rademacher"),
        (ProjectionSpec("sjlt", 3, 4, 0), "cpu", "Try 4 or 8"),
        (ProjectionSpec("sjlt", 64, 0, 0), "cpu", "at least 1"),
        (ProjectionSpec("rademacher", 0, 4, 0), "cpu", "1 or more"),
        (ProjectionSpec("sjlt", 64, 4, 0, version=2), "cpu", "found 2; expected 1"),
        (ProjectionSpec("sjlt", 64, 4, 0), "tpu", "cpu or cuda"),
    ],
)
def test_what_cannot_be_projected_is_refused_with_advice(spec, device, words):
    with pytest.raises(UsageError, match=words):
        make_projector(spec, LAYOUT, 0, device=device)


@pytest.mark.parametrize("layout", [(("a", 3), ("a", 4)), (("a", 0),), (("a", 2**32),)])
def test_a_layout_that_cannot_be_counted_is_refused(layout):
    with pytest.raises(UsageError, match="parameter a"):
        make_projector(ProjectionSpec("sjlt", 64, 4, 0), layout, 0)


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
@pytest.mark.parametrize(
    ("gradients", "out"),
    [
        (np.zeros((2, 8), np.float32), np.zeros((2, 64), np.float32)),  # bias has 7
        (np.zeros(7, np.float32), np.zeros((1, 64), np.float32)),
        (np.zeros((2, 7), np.float32), np.zeros((3, 64), np.float32)),
        (np.zeros((2, 7), np.float32), np.zeros((2, 63), np.float32)),
        (np.zeros((2, 7), np.float32), np.zeros((2, 64), np.float64)),
        (np.zeros((2, 7), np.float32), np.zeros((64, 2), np.float32).T),
        (torch.zeros((2, 7), device="meta"), np.zeros((2, 64), np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_a_kernel_sees_them(kind, gradients, out):
    with pytest.raises(UsageError):
        make_projector(ProjectionSpec(kind, 64, 4, 0), LAYOUT, 0).accumulate("bias", gradients, out)


def test_rows_of_sixteen_are_added_and_turned_as_by_numpy():
    import numba

    from traklens.engine.projection.rows import WIDTH, add_scaled_row, turn_block

    @numba.njit
    def run(target, i, values, j, factor, turned, at, matrix, b, column):
        add_scaled_row(target, i, values, j, factor)  # pyright: ignore[reportCallIssue]
        turn_block(turned, at, matrix, b, column)  # pyright: ignore[reportCallIssue]

    rng = np.random.default_rng(0)
    target, values = (rng.normal(size=(5, WIDTH)).astype(np.float32) for _ in range(2))
    matrix = rng.normal(size=(20, 41)).astype(np.float32)[:, :40]  # rows are not adjacent
    turned, expected = np.zeros((30, WIDTH), dtype=np.float32), target.copy()
    expected[3] += np.float32(-0.3) * values[1]
    run(target, 3, values, 1, np.float32(-0.3), turned, 7, matrix, 2, 11)
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(turned[7:23], matrix[2:18, 11:27].T)
    assert not turned[:7].any()
    assert not turned[23:].any()
