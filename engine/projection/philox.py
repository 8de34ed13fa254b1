"""Philox4x32-10, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

The same words on every device: a word is a pure function of a 64-bit key and a 128-bit counter. `philox` is the NumPy
reference, `philox_words` the same for numba kernels.
"""

import numpy as np

from traklens.stores.compiled import compiled

ROUNDS = 10
M0, M1 = 0xD2511F53, 0xCD9E8D57  # round multipliers
W0, W1 = 0x9E3779B9, 0xBB67AE85  # key increments (golden ratio, √3 − 1)
LOW = 0xFFFFFFFF


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Four 32-bit words per counter: uint32 [..., 4] → uint32 [..., 4]."""
    c0, c1, c2, c3 = (np.asarray(counter[..., i], dtype=np.uint64) for i in range(4))
    k0, k1 = key
    low, shift = np.uint64(LOW), np.uint64(32)
    for _ in range(ROUNDS):
        product0, product1 = c0 * np.uint64(M0), c2 * np.uint64(M1)
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ np.uint64(k0),
            product1 & low,
            (product0 >> shift) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


@compiled()
def philox_words(c0, c1, c2, c3, k0, k1):
    """The four words of one counter, as uint64 numbers below 2³²; arguments are uint64 below 2³²."""
    low, shift = np.uint64(LOW), np.uint64(32)
    for _ in range(ROUNDS):
        product0, product1 = c0 * np.uint64(M0), c2 * np.uint64(M1)
        c0 = (product1 >> shift) ^ c1 ^ k0
        c1 = product1 & low
        c2 = (product0 >> shift) ^ c3 ^ k1
        c3 = product0 & low
        k0 = (k0 + np.uint64(W0)) & low
        k1 = (k1 + np.uint64(W1)) & low
    return c0, c1, c2, c3
