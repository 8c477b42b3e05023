"""The joint distribution of trained scores: paired differences, the decision, and what runs do to it."""

from __future__ import annotations

import numpy as np
import pytest

from deltatheory.advice import posterior
from deltatheory.advice.posterior import POINT, TrainedScores
from deltatheory.advice.race import race


def solved_by(rates: list[float], count: int = 400) -> list[np.ndarray]:
    """Nested sets of solved examples, with one ridge: candidates err on the same examples."""
    hard = np.linspace(0, 1, count, endpoint=False)
    return [(hard < rate)[None] for rate in rates]


def prior(rates: list[float]) -> TrainedScores:
    """Of candidates of one size and several methods."""
    count = len(rates)
    return TrainedScores.predicted(
        solved_by(rates), [100] * count, list("abcdefgh"[:count]), np.random.default_rng(0)
    )


def test_differences_are_known_better_than_scores():
    draws = prior([0.80, 0.80, 0.81]).draws()
    assert np.ptp(draws[:, 1] - draws[:, 0]) < np.ptp(draws[:, 0])
    assert (draws[:, 1] - draws[:, 0]).std() < 0.6 * draws[:, 0].std()


def test_equal_promises_take_the_smallest_and_far_ones_do_not(monkeypatch):
    for name, value in {"_OWN": 0.02, "_METHOD": 0.02, "_SHARE": 1.0}.items():
        monkeypatch.setattr(posterior, name, value)
    assert prior([0.8, 0.8, 0.8]).smallest([0, 1, 2])[0] == 0
    taken, chance = prior([0.5, 0.8, 0.8]).smallest([0, 1, 2])
    assert taken == 1
    assert chance < 0.5
    taken, chance = prior([0.5, 0.6, 0.8]).smallest([0, 1, 2])
    assert (taken, chance) == (2, pytest.approx(0, abs=0.01))
    assert prior([0.5, 0.8, 0.9]).smallest([1, 2])[0] in (1, 2)  # within a budget that has two of them


def test_the_chance_is_that_of_the_best_other_smaller_or_larger():
    scores = TrainedScores(np.array([0.0, 0.0, 0.0, 0.3]), 0.04 * np.eye(4))
    draws = scores.draws()
    chance = (draws[:, 2] - draws[:, 3] > POINT).mean()
    assert 0 < chance < 0.5
    assert scores.smallest([2, 3]) == scores.smallest([3, 2]) == (3, chance)
    assert scores.smallest([3]) == (3, 0.0)


def test_where_each_is_likelier_beaten_than_not_the_least_likely_is_taken():
    """The largest of many equals is not taken for its size, nor with probability 1."""
    scores = prior([0.8] * 8)
    draws = scores.draws()
    beaten = (draws.max(1, keepdims=True) - draws > POINT).mean(0)
    assert beaten.min() > 0.5
    assert scores.smallest(range(8)) == (beaten.argmin(), beaten.min())


def test_a_run_is_conditioning_of_a_gaussian():
    """Against the precision form: Λ' = Λ + Hᵀ R⁻¹ H."""
    scores = prior([0.7, 0.8, 0.75])
    run = np.arange(200) < 180
    found = scores.observed({1: run})
    slope = 1 / (0.9 * 0.1)
    noise = posterior._RUN**2 + slope**2 * run.astype(float).var(ddof=1) / 200
    h = np.array([[0.0, 1.0, 0.0]])
    precision = np.linalg.inv(scores.covariance)
    covariance = np.linalg.inv(precision + h.T @ h / noise)
    mean = covariance @ (precision @ scores.mean + h[0] * np.log(9) / noise)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8)


def test_two_runs_on_the_same_examples_are_paired():
    """Two that err together tell their difference better than two that err apart."""
    scores = prior([0.8, 0.8])
    errs = np.arange(200) >= 160
    together = scores.observed({0: ~errs, 1: ~errs}).covariance
    apart = scores.observed({0: ~errs, 1: ~errs[::-1]}).covariance
    difference = np.array([1.0, -1.0])
    assert difference @ together @ difference < 0.8 * (difference @ apart @ difference)


def test_a_perfect_run_is_not_certain():
    scores = prior([0.8, 0.8]).observed({0: np.ones(50, bool)})
    assert scores.covariance[0, 0] > posterior._RUN**2 / 2
    assert np.isfinite(scores.draws()).all()


def test_the_next_run_is_one_that_may_change_what_is_taken():
    scores = prior([0.78, 0.80, 0.5])
    first = scores.most_decisive([0, 1, 2], {}, 300)
    assert first in (0, 1)
    everything = scores.observed({i: np.arange(300) < 240 for i in range(3)})
    assert everything.most_decisive([0, 1, 2], {0, 1, 2}, 300) is None
    assert scores.most_decisive([1], {}, 300) is None  # one candidate: nothing to decide


def test_a_race_runs_the_most_decisive_next_and_ends_where_no_run_would_change_what_is_taken():
    start, ladder, asked = prior([0.78, 0.80, 0.5]), [0, 1, 2], []
    shown = {0: np.arange(300) < 240, 1: np.arange(300) < 200, 2: np.arange(300) < 100}

    def run(one: int) -> np.ndarray:
        before = {i: shown[i] for i in asked}
        assert one == start.observed(before).most_decisive(ladder, asked, 300)
        asked.append(one)
        return shown[one]

    *_, last = race(start, ladder, run, 300)
    assert 1 <= len(asked) == len(set(asked))
    assert last.most_decisive(ladder, asked, 300) is None
    np.testing.assert_array_equal(last.mean, start.observed({i: shown[i] for i in asked}).mean)


def test_the_larger_of_two_equal_promises_is_expected_ahead():
    solved = solved_by([0.8, 0.8])
    scores = TrainedScores.predicted(solved, [100, 100_000], ["a", "b"], np.random.default_rng(0))
    assert scores.mean[1] - scores.mean[0] == pytest.approx(posterior._GROWTH * np.log(1000))


def test_what_a_method_is_usually_ahead_counts_and_an_unknown_one_is_not():
    solved = solved_by([0.8, 0.8])
    scores = TrainedScores.predicted(solved, [100, 100], ["ia3", "other"], np.random.default_rng(0))
    assert scores.mean[0] - scores.mean[1] == pytest.approx(posterior._AHEAD["ia3"])
