"""On a real NVIDIA GPU: the projection against the float64 reference, and a whole build against the CPU's.

Without one these are skipped, and counted; tests/test_cuda_host.py checks the same sources on the processor. What builds a
store is imported where it is used: a borrowed GPU may have torch and CuPy alone.
"""

import importlib.util

import numpy as np
import pytest
import torch

from traklens.engine.features.device import check_device
from traklens.engine.projection import make_projector
from traklens.engine.projection.definition import reference_projection
from traklens.stores.errors import UsageError
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec

HAS_GPU = torch.cuda.is_available() and importlib.util.find_spec("cupy") is not None
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU with CuPy here")]
SPECS = (ProjectionSpec(dim=300, nonzeros=3), ProjectionSpec(dim=2_048), ProjectionSpec("rademacher", 300))
LAYOUT = (("weight", 5_003), ("bias", 7), ("embedding", 40_001))


def _projected(spec: ProjectionSpec, gradients: torch.Tensor) -> torch.Tensor:
    projector = make_projector(spec, LAYOUT, 0, device="cuda")
    out, start = torch.zeros(len(gradients), spec.dim, device="cuda"), 0
    for name, numel in LAYOUT:
        projector.accumulate(name, gradients[:, start : start + numel].contiguous(), out)
        start += numel
    return out


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "spec", [ProjectionSpec(dim=300, nonzeros=3), ProjectionSpec(dim=2_048), ProjectionSpec("rademacher", 300)]
)
@pytest.mark.parametrize("batch", [1, 11, 70])
class TestOnGpu:
    pytestmark = needs_gpu

    def test_projection_equals_the_float64_reference(self, kind, spec, batch):
        generator = torch.Generator().manual_seed(0)
        p = sum(numel for _, numel in LAYOUT)
        gradients = torch.randn(batch, p, generator=generator).to(getattr(torch, kind))
        found = _projected(spec, gradients.cuda()).cpu().double().numpy()
        expected = reference_projection(spec, LAYOUT, 0, gradients.double().numpy())
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()

    def test_two_runs_give_the_same_bits(self, kind, spec, batch):
        p = sum(numel for _, numel in LAYOUT)
        gradients = torch.randn(batch, p).to(getattr(torch, kind)).cuda()
        assert torch.equal(_projected(spec, gradients), _projected(spec, gradients))


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU with CuPy here")
def test_a_store_built_on_the_gpu_ranks_as_one_built_on_the_cpu(tiny_demo, tmp_path):
    from traklens.engine.attribution.scores import rank, stored_target
    from traklens.engine.build.source import Source
    from traklens.engine.build.stages import build_store
    from traklens.stores.store import open_store

    source = Source.open(tiny_demo / "data", run=tiny_demo / "run")
    specs = (ModelOutputSpec(n_reference=32), ProjectionSpec(dim=64), ScoreSpec())
    build_store(source, tmp_path / "gpu", *specs, device="cuda")
    ours, theirs = open_store(tmp_path / "gpu"), open_store(tiny_demo / "store")
    for row in (0, 70):
        a, b = (rank(store, stored_target(store, row), top=20) for store in (ours, theirs))
        assert [pair.id for pair in a.proponents] == [pair.id for pair in b.proponents]
        np.testing.assert_allclose([p.score for p in a.proponents], [p.score for p in b.proponents], rtol=1e-3)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_asking_for_a_gpu_that_is_not_there_is_one_message():
    with pytest.raises(UsageError, match="--device cpu"):
        check_device("cuda")
    with pytest.raises(UsageError, match="cpu or cuda"):
        check_device("tpu")
    check_device("cpu")
