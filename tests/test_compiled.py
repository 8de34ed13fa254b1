"""Compiled functions work where numba finds no place to keep its machine code."""

import subprocess
import sys
from types import SimpleNamespace

import numba

from traklens.stores.compiled import compiled


def test_a_function_is_compiled_where_nothing_can_be_kept(monkeypatch):
    def refusing(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr("traklens.stores.compiled.numba", SimpleNamespace(njit=refusing))

    @compiled(fastmath=True)
    def twice(x):
        return 2 * x

    assert twice(21) == 42
    assert twice.signatures


def test_a_store_is_read_by_one_who_may_write_nowhere(tiny_store, tmp_path):
    code = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "from traklens.engine.attribution.scores import rank, stored_target\n"
        "from traklens.stores.store import open_store\n"
        f"store = open_store({str(tiny_store)!r})\n"
        "print(len(rank(store, stored_target(store, 3)).proponents))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 0
