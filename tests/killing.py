"""End a process before its n-th file operation, as a power cut or `kill -9` would."""

import os
from collections.abc import Callable

OPERATIONS = ("rename", "replace", "mkdir", "unlink", "remove", "rmdir", "link", "symlink")
KILLED = 99


def killed_before(n: int, act: Callable[[], object]) -> bool:
    """Run `act` in a child that ends, without a word, before its n-th file operation; whether it came to that."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            end_before(n)
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the child failed (operation {n})"
    return code == KILLED


def end_before(n: int) -> None:
    """From now on this process ends before its n-th file operation (counted from 1)."""
    left = n

    def counted(operation):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(KILLED)
            return operation(*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
