"""Random streams by name: none is another, each is the same everywhere, and those of version 1 are what they were."""

import numpy as np
import pytest

from traklens.engine.streams import NUMBERED, generator, seeds, torch_seed

HELDOUT = [2014696821, 3831314831]  # by SHA-256 and numpy's SeedSequence, both fixed for good
MEMBERS = [
    ("a", ()),
    ("a", (0,)),
    ("a", (0, 0)),
    ("a", (1,)),
    ("a", (1, 0)),
    ("a", (2**32,)),
    ("a", (0, 1)),
    ("b", (1,)),
]


def test_no_two_members_are_the_same_stream():
    drawn = [generator(name, *indices).integers(2**62) for name, indices in MEMBERS]
    assert len(set(drawn)) == len(drawn)
    assert generator("a", 1, version=2).integers(2**62) == generator("a", 1).integers(2**62)


def test_a_stream_is_the_same_on_every_machine():
    assert seeds("held-out examples", 0).generate_state(2).tolist() == HELDOUT
    assert torch_seed("held-out examples", 0) == HELDOUT[0]


def test_the_streams_of_version_1_are_those_it_numbered():
    for name, indices, numbers in (
        ("held-out examples", (7,), [7, 0]),
        ("training subset", (7, 2), [7, 1, 2]),
        ("order of an epoch", (7, 3, 4), [7, 2, 3, 4]),
        ("random half", (0, 5), [0, 3, 5]),
        ("random removal", (9, 1), [4, 9, 1]),
        ("reference examples", (7, 1), [7, 1]),
    ):
        found = generator(name, *indices, version=1).integers(2**62, size=3)
        np.testing.assert_array_equal(found, np.random.default_rng(numbers).integers(2**62, size=3))
    assert "initial weights" not in NUMBERED
    with pytest.raises(ValueError, match="initial weights"):
        seeds("initial weights", 0, version=1)


def test_an_old_run_is_built_and_retrained_by_its_own_streams(tiny_demo):
    from traklens.engine.data import load_dataset
    from traklens.engine.training.split import split_dataset

    options = {"heldout": 0.2, "subset": 0.5, "checkpoints": 2, "seed": 0}
    old, new = (split_dataset(load_dataset(tiny_demo / "data", streams=v), **options) for v in (1, 2))
    assert not np.array_equal(old.train, new.train)
    assert load_dataset(tiny_demo / "data").spec.streams == 2
