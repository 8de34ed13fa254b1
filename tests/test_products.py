"""Float16 rows are widened exactly, on any processor."""

import os
import subprocess
import sys

import numpy as np

from traklens.stores.inner_products import products

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_every_finite_float16_is_widened_exactly():
    finite = EVERY[np.isfinite(EVERY)]
    found = products(finite[:, None].copy(), np.ones(1, dtype=np.float32))
    np.testing.assert_array_equal(found, finite.astype(np.float32))


def test_compiled_for_the_plainest_processor_it_gives_the_same():
    """A name without any feature: what LLVM would call from a library must not be needed."""
    code = (
        "import numpy as np; from traklens.stores.inner_products import products\n"
        "codes = (np.arange(64, dtype=np.float32) / 7 - 4).astype(np.float16).reshape(4, 16)\n"
        "expected = codes.astype(np.float64).sum(axis=1)\n"
        "np.testing.assert_allclose(products(codes, np.ones(16, dtype=np.float32)), expected, atol=1e-4)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"NUMBA_CPU_NAME": "generic"}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
