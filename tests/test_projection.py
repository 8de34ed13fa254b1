"""The projection matrices are what definition.py says, on every path, for any batch and thread count."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.projection import make_projector
from engine.projection.definition import projection_key, rademacher_matrix, sjlt_matrix
from engine.projection.philox import philox
from stores.errors import UsageError
from stores.specs import ProjectionSpec

LAYOUT = (("weight", 613), ("bias", 7), ("embedding", 130))
P = sum(size for _, size in LAYOUT)
MATRIX = {"sjlt": sjlt_matrix, "rademacher": rademacher_matrix}
SPECS = [
    ProjectionSpec("sjlt", 64, 4, 1),
    ProjectionSpec("sjlt", 60, 4, 1),  # T = 15 is no power of two
    ProjectionSpec("sjlt", 48, 1, 1),
    ProjectionSpec("sjlt", 32, 16, 1),
    ProjectionSpec("sjlt", 512, 2, 1),
    ProjectionSpec("rademacher", 64, 4, 1),
    ProjectionSpec("rademacher", 150, 4, 1),
]


def _project(spec: ProjectionSpec, gradients: np.ndarray, checkpoint: int = 0) -> np.ndarray:
    projector = make_projector(spec, LAYOUT, checkpoint)
    out = np.zeros((len(gradients), spec.dim), dtype=np.float32)
    start = 0
    for name, size in LAYOUT:
        projector.accumulate(name, torch.from_numpy(gradients[:, start : start + size].copy()), out)
        start += size
    return out


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    assert philox(np.array(counter), key).tolist() == expected


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_unit_vectors_give_the_rows_of_the_defined_matrix(spec):
    expected = MATRIX[spec.kind](spec, LAYOUT, 3)
    found = _project(spec, np.eye(P, dtype=np.float32), checkpoint=3)
    assert np.array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_projection_equals_the_float64_product(spec):
    gradients = np.random.default_rng(0).standard_normal((5, P)).astype(np.float32)
    expected = gradients.astype(np.float64) @ MATRIX[spec.kind](spec, LAYOUT, 0)
    np.testing.assert_allclose(_project(spec, gradients), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["sjlt", "rademacher"])
def test_every_coordinate_has_unit_length(kind):
    spec = ProjectionSpec(kind, 64, 4, 0)
    np.testing.assert_allclose(np.linalg.norm(MATRIX[kind](spec, LAYOUT, 0), axis=1), 1.0, rtol=1e-12)


def test_sjlt_batch_size_and_threads_change_no_bit():
    spec, gradients = SPECS[0], np.random.default_rng(1).standard_normal((13, P)).astype(np.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = np.concatenate([_project(spec, row[None]) for row in gradients])
        torch.set_num_threads(3)
        together = _project(spec, gradients)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(alone, together)


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
        "import hashlib; from engine.projection.definition import sjlt_matrix as f; "
        "from stores.specs import ProjectionSpec as S; "
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
        (ProjectionSpec("sjlt", 64, 4, 0), "cuda", "CUDA kernel is not part"),
    ],
)
def test_what_cannot_be_projected_is_refused_with_advice(spec, device, words):
    with pytest.raises(UsageError, match=words):
        make_projector(spec, LAYOUT, 0, device=device)
