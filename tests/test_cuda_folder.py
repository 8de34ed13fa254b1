"""cuda/ is no Python package, nothing hides NVIDIA's `cuda`, and its README specifies the matrices we have."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from traklens.engine.projection.definition import Layout, projection_key, rademacher_matrix, sjlt_matrix
from traklens.engine.projection.philox import philox
from traklens.stores.specs import ProjectionSpec

ROOT = Path(__file__).resolve().parent.parent
LAYOUT: Layout = (("weight", 613), ("bias", 7), ("embedding", 130))
MATRIX = {"sjlt": sjlt_matrix, "rademacher": rademacher_matrix}


def _rows(pattern: str) -> list[tuple[str, ...]]:
    """Groups of every line of cuda/README.md that the pattern matches as a whole."""
    text = (ROOT / "cuda" / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^\| {pattern} \|$", text, flags=re.MULTILINE)


def _hides_cuda(root: Path) -> list[Path]:
    """Files that would make `import cuda` find us instead of NVIDIA's package."""
    found = list((root / "cuda").rglob("*.py*"))
    for folder in (".", "app", "engine", "stores", "tests", "benchmarks"):
        found += [path for name in ("cuda.py", "cuda/__init__.py") if (path := root / folder / name).exists()]
    return found


def test_nothing_hides_the_cuda_package():
    assert _hides_cuda(ROOT) == []
    assert not (ROOT / "app" / "cuda").exists()
    assert not (ROOT / "tests" / "cuda").exists()


@pytest.mark.parametrize("name", ["cuda/__init__.py", "cuda/build.py", "app/cuda.py", "tests/cuda/__init__.py"])
def test_the_check_above_can_fail(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert _hides_cuda(tmp_path)


def test_the_specified_json_gives_the_specified_key():
    text = next(
        line.strip() for line in (ROOT / "cuda/README.md").read_text().splitlines() if '{"checkpoint"' in line
    )
    assert json.loads(text)["layout"] == [list(entry) for entry in LAYOUT]
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], "<u4").tolist()
    assert words == list(projection_key(ProjectionSpec("sjlt", 64, 4, 0), LAYOUT, 0))


def test_the_specified_matrices_are_the_defined_ones():
    rows = _rows(r"(\w+) (\d+)[^|]* \| (\w{8}) (\w{8}) \| (\w{64})")
    assert len(rows) == 4
    for kind, dim, k0, k1, digest in rows:
        spec = ProjectionSpec(kind, int(dim), 4, 0)
        assert projection_key(spec, LAYOUT, 0) == (int(k0, 16), int(k1, 16))
        signs = np.sign(MATRIX[kind](spec, LAYOUT, 0)).astype(np.int8)
        assert hashlib.sha256(signs.tobytes()).hexdigest() == digest


def test_the_specified_projections_of_the_ramp_are_the_defined_ones():
    rows = _rows(r"(\w+) (\d+) \| ((?:[−]?\d\.\d{6} ?){4})")
    assert len(rows) == 4
    for kind, dim, numbers in rows:
        expected = [float(number.replace("−", "-")) for number in numbers.split()]
        found = np.arange(1, 751) / 750 @ MATRIX[kind](ProjectionSpec(kind, int(dim), 4, 0), LAYOUT, 0)
        np.testing.assert_allclose(found[:4], expected, atol=6e-7)


def test_the_specified_words_are_the_defined_ones():
    rows = _rows(r"(\w+) (\d+) \| \((\d+), (\d+), (\d+), (\d+)\) \| ((?:\w{8} ?)+)[ …]*\| [^|]*")
    assert len(rows) == 5
    for kind, dim, *counter, words in rows:
        key = projection_key(ProjectionSpec(kind, int(dim), 4, 0), LAYOUT, 0)
        found = [f"{word:08x}" for word in philox(np.array([int(c) for c in counter]), key)]
        assert found[: len(words.split())] == words.split()
