"""Bytes of a finished store are compared with its checksums when they are first read: a wrong answer is worse than none.

Small files are compared whole (sha256), large ones by the blocks that are read (crc32c), each once in a process.
Stores of version 0.1 list no blocks: their large files are checked by size and by `info --verify` alone.
"""

import hashlib
from functools import cached_property
from pathlib import Path

import google_crc32c
import numpy as np

from traklens.stores.checksums import BLOCK, digest, read_checksums
from traklens.stores.errors import StoreError

SMALL = 64 << 20  # bytes; a file of this size takes about 40 ms


class VerifiedFiles:
    """What was verified of one store in this process. Names are relative to the store, POSIX."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._whole: set[str] = set()
        self._blocks: dict[str, np.ndarray] = {}

    @cached_property
    def facts(self) -> dict[str, dict]:
        return read_checksums(self.store)

    def content(self, name: str, content: bytes) -> None:
        """Compare a whole file that was just read. StoreError when its bytes are not those that were written."""
        if name in self.facts and name not in self._whole:
            if hashlib.sha256(content).hexdigest() != self.facts[name]["sha256"]:
                raise self._damaged(name)
            self._whole.add(name)

    def file(self, name: str) -> Path:
        """Path of a file, compared whole if it is small. StoreError as `content`."""
        path = self.store / name
        facts = self.facts.get(name)
        if facts is not None and name not in self._whole and facts["bytes"] <= SMALL:
            if not path.is_file() or digest(path) != facts["sha256"]:
                raise self._damaged(name)
            self._whole.add(name)
        return path

    def part(self, name: str, start: int, stop: int) -> None:
        """Compare the blocks that hold bytes start … stop − 1 of a file. StoreError as `content`."""
        sums = self.facts.get(name, {}).get("crc32c")
        if sums is None:
            self.file(name)
            return
        done = self._blocks.setdefault(name, np.zeros(len(sums), dtype=bool))
        wanted = range(start // BLOCK, min(-(-stop // BLOCK), len(sums)))
        if done[wanted.start : wanted.stop].all():
            return
        with (self.store / name).open("rb") as file:
            for block in wanted:
                if not done[block]:
                    file.seek(block * BLOCK)
                    if google_crc32c.value(file.read(BLOCK)) != sums[block]:
                        raise self._damaged(name)
                    done[block] = True

    def _damaged(self, name: str) -> StoreError:
        return StoreError(
            f"{self.store / name}",
            "bytes that are not those that were written",
            "an undamaged file",
            "Build the store again with --overwrite; reviews and retrained models are kept.",
        )
