from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from deltatheory.dimension.search import DimensionSearch, SearchPoint, log_grid

FLOOR, CEILING = 0.5, 0.9
LEVEL = 0.9 * CEILING
GRID = log_grid(1, 30_000)


def curve(crossing: float, slope: float):
    """A logistic curve in ln d that meets LEVEL at d = crossing."""
    q = (LEVEL - FLOOR) / (CEILING - FLOOR)
    a = math.log(q / (1 - q)) - slope * math.log(crossing)
    return lambda d: FLOOR + (CEILING - FLOOR) / (1 + math.exp(-a - slope * math.log(d)))


def search_on(grid=GRID, level=LEVEL, noise=0.01, **options) -> DimensionSearch:
    return DimensionSearch(grid, level, floor=FLOOR, ceiling=CEILING, noise=noise, **options)


@pytest.mark.parametrize("crossing", [3, 20, 100, 700, 4000])
@pytest.mark.parametrize("slope", [0.6, 1.0, 1.6])
def test_few_probes_find_the_grid_point(crossing, slope):
    grid = log_grid(1, 10_000, 2.0)
    f = curve(crossing, slope)
    truth = next(i for i, d in enumerate(grid) if f(d) >= LEVEL)
    search = search_on(grid, noise=0.001)
    while len(search.trials) < 5 and not search.bracketed():
        d = search.propose()
        assert d in grid
        search.tell(d, f(d))
    found = search.smallest()
    assert found is not None
    assert abs(grid.index(found) - truth) <= 1


def covered(trials: int, true_noise: float, *, assumed: float = 0.01, level_noise: float = 0.5) -> float:
    """Share of 200 simulated searches whose interval holds the true d90; slopes spread by e^±0.4."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        crossing = math.exp(rng.uniform(math.log(10), math.log(3000)))
        f = curve(crossing, math.exp(0.4 * rng.standard_normal()))
        level = LEVEL + level_noise * true_noise * rng.standard_normal()
        search = search_on(level=level, noise=assumed, level_noise=level_noise)
        for _ in range(trials):
            d = search.propose()
            search.tell(d, f(d) + true_noise * rng.standard_normal())
        interval = search.estimate()
        assert interval.low is not None
        hits += interval.low <= crossing <= (math.inf if interval.high is None else interval.high)
    return hits / 200


def test_the_interval_covers_as_it_says():
    assert 0.80 <= covered(4, 0.01) <= 0.98


def test_the_interval_mends_noise_that_was_assumed_too_small():
    assert covered(8, 0.02) >= 0.75


def test_the_assumed_noise_counts():
    """What the 90 % rest on after few trials: with a hundredth of the noise assumed, coverage is lost."""
    assert covered(4, 0.02, assumed=0.0002) < covered(4, 0.02, assumed=0.02) - 0.1


def test_more_trials_narrow_the_interval():
    widths: dict[int, list[float]] = {3: [], 6: [], 12: [], 24: []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        f, search = curve(200, 1.0), search_on()
        for _ in range(max(widths)):
            d = search.propose()
            search.tell(d, f(d) + 0.01 * rng.standard_normal())
            if len(search.trials) in widths:
                widths[len(search.trials)].append(search.estimate().width)
    medians = [float(np.median(w)) for w in widths.values()]
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < medians[0] / 2


def test_an_uncertain_level_widens_the_interval():
    widths = []
    for level_noise in (0.0, 3.0):
        search = search_on(level_noise=level_noise)
        for d in (50, 100, 200, 400):
            search.tell(d, curve(150, 1.0)(d))
        widths.append(search.estimate().width)
    assert widths[1] > 1.5 * widths[0]


def test_the_estimate_is_a_function_of_the_trials_and_the_seed():
    search = search_on()
    for d in (50, 200, 800):
        search.tell(d, curve(150, 1.0)(d))
    assert search.estimate(seed=1) == search.estimate(seed=1)
    assert search.estimate(seed=1) != search.estimate(seed=2)
    assert search.trials[0] == SearchPoint(50, curve(150, 1.0)(50))


def test_a_level_that_is_never_reached_has_a_remedy():
    search = search_on(log_grid(1, 100))
    for _ in range(6):
        d = search.propose()
        search.tell(d, 0.5 + 0.02 * math.log(d))
    assert max(trial.d for trial in search.trials) == 100
    assert search.smallest() is None
    assert not search.bracketed()
    interval = search.estimate()
    assert (interval.value, interval.high) == (None, None)
    assert interval.status == "the level 0.81 is not reached at d <= 100: try larger d, or more steps"


def test_a_curve_that_levels_off_below_the_level_is_not_called_reached():
    """As in the recorded CIFAR curve of Li et al. (2018), whose last five points differ by noise."""
    search = search_on([100, 300, 1000, 3000, 10_000, 30_000], noise=0.003)
    for d, score in ((300, 0.70), (1000, 0.76), (3000, 0.78), (10_000, 0.79), (30_000, 0.795)):
        search.tell(d, score)
    assert search.smallest() is None
    assert search.estimate().status.startswith(("extrapolated: no run at d <= 30000", "the level"))


def test_a_level_reached_at_once_is_dimension_one():
    search = search_on()
    while not search.bracketed():
        assert len(search.trials) < 8
        search.tell(search.propose(), 0.89)
    assert search.trials[-1].d == 1
    assert search.smallest() == 1
    interval = search.estimate()
    assert (interval.value, interval.low) == (1.0, 1.0)


def test_contradicting_trials_widen_the_bracket():
    search = search_on([1, 2, 4, 8, 16, 32])
    search.tell(4, 0.85)
    search.tell(16, 0.75)  # a larger dimension fails
    low, high = search.bracket()
    assert search.grid[low] < 4
    assert search.grid[high] > 16
    assert search.propose() in (4, 8, 16)


def test_repeats_count_by_their_mean():
    search = search_on([1, 2, 4, 8])
    search.tell(4, LEVEL + 0.01)
    assert search.bracket() == (-1, 2)
    search.tell(4, LEVEL - 0.03)
    assert search.bracket() == (2, 4)


def test_the_first_trial_is_the_guess():
    assert search_on(guess=440.0).propose() == min(GRID, key=lambda d: abs(math.log(d / 440)))
    assert search_on(log_grid(1, 10_000, 2.0)).propose() == min(
        log_grid(1, 10_000, 2.0), key=lambda d: abs(math.log(d / 100))
    )


def test_nothing_tried_is_said():
    assert search_on().estimate().value is None


@pytest.mark.parametrize("grid", [[], [3, 2], [2, 2], [0, 1, 2]])
def test_bad_grids_are_refused(grid):
    with pytest.raises(ValueError, match="grid="):
        search_on(grid)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="noise=0"):
        search_on(noise=0.0)
    with pytest.raises(ValueError, match="train it longer or at another learning rate"):
        DimensionSearch(GRID, 0.45, floor=0.5, ceiling=0.5, noise=0.01)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_must_be_numbers(score):
    with pytest.raises(ValueError, match="at d=4: must be a finite number"):
        search_on().tell(4, score)


def test_dimension_zero_is_the_floor_not_a_trial():
    with pytest.raises(ValueError, match="d=0: must be at least 1"):
        search_on().tell(0, 0.5)


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
