"""Which pairs are held out, and which random part of the training set each checkpoint sees.

Both are drawn by image, so that the captions of one image never stand on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from traklens.engine.data import Dataset
from traklens.engine.streams import generator
from traklens.stores.errors import DataError, UsageError


@dataclass(frozen=True)
class Split:
    """`train` and `heldout` are indices into the data set's examples; `subsets` is bool [M, n_train]."""

    train: np.ndarray
    heldout: np.ndarray
    subsets: np.ndarray


def split_dataset(dataset: Dataset, *, heldout: float, subset: float, checkpoints: int, seed: int) -> Split:
    """Draw the split and the subsets from `seed`, by the data set's version of the random streams.

    A data set that names its own held-out examples keeps them; otherwise a share `heldout` of the groups (images) is drawn.
    Raises UsageError for shares outside their range and DataError when too few examples are left to train on.
    """
    if not 0 <= heldout < 1:
        raise UsageError("heldout", str(heldout), "a share from 0 up to, but not including, 1", "Try 0.1.")
    if not 0 < subset <= 1:
        raise UsageError("subset", str(subset), "a share above 0, at most 1", "Try 0.5.")
    streams = dataset.spec.streams
    image_ids = np.array([example.group for example in dataset.examples])
    given = [example.split for example in dataset.examples]
    if "heldout" in given:
        is_heldout = np.array([split == "heldout" for split in given])
    else:
        is_heldout = draw_by_group(image_ids, heldout, generator("held-out examples", seed, version=streams))
    train = np.flatnonzero(~is_heldout)
    if train.size < 8:
        raise DataError(
            f"data set {dataset.root}",
            f"{train.size} training {dataset.account.noun}",
            "at least 8",
            f"Add {dataset.account.noun} or lower --heldout.",
        )
    subsets = np.stack([_subset(image_ids[train], subset, seed, m, streams) for m in range(checkpoints)])
    fewest = int(subsets.sum(axis=1).min())
    if fewest < 2:
        raise UsageError(
            "subset",
            f"{subset}, which leaves {fewest} of {train.size} training {dataset.account.noun} to a checkpoint",
            "at least 2",
            f"Raise --subset or add {dataset.account.noun}.",
        )
    return Split(train=train, heldout=np.flatnonzero(is_heldout), subsets=subsets)


def _subset(image_ids: np.ndarray, share: float, seed: int, m: int, streams: int) -> np.ndarray:
    """What checkpoint m trains on: bool [n_train]. Checkpoints 2j and 2j + 1 take the two ends of one random order.

    So two halves are complementary, and every pair has checkpoints that never saw it: as many as have.
    """
    order = generator("training subset", seed, m - m % 2, version=streams)
    return draw_by_group(image_ids, share, order, from_end=m % 2 == 1)


def draw_by_group(
    groups: Sequence[str] | np.ndarray, share: float, generator: np.random.Generator, *, from_end: bool = False
) -> np.ndarray:
    """Draw a share of the distinct groups (rounded) and mark all their members: → bool [n].

    With `from_end` they come from the other end of the same random order.
    """
    names, member_of = np.unique(np.asarray(groups), return_inverse=True)
    order = generator.permutation(len(names))[:: -1 if from_end else 1]
    chosen = np.zeros(len(names), dtype=bool)
    chosen[order[: round(share * len(names))]] = True
    return chosen[member_of]
