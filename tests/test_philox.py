"""Philox4x32-10 gives the published words, in NumPy and in numba."""

import numpy as np
import pytest

from traklens.engine.projection.philox import philox, philox_words

# Random123, kat_vectors, philox4x32 with 10 rounds: counter, key, result.
PUBLISHED = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_numpy_gives_the_published_vectors(counter, key, expected):
    assert philox(np.array(counter), key).tolist() == expected


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_numba_gives_the_published_vectors(counter, key, expected):
    assert [int(word) for word in philox_words(*np.array([*counter, *key], dtype=np.uint64))] == expected


def test_numba_equals_numpy_for_random_counters():
    random = np.random.default_rng(0)
    counters = random.integers(0, 2**32, (200, 4), dtype=np.uint64)
    key = (0xDEADBEEF, 0x12345678)
    found = [[int(w) for w in philox_words(*row, *np.array(key, dtype=np.uint64))] for row in counters]
    assert found == philox(counters, key).tolist()


def test_any_shape_of_counters_gives_the_words_of_each():
    counters = np.arange(24).reshape(2, 3, 4)
    words = philox(counters, (1, 2))
    assert words.shape == (2, 3, 4)
    assert words.dtype == np.uint32
    assert words[1, 2].tolist() == philox(counters[1, 2], (1, 2)).tolist()


def test_half_of_all_bits_are_set():
    counters = np.zeros((20_000, 4), dtype=np.int64)
    counters[:, 0] = np.arange(20_000)
    words = philox(counters, (3, 4))
    share = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(words.size * 32)  # five standard errors
