from __future__ import annotations

import numpy as np
import pytest
from tiny_problems import toy_problem

from deltatheory.control.solvers import Status, solve
from deltatheory.control.solvers.starts import drawn_starts
from deltatheory.control.systems import pendulum
from experiments.benchmarks.control_bank import BANK

LOWER, HIGHER = -0.341404459644, 0.654604


def test_of_several_minima_the_lowest_is_returned():
    system = BANK["double well"].system()
    right, left = np.full((30, 1), 3.0), np.full((30, 1), -3.0)
    assert solve(system, "ddp", start=right).cost == pytest.approx(HIGHER, abs=1e-3)
    rows = []
    found = solve(system, "ddp", starts=[right, left], on_step=rows.append)
    assert found.cost == pytest.approx(LOWER, abs=1e-9)
    assert [one["status"] for one in found.details["starts"]] == [Status.CONVERGED, Status.CONVERGED]
    assert found.details["starts"][0]["cost"] == pytest.approx(HIGHER, abs=1e-3)
    assert [row["iteration"] for row in rows].count(0) == 2


def test_what_converged_goes_before_what_is_cheaper():
    system = BANK["double well"].system()
    right, left = np.full((30, 1), 3.0), np.full((30, 1), -3.0)
    steps = solve(system, "ddp", start=right).details["iterations"]
    low = solve(system, "ddp", start=left, steps=steps)
    best = solve(system, "ddp", starts=[left, solve(system, "ddp", start=right).value], steps=2)
    assert low.cost < best.cost
    assert best.status is Status.CONVERGED


def test_drawn_starts_begin_at_zero_and_fill_the_limits():
    system = pendulum(horizon=40, torque=3.0)
    starts = drawn_starts(system, 5)
    assert not starts[0].any()
    assert all(np.abs(one).max() <= 3 for one in starts)
    assert max(np.abs(one).max() for one in starts) > 2
    assert all(len(np.unique(one)) <= 8 for one in starts)
    again = drawn_starts(system, 5)
    assert all(map(np.array_equal, starts, again))


@pytest.mark.parametrize(("starts", "message"), [(0, "starts=0"), ([], "there is none")])
def test_no_start_is_refused(starts, message):
    with pytest.raises(ValueError, match=message):
        solve(pendulum(horizon=3), "ilqr", starts=starts)


def test_a_number_of_starts_is_for_small_systems_and_start_beside_them_is_refused():
    with pytest.raises(ValueError, match="starts=2: a number is for small systems"):
        solve(toy_problem("prefix", length=1), "adam", starts=2)
    with pytest.raises(ValueError, match="put it among them"):
        solve(pendulum(horizon=3), "ilqr", starts=2, start=np.zeros((3, 1)))
