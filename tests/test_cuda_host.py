"""The CUDA sources on the processor: generator bit for bit, kernels against the float64 reference, PTX for real GPUs.

tests/host_cuda.h plays the GPU. Speed and the GPU's own arithmetic are for tests marked `gpu`.
"""

import ctypes
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from traklens.engine.projection import gpu
from traklens.engine.projection.definition import projection_key, reference_projection, tile_permutation, tile_signs
from traklens.engine.projection.gpu import GpuProjector, kernel_names
from traklens.engine.projection.launch import KINDS, SHARED_WORDS, rademacher_launch, sjlt_launch
from traklens.engine.projection.philox import philox
from traklens.stores.errors import UsageError
from traklens.stores.specs import ProjectionSpec

pytestmark = pytest.mark.compiler
ROOT = Path(__file__).parent.parent
KEY = (0x12345678, 0x9ABCDEF0)
LAUNCHED = [
    *(ProjectionSpec(dim=dim) for dim in (512, 4_096, 8_192, 16_384, 20_000)),
    ProjectionSpec("rademacher", 300),
]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine: the CUDA sources are checked where there is one")
    library = tmp_path_factory.mktemp("host") / "projection.so"
    subprocess.run(
        [compiler, "-O1", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
         "-I", ROOT / "cuda", "-I", ROOT / "tests", "-o", library, ROOT / "tests/host_projection.cpp"],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(library))


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_the_header_gives_the_words_of_the_reference(host):
    rng = np.random.default_rng(0)
    counters = np.vstack([rng.integers(0, 2**32, size=(500, 4)), np.zeros((1, 4)), np.full((1, 4), 2**32 - 1)])
    counters = counters.astype(np.uint32)
    for key in (KEY, (0, 0), (2**32 - 1, 2**32 - 1)):
        found = np.empty_like(counters)
        for i, counter in enumerate(counters):
            host.host_philox(_pointer(counter), *map(ctypes.c_uint32, key), _pointer(found[i]))
        np.testing.assert_array_equal(found, philox(counters, key))


@pytest.mark.parametrize("size", [1, 3, 12, 64, 100, 512, 4096, 5000])
def test_places_and_signs_of_sjlt_are_those_of_the_reference(host, size):
    place, sign = np.empty(size, dtype=np.int64), np.empty(size)
    for tile, tensor, block in ((0, 0, 0), (1, 2, 3), (70_000, 301, 15), (2**32 - 1, 5, 1)):
        host.host_sjlt_tile(
            *(ctypes.c_uint32(v) for v in (tile, tensor, block, size, *KEY)), _pointer(place), _pointer(sign)
        )
        np.testing.assert_array_equal(place, tile_permutation(KEY, tensor, tile, block, size))
        np.testing.assert_array_equal(sign, tile_signs(KEY, tensor, tile, block, size))


def test_signs_of_rademacher_are_those_of_the_reference(host):
    from traklens.engine.projection.definition import rademacher_matrix

    spec, layout = ProjectionSpec(kind="rademacher", dim=300), (("a", 5), ("b", 4))
    expected, key = rademacher_matrix(spec, layout, 1), projection_key(spec, layout, 1)
    found, sign = [], np.empty(300)
    for tensor, (_, numel) in enumerate(layout):
        for i in range(numel):
            host.host_rademacher_row(*(ctypes.c_uint32(v) for v in (i, tensor, 300, *key)), _pointer(sign))
            found.append(sign / np.sqrt(300))
    np.testing.assert_array_equal(np.stack(found), expected)


def _gradients(kind: str, batch: int, numel: int) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed gradients as the bits of `kind`, and their values in float64."""
    values = torch.from_numpy(np.random.default_rng(1).standard_t(3, size=(batch, numel))).to(getattr(torch, kind))
    bits = values if kind == "float32" else values.view(torch.int16)
    return np.ascontiguousarray(bits.numpy()), values.double().numpy()


def _check(found: np.ndarray, expected: np.ndarray, before: float) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - before - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("kind", "batch", "numel", "dim", "nonzeros"),
    [
        ("float32", 1, 1, 4, 4),
        ("float32", 3, 1_000, 64, 4),
        ("float32", 11, 5_003, 300, 3),  # nothing is a power of two, two blocks of samples
        ("bfloat16", 11, 5_003, 300, 3),
        ("float16", 5, 3_001, 128, 8),
        ("bfloat16", 9, 9_999, 1_024, 1),  # a tile that does not fit in registers ahead
        ("float32", 2, 40_000, 512, 4),  # several parts
        ("float32", 9, 3_000, 4_096, 4),
        ("float32", 5, 3_000, 8_192, 4),
        ("float32", 3, 9_000, 16_384, 4),
        ("bfloat16", 3, 20_000, 20_000, 4),  # two blocks of outputs
    ],
)
def test_the_sparse_kernel_projects_as_the_reference(host, kind, batch, numel, dim, nonzeros):
    spec, layout = ProjectionSpec(dim=dim, nonzeros=nonzeros), (("first", 7), ("g", numel))
    bits, values = _gradients(kind, batch, numel)
    size, key = dim // nonzeros, projection_key(spec, layout, 0)
    plan = sjlt_launch(kind, batch, numel, size, nonzeros)
    partial = np.full((plan.parts, batch, dim), np.nan, dtype=np.float32)
    number = [KINDS[kind], *plan.template[1:], *plan.grid]
    missing = host.host_sjlt(
        *map(ctypes.c_uint32, number), _pointer(bits), _pointer(partial), ctypes.c_uint64(numel),
        *map(ctypes.c_uint32, (batch, size, nonzeros, 1, plan.per_part, *key)),
    )  # fmt: skip
    assert not missing, "tests/host_projection.cpp lacks this template"
    out = np.full((batch, dim), 2.0, dtype=np.float32)
    host.host_add_parts(
        _pointer(partial), _pointer(out), ctypes.c_uint64(out.size), ctypes.c_uint32(plan.parts),
        ctypes.c_float(nonzeros**-0.5),
    )  # fmt: skip
    expected = _reference(spec, layout, values)
    _check(out, expected, 2.0)


def _reference(spec: ProjectionSpec, layout, values: np.ndarray) -> np.ndarray:
    """Pᵀg of the second tensor in float64, by the tables of the definition; P is not built whole."""
    if spec.kind == "rademacher":
        flat = np.concatenate([np.zeros((len(values), layout[0][1])), values], axis=1)
        return reference_projection(spec, layout, 0, flat)
    size, key = spec.dim // spec.nonzeros, projection_key(spec, layout, 0)
    tiles = -(-values.shape[1] // size)
    padded = np.pad(values, ((0, 0), (0, tiles * size - values.shape[1])))
    out = np.zeros((len(values), spec.dim))
    for tile in range(tiles):
        for block in range(spec.nonzeros):
            place, sign = tile_permutation(key, 1, tile, block, size), tile_signs(key, 1, tile, block, size)
            out[:, block * size : (block + 1) * size] += sign * padded[:, tile * size + place]
    return out / np.sqrt(spec.nonzeros)


@pytest.mark.parametrize(
    ("kind", "batch", "numel", "dim"),
    [
        ("float32", 3, 200, 40),
        ("float32", 70, 131, 130),  # two blocks of samples
        ("bfloat16", 17, 333, 600),  # two blocks of columns
        ("float16", 5, 65, 512),
        ("bfloat16", 2, 8_300, 16),  # two parts
    ],
)
def test_the_dense_kernel_projects_as_the_reference(host, kind, batch, numel, dim):
    spec, layout = ProjectionSpec(kind="rademacher", dim=dim), (("first", 7), ("g", numel))
    bits, values = _gradients(kind, batch, numel)
    key, plan = projection_key(spec, layout, 0), rademacher_launch(kind, batch, numel, dim)
    partial = np.full((plan.parts, batch, dim), np.nan, dtype=np.float32)
    host.host_rademacher(
        *map(ctypes.c_uint32, (KINDS[kind], *plan.grid)), _pointer(bits), _pointer(partial), ctypes.c_uint64(numel),
        *map(ctypes.c_uint32, (batch, dim, 1)), ctypes.c_uint64(plan.per_part), *map(ctypes.c_uint32, key),
    )  # fmt: skip
    out = np.full((batch, dim), 2.0, dtype=np.float32)
    host.host_add_parts(
        _pointer(partial), _pointer(out), ctypes.c_uint64(out.size), ctypes.c_uint32(plan.parts),
        ctypes.c_float(dim**-0.5),
    )  # fmt: skip
    _check(out, _reference(spec, layout, values), 2.0)


@pytest.mark.parametrize("spec", LAUNCHED)
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_launched_exists_and_takes_these_arguments(spec, kind):
    projector = GpuProjector(spec, (("g", 100_000),), 0)
    name, plan, arguments = projector._plan(kind, 16, 100_000, 0)
    assert name in kernel_names()
    assert plan.shared_bytes <= 4 * SHARED_WORDS
    assert plan.threads <= 1_024
    function = name.removeprefix("traklens::").split("<")[0]
    source = (ROOT / "cuda/projection.cu").read_text()
    signature = re.search(rf"^{function}\((.*?)\) \{{", source, re.MULTILINE | re.DOTALL)
    assert signature
    types = [parameter.split()[0] for parameter in signature[1].split(",")][2:]  # after the two arrays
    assert types == [{np.uint32: "u32", np.uint64: "u64"}[type(argument)] for argument in arguments]


class _Kernel:
    """A kernel on the processor, called as CuPy's are."""

    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        function, _, template = name.removeprefix("traklens::").rstrip(">").partition("<")
        self.run = getattr(library, f"host_{function}")
        self.template = [int(number) for number in template.split(", ")] if template else None

    def __call__(self, grid, block, arguments, *, shared_mem: int) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        types = {np.uint64: ctypes.c_uint64, np.uint32: ctypes.c_uint32, np.float32: ctypes.c_float}
        shape = [] if self.template is None else [*self.template, *grid]
        missing = self.run(*map(ctypes.c_uint32, shape), *(types[type(value)](value) for value in arguments))
        assert not (shape and missing), "tests/host_projection.cpp lacks this template"


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    "spec", [ProjectionSpec(dim=60), ProjectionSpec(dim=16_384), ProjectionSpec("rademacher", 40)]
)
def test_the_projector_hands_every_kernel_what_it_takes(host, monkeypatch, spec, kind):
    """All of gpu.py but CuPy and torch's CUDA, which are played: addresses, order of arguments, shared memory."""
    cuda = SimpleNamespace(
        Device=lambda number: nullcontext(),
        ExternalStream=lambda pointer, device: nullcontext(),
        driver=SimpleNamespace(CUDADriverError=OSError),
        runtime=SimpleNamespace(CUDARuntimeError=OSError),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(gpu, "_kernel", lambda device, name: _Kernel(host, name))
    monkeypatch.setattr(gpu, "_check", lambda *arguments: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    layout = (("first", 7), ("g", 701))
    values = torch.from_numpy(_gradients(kind, 708, 3)[1]).to(getattr(torch, kind)).T[:, 7:]  # not contiguous
    out = torch.full((3, spec.dim), 2.0)
    gpu.GpuProjector(spec, layout, 0).accumulate("g", values, out)
    _check(out.numpy(), _reference(spec, layout, values.double().numpy()), 2.0)


def test_parts_depend_on_the_tensor_alone():
    for numel in (1, 1_000, 2_400_000, 25_000_000):
        plans = [sjlt_launch(kind, batch, numel, 512, 4) for kind in KINDS for batch in (1, 16, 64)]
        assert len({(plan.parts, plan.per_part) for plan in plans}) == 1
        assert plans[0].parts <= 128


def test_a_tile_that_does_not_fit_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match="Raise the nonzeros"):
        sjlt_launch("float32", 1, 100, 65_536, 1)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_compiles_for_real_gpus_without_spilling(architecture):
    nvrtc = pytest.importorskip(
        "cuda.bindings.nvrtc", reason="NVRTC comes with torch's CUDA build; not installed here"
    )
    from traklens.engine.projection.launch import SJLT_SHAPES

    names = [f"traklens::sjlt<{kind}, {t}, {o}, {r}>" for kind in KINDS.values() for _, t, o, r in SJLT_SHAPES]
    names += [f"traklens::rademacher<{kind}>" for kind in KINDS.values()] + ["traklens::add_parts"]
    source = (ROOT / "cuda/projection.cu").read_bytes()
    headers = [(ROOT / "cuda" / name).read_bytes() for name in ("philox.cuh", "device.cuh")]
    _, program = nvrtc.nvrtcCreateProgram(source, b"projection.cu", 2, headers, [b"philox.cuh", b"device.cuh"])
    for name in names:
        nvrtc.nvrtcAddNameExpression(program, name.encode())
    options = [
        b"-std=c++17",
        f"-arch={architecture}".encode(),
        b"--ptxas-options=-v",
    ]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    for name in names:
        status, lowered = nvrtc.nvrtcGetLoweredName(program, name.encode())
        assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, name
        assert lowered
    spilled = [int(found) for found in re.findall(r"(\d+) bytes spill stores", log.decode())]
    assert len(spilled) == len(names)
    assert not any(spilled), log.decode()
