"""One lock for everything that writes a store or a run: the system releases it when its process dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from traklens.stores.errors import StoreError

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def lock_path(folder: Path) -> Path:
    """The lock stands beside what it protects, so that it outlives whatever is removed or renamed there."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def writing(folder: Path, what: str, *, shared: bool = False) -> Iterator[None]:
    """Hold `folder` for writing while the block runs; `what` names it in the message ("store", "run").

    Several `shared` holders go together (retrainings of one store), an exclusive one (a build) stands alone. Where
    nobody may write beside the folder no build can begin there, and a shared holder needs no lock.
    Raises StoreError at once when another process holds it otherwise.
    """
    path = lock_path(folder.absolute())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _take(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError as error:
        if not shared or error.errno not in READ_ONLY:
            raise
        yield
        return
    if handle is None:
        raise StoreError(
            f"{what} {folder}",
            "another process writing it" if shared else "another process writing it, or retraining its models",
            "one at a time",
            "Wait for it or stop it, then repeat the command.",
        )
    try:
        yield
    finally:
        _give_back(path, handle)


def _take(path: Path, kind: int) -> int | None:
    """A descriptor that holds the lock on the file that is at `path` now; None when somebody else has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:  # its last holder removed it between the two calls
            pass
        os.close(handle)


def _give_back(path: Path, handle: int) -> None:
    """Remove the file if nobody else holds it, then let go: whoever waits on the removed one looks again."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        os.close(handle)
