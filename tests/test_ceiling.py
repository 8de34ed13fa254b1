"""The rank correlation that noise allows, against worlds whose signal is known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from traklens.engine.retraining.noise_ceiling import ceiling


@pytest.mark.parametrize(("seeds", "noise"), [(2, 0.5), (2, 2.0), (3, 1.0), (8, 3.0)])
def test_the_ceiling_is_what_the_noiseless_outcome_itself_reaches(seeds, noise):
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((60, 400))
    repeats = signal + noise * rng.standard_normal((seeds, 60, 400))
    mean = repeats.mean(axis=0)
    reached = np.mean([float(spearmanr(signal[:, t], mean[:, t])[0]) for t in range(400)])  # type: ignore[arg-type]
    assert ceiling(repeats) == pytest.approx(reached, abs=0.03)


def test_seeds_that_were_not_compared_count_when_they_were_averaged():
    rng = np.random.default_rng(2)
    repeats = rng.standard_normal((1, 2000, 1)) + 2 * rng.standard_normal((8, 2000, 1))
    assert ceiling(repeats[:4], averaged=8) == pytest.approx(ceiling(repeats), abs=0.02)


def test_more_retrainings_raise_the_ceiling_and_noise_alone_has_none():
    rng = np.random.default_rng(1)
    repeats = rng.standard_normal((1, 400, 1)) + 2 * rng.standard_normal((16, 400, 1))
    found = [ceiling(repeats[:count]) or 0.0 for count in (2, 4, 16)]
    assert 0 < found[0] < found[1] < found[2] < 1
    assert (ceiling(rng.standard_normal((4, 400, 300))) or 0.0) < 0.2


def test_targets_of_unequal_noise_have_the_mean_of_their_ceilings():
    """The root of the mean would be 0.60 here."""
    rng = np.random.default_rng(4)
    reliable = rng.beta(0.5, 2.5, 400)
    signal = rng.standard_normal((32, 400)) * np.sqrt(reliable)
    repeats = signal + rng.standard_normal((3, 32, 400)) * np.sqrt(1 - reliable)
    mean = repeats.mean(axis=0)
    reached = np.mean([float(spearmanr(signal[:, t], mean[:, t])[0]) for t in range(400)])  # type: ignore[arg-type]
    assert ceiling(repeats) == pytest.approx(reached, abs=0.05)


def test_one_seed_or_few_cases_say_nothing():
    assert ceiling(np.ones((1, 20))) is None
    assert ceiling(np.ones((3, 3))) is None
    assert ceiling(np.ones((3, 20))) is None
