"""Pictures that do not differ: the store is finished, and the map says why it shows nothing."""

import numpy as np

from traklens.engine.features.embedding_map import Painted, _principal


def test_pairs_that_do_not_differ_have_directions_all_the_same():
    for d in (2, 3, 40):
        axes = _principal(np.zeros((d, d)))
        assert axes.shape == (d, 2)
        np.testing.assert_allclose(axes.T @ axes, np.eye(2))


def test_one_point_is_told_from_many():
    def painted(xy):
        return Painted(xy, np.arange(len(xy), dtype=np.int32), np.zeros(len(xy), np.float32), 1.0, None)

    assert painted(np.zeros((5, 2), np.float32)).is_one_point
    assert painted(np.zeros((0, 2), np.float32)).is_one_point
    assert not painted(np.eye(2, dtype=np.float32)).is_one_point
