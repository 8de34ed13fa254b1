"""Calibration: intervals hold what they promise on data whose truth is known."""

import json

import numpy as np
import pytest

from traklens.engine.removal import calibration
from traklens.engine.removal.calibration import (
    LEAST_POINTS,
    Point,
    by_target,
    fit,
    held_out_coverage,
    points,
    summary,
)
from traklens.engine.removal.effect import remove
from traklens.engine.retraining.measurements import Measured
from traklens.stores.layout import PREDICTED
from traklens.stores.retrained import Request
from traklens.stores.store import open_store


def _linear(rng: np.random.Generator, n: int, slope: float = 1.6, noise: float = 0.5, growth: float = 0.3):
    """Predicted changes, mostly losses, and measurements whose spread grows with the prediction."""
    x = -rng.gamma(1.5, 1.5, size=n)
    return x, slope * x + rng.standard_normal(n) * np.sqrt(noise**2 + (growth * x) ** 2)


@pytest.mark.parametrize(("noise", "growth"), [(0.5, 0.3), (0.5, 0.0), (0.05, 0.5)])
def test_intervals_cover_nine_of_ten_new_cases_on_linear_data(noise, growth):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        x, y = _linear(rng, 60, noise=noise, growth=growth)
        fitted = fit(x, y)
        assert fitted is not None
        new, truth = _linear(rng, 200, noise=noise, growth=growth)
        _, low, high = fitted.predict(new)
        inside.append(((truth >= low) & (truth <= high)).mean())
    assert 0.87 < np.mean(inside) < 0.94


def _targets(rng: np.random.Generator, count: int, each: int):
    """Removals of targets that have slopes and control errors of their own: predicted, measured, target."""
    slope, control = rng.lognormal(0, 0.6, count), 0.4 * rng.standard_normal(count)
    target = np.repeat(np.arange(count), each)
    x = -rng.gamma(1.5, 1.0, size=target.size)
    return x, slope[target] * x + control[target] + 0.6 * rng.standard_normal(target.size), target


@pytest.mark.parametrize(("count", "each"), [(16, 4), (4, 16)])
def test_intervals_cover_nine_of_ten_removals_of_new_targets(count, each):
    rng, covered, of_removals = np.random.default_rng(0), [], []
    for _ in range(60):
        x, y, target = _targets(rng, count, each)
        new, truth, _ = _targets(rng, 60, 2)
        for found, given in ((covered, target), (of_removals, None)):
            fitted = fit(x, y, given)
            assert fitted is not None
            _, low, high = fitted.predict(new)
            found.append(((truth >= low) & (truth <= high)).mean())
    assert 0.86 < np.mean(covered) < 0.95
    assert np.mean(covered) > np.mean(of_removals)  # removals of one target are not as good as removals of many


def test_rank_correlations_within_targets_do_not_credit_what_all_targets_share():
    """Large sets matter more, and within a target the prediction says nothing."""
    rng = np.random.default_rng(5)
    found = [
        Point(
            target,
            10,
            "trak 10",
            level + float(rng.standard_normal()),
            0.0,
            level + float(rng.standard_normal()),
            0.5,
            (),
        )
        for target in range(20)
        for level in [-8.0 * (target % 2)]
        for _ in range(6)
    ]
    told = summary(found)
    assert told["rank_correlation"] > 0.5
    assert abs(told["rank_correlation_within"]) < 0.3
    lo, hi = told["rank_correlation_within_interval"]
    assert lo < told["rank_correlation_within"] < hi
    assert by_target(found[:12], lambda some: float(len(some))) is None


def test_noise_of_common_controls_is_not_taken_for_agreement():
    rng, commonly, apart = np.random.default_rng(6), [], []
    for target in range(60):
        controls = rng.standard_normal(3)
        for _ in range(4):
            f = rng.standard_normal() * 0.5 + rng.standard_normal(3)
            common, own = tuple(f - controls.mean()), tuple(f - controls)
            commonly.append(Point(target, 9, "trak 9", 0.0, 0.0, 0.0, 1.0, common, common))
            apart.append(Point(target, 9, "trak 9", 0.0, 0.0, 0.0, 1.0, common, own))
    # the truth 0.5·N(0, 1) against f's noise N(0, 1)/3 and the controls' N(0, 1)/3
    expected = np.sqrt(0.25 / (0.25 + 1 / 3 + 1 / 3))
    assert summary(apart)["attainable"] == pytest.approx(expected, abs=0.1)
    assert summary(commonly)["attainable"] > expected + 0.1


def test_the_slope_of_noisy_lines_is_found_without_bias():
    rng = np.random.default_rng(1)
    slopes = [found.slope for found in (fit(*_linear(rng, 80, slope=2.5)) for _ in range(40)) if found]
    assert np.mean(slopes) == pytest.approx(2.5, abs=0.05)


def test_an_exact_line_is_reproduced_with_a_narrow_interval():
    x = np.linspace(-4, 1, 30)
    calibration = fit(x, 0.5 * x)
    assert calibration is not None
    middle, low, high = calibration.predict(-2.0)
    assert middle == pytest.approx(-1.0)
    assert high - low < 1e-3


def test_too_few_removals_give_no_calibration():
    x, y = _linear(np.random.default_rng(2), LEAST_POINTS - 1)
    assert fit(x, y) is None
    assert fit(*_linear(np.random.default_rng(2), LEAST_POINTS)) is not None


def test_predictions_that_are_all_zero_do_not_break_it():
    calibration = fit(np.zeros(20), np.random.default_rng(3).standard_normal(20))
    assert calibration is not None
    _, low, high = calibration.predict(0.0)
    assert low < 0 < high


def _points(n: int) -> list[Point]:
    x, y = _linear(np.random.default_rng(4), n)
    return [
        Point(i // 3, 10, "trak 10", float(a), float(a) / 5, float(b), 0.5, (float(b) - 0.3, float(b) + 0.3))
        for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]


def test_coverage_is_judged_on_targets_that_were_left_out():
    coverage = held_out_coverage(_points(150))
    assert coverage is not None
    assert 0.85 <= coverage <= 0.95
    assert held_out_coverage(_points(6)) is None


def test_the_summary_compares_group_additive_and_calibrated_errors():
    found = summary(_points(90))
    errors = found["mean_absolute_error"]
    assert errors["calibrated"] < errors["group"] < errors["additive"]
    assert found["removals"] == len(found["points"]) == 90
    assert found["rank_correlation"] == pytest.approx(found["rank_correlation_additive"])
    assert summary([]) == {"removals": 0, "slope": None}


def test_predictions_of_retrained_removals_are_kept_and_made_again_for_another_build(own_store, monkeypatch):
    store = open_store(own_store)
    request = Request(rows=(1, 5, 9), seeds=2, target=store.n - 1)
    measured = Measured(-0.5, 0.1, (-0.4, -0.6), similarity_change=-0.1, control_f=-1.0, random=())
    monkeypatch.setattr(calibration.Measurements, "of", lambda self, request: measured)
    first = points(store, [request])
    removal = remove(store, (1, 5, 9))
    assert first[0].group == pytest.approx(float(removal.effects(store, np.array([store.n - 1]))[0]))
    monkeypatch.setattr(calibration, "remove", lambda *_: pytest.fail("predicted twice"))
    assert points(store, [request]) == first
    kept = json.loads((store.path / PREDICTED).read_text(encoding="utf-8"))
    (store.path / PREDICTED).write_text(json.dumps(kept | {"made": "another build"}), encoding="utf-8")
    monkeypatch.setattr(calibration, "remove", remove)
    assert points(store, [request]) == first
    assert store.verify() == []
