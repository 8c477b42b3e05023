"""The posterior of a curve: what it covers, how runs sharpen it, and what it says where it cannot know."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from deltatheory.dimension.posterior import (
    AS_PREDICTED,
    LOGISTIC,
    UNKNOWN,
    CurvePosterior,
    CurveShape,
    log_grid,
)

GRID = log_grid(1, 65_536, 4.0)
# A curve that no logistic is: it rises fast, then slowly.
SHAPE = CurveShape(np.log([2.0, 16.0, 64.0, 4096.0]), np.array([-3.0, -0.5, 1.0, 3.5]))


def sigmoid(y):
    return 1 / (1 + math.exp(-y))


def drawn(rng, shape=SHAPE, prior=AS_PREDICTED):
    """A curve of the prior: run(d) with its noise, and where it reaches a share."""
    (a, b, k), c = (rng.normal(*p) for p in (prior.shift, prior.stretch, prior.ceiling)), shape.crossing(0.75)

    def run(d, noise=0.02):
        x = math.log(d) + prior.lot * rng.standard_normal()
        at = c + (x - c - a) * math.exp(-b)
        return k * sigmoid(float(shape.logit(at))) + noise * rng.standard_normal()

    def reached(share):
        return c + a + math.exp(b) * (shape.crossing(share / k) - c) if share < k else math.inf

    return run, reached


def searched(rng, runs, share=0.75):
    run, reached = drawn(rng)
    posterior = CurvePosterior(SHAPE, AS_PREDICTED, 0.02)
    found = [posterior.estimate(share, 2**16)]
    for _ in range(runs):
        d = posterior.propose(share, GRID)
        posterior.tell(d, run(d))
        found.append(posterior.estimate(share, 2**16))
    return found, reached(share)


def test_its_intervals_cover_as_they_say_after_any_number_of_runs_and_narrow():
    hits, widths = [], []
    for seed in range(40):
        found, truth = searched(np.random.default_rng(seed), 6)
        ends = [(math.log(x.low), math.log(x.high) if x.high else math.inf) for x in found]
        hits.append([low - 0.05 <= truth <= high + 0.05 for low, high in ends])
        widths.append([min(high, math.log(2**16)) - low for low, high in ends])
    assert all(share >= 0.8 for share in np.mean(hits, axis=0))
    medians = np.median(widths, axis=0)
    assert all(after < before for before, after in pairwise(medians[[0, 1, 2, 4, 6]]))
    assert medians[6] < medians[0] / 2.5


def test_without_runs_it_is_the_prediction():
    posterior = CurvePosterior(SHAPE, replace(AS_PREDICTED, ceiling=(1.0, 1e-6)), 0.02)
    found = posterior.estimate(0.75, 2**16)
    assert found.value == pytest.approx(math.exp(SHAPE.crossing(0.75)), rel=0.05)
    assert math.log(found.high / found.value) == pytest.approx(1.645, abs=0.15)
    assert found.status == "predicted"


def test_d50_d75_and_d90_are_of_one_curve():
    posterior = CurvePosterior(SHAPE, AS_PREDICTED, 0.02)
    posterior.tell(64, 0.7)
    values = [posterior.estimate(share, 2**16).value for share in (0.5, 0.75, 0.85)]
    assert values == sorted(values)
    draws = [posterior.crossings(share) for share in (0.5, 0.75, 0.85)]
    assert (draws[0] <= draws[1]).all()
    assert (draws[1] <= draws[2]).all()


def test_one_run_that_fell_through_moves_little():
    posterior, other = (CurvePosterior(SHAPE, AS_PREDICTED, 0.02) for _ in range(2))
    for d, share in ((16, 0.4), (32, 0.55), (64, 0.72), (128, 0.8), (256, 0.85)):
        posterior.tell(d, share)
        other.tell(d, share)
    other.tell(512, -0.1)
    whole, fell = (p.estimate(0.75, 2**16).value for p in (posterior, other))
    assert abs(math.log(whole / fell)) < 0.25


def test_runs_that_contradict_the_prediction_outweigh_it():
    posterior = CurvePosterior(SHAPE, AS_PREDICTED, 0.02)
    for d in (256, 512, 1024, 2048, 4096, 8192):
        posterior.tell(d, sigmoid(math.log(d / 1024)))
    found = posterior.estimate(0.5, 2**16)
    assert 600 < found.value < 1700
    assert found.value > 5 * math.exp(SHAPE.crossing(0.5))


def test_a_level_that_is_never_reached_has_a_lower_end():
    posterior = CurvePosterior(LOGISTIC, UNKNOWN, 0.02)
    for d in (64, 1024, 65_536):
        posterior.tell(d, 0.1)
    found = posterior.estimate(0.9, 2**16)
    assert (found.value, found.high) == (None, None)
    assert found.low > 1024
    assert "not reached at d <= 65536" in found.status


def test_a_level_no_run_has_reached_is_extrapolated():
    posterior = CurvePosterior(LOGISTIC, UNKNOWN, 0.02)
    for d in (16, 64, 256):
        posterior.tell(d, sigmoid(math.log(d / 256)))
    assert posterior.estimate(0.7, 2**16).status.startswith("extrapolated: no run at d <= 256")
    posterior.tell(1024, 0.8)
    assert posterior.estimate(0.7, 2**16).status == "reached"


@pytest.mark.parametrize("share", [0.2, 0.75, 0.999])
@pytest.mark.parametrize("most", [1, 7, 300])
def test_dimensions_are_whole_numbers_up_to_the_largest(share, most):
    posterior = CurvePosterior(SHAPE, AS_PREDICTED, 0.02)
    posterior.tell(2, 0.9)
    found = posterior.estimate(share, most)
    ends = [x for x in (found.low, found.value, found.high) if x is not None]
    assert all(isinstance(x, int) and 1 <= x <= most for x in ends)
    assert ends == sorted(ends)


def test_a_share_that_the_frozen_model_has_is_dimension_zero():
    found = CurvePosterior(SHAPE, AS_PREDICTED, 0.02).estimate(0.0, 100)
    assert (found.low, found.value, found.high) == (0, 0, 0)


def test_an_uncertain_level_widens_the_interval():
    posterior = CurvePosterior(SHAPE, AS_PREDICTED, 0.02)
    for d in (16, 32, 64, 128, 256, 512):
        posterior.tell(d, sigmoid(float(SHAPE.logit(math.log(d)))))
    sure, unsure = (posterior.estimate(0.75, 2**16, deviation) for deviation in (0.0, 0.15))
    assert unsure.width > 1.3 * sure.width


def test_the_shape_is_smooth_monotone_and_as_predicted():
    d = log_grid(1, 4096, 2.0)
    shares = np.array([sigmoid(1.2 * math.log(x / 100)) for x in d])
    noisy = shares + 0.05 * np.sin(7 * np.arange(len(d)))
    shape = CurveShape.of_shares(d, noisy)
    x = np.linspace(-2, 14, 200)
    y = shape.logit(x)
    assert (np.diff(y) > 0).all()
    np.testing.assert_allclose(shape.inverse(y), x, atol=1e-6)
    for share in (0.25, 0.5, 0.75):
        true = math.log(100) + math.log(share / (1 - share)) / 1.2
        assert abs(shape.crossing(share) - true) < 0.35


def test_the_answer_is_a_function_of_the_runs_in_any_order():
    runs = [(16, 0.3), (64, 0.7), (256, 0.85)]
    there, back = (CurvePosterior(SHAPE, AS_PREDICTED, 0.02, list(x)) for x in (runs, runs[::-1]))
    np.testing.assert_allclose(there.weights(), back.weights(), atol=1e-12)
    assert there.evidence() == pytest.approx(back.evidence())


@pytest.mark.parametrize("share", [math.nan, math.inf])
def test_shares_must_be_numbers(share):
    with pytest.raises(ValueError, match="at d=4: must be a finite number"):
        CurvePosterior(SHAPE, AS_PREDICTED, 0.02).tell(4, share)


def test_dimension_zero_is_the_floor_not_a_run():
    with pytest.raises(ValueError, match="d=0: must be at least 1"):
        CurvePosterior(SHAPE, AS_PREDICTED, 0.02).tell(0, 0.5)
    with pytest.raises(ValueError, match="noise=0"):
        CurvePosterior(SHAPE, AS_PREDICTED, 0.0)


@pytest.mark.parametrize(("low", "high", "ratio"), [(1, 1, 2.0), (1, 10, 2**0.25), (7, 30_000, 1.5)])
def test_the_grid_is_geometric(low, high, ratio):
    grid = log_grid(low, high, ratio)
    assert (grid[0], grid[-1]) == (low, high)
    assert grid == sorted(set(grid))
    assert all(b / a <= ratio + 1 / a for a, b in pairwise(grid))


@pytest.mark.parametrize(("low", "high", "ratio"), [(0, 4, 2.0), (5, 4, 2.0), (1, 4, 1.0)])
def test_bad_grid_limits_are_refused(low, high, ratio):
    with pytest.raises(ValueError, match="must"):
        log_grid(low, high, ratio)
