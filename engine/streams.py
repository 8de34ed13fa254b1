"""Every random draw that decides a number, by name: `generator("heldout", seed)`.

A stream is derived from its name and its indices, so that no two of them are the same and a new one disturbs none.
Version 1, before names, numbered them; numpy's seeds [s, 1, 0] and [s, 1] are one and the same stream, and so some of
them coincided. Data sets drawn then say so (`DatasetSpec.streams`), and what is derived from them stays as it was.
"""

import hashlib
import json
from collections.abc import Callable

import numpy as np

STREAMS = 2

# name: its seeds in version 1
NUMBERED: dict[str, Callable[..., list[int]]] = {
    "sample of a data set": lambda seed: [seed],
    "held-out examples": lambda seed: [seed, 0],
    "training subset": lambda seed, pair: [seed, 1, pair],
    "order of an epoch": lambda seed, model, epoch: [seed, 2, model, epoch],
    "augmentation of a step": lambda seed, model, step: [seed, model, step],
    "random half": lambda seed, j: [seed, 3, j],
    "random removal": lambda size, seed: [4, size, seed],
    "random scores": lambda row: [5, row],
    "evaluation targets": lambda n: [6, n],
    "second pass": lambda pair: [6, pair],
    "reference examples": lambda seed, checkpoint: [seed, checkpoint],
}


def seeds(name: str, *indices: int, version: int = STREAMS) -> np.random.SeedSequence:
    """The seeds of a named stream. `indices` tell its members apart: seed, model, epoch …

    ValueError for a name that version 1 did not have.
    """
    if version == 1:
        if name not in NUMBERED:
            raise ValueError(f"no stream {name!r} in version 1")
        return np.random.SeedSequence(NUMBERED[name](*indices))
    digest = hashlib.sha256(json.dumps([name, *map(int, indices)]).encode()).digest()
    return np.random.SeedSequence(np.frombuffer(digest, "<u4").tolist())


def generator(name: str, *indices: int, version: int = STREAMS) -> np.random.Generator:
    """A generator at the beginning of a named stream."""
    return np.random.default_rng(seeds(name, *indices, version=version))


def torch_seed(name: str, *indices: int, version: int = STREAMS) -> int:
    """A seed for torch's own generator, from a named stream."""
    return int(seeds(name, *indices, version=version).generate_state(1)[0])
