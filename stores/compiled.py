"""`@compiled`: numba's njit, its machine code kept on disk where there is a place for it."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile with `nogil` and these options of `numba.njit`.

    Numba refuses to keep machine code where neither the package's folder nor the user's cache folder can be written to (a
    service account, a read-only image); there it is compiled at every start instead.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(nogil=True, **options)(function)

    return decorate
