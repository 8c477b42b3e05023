"""The bank of problems with known optima: every solver reaches the optimum, or says that it did not.

`BANK=all` also runs what takes longer than the suite may.
"""

from __future__ import annotations

import os

import pytest

from deltatheory.control.solvers import DDP, ILQR, SOLVERS, Status, solve
from deltatheory.control.systems import AnalyticSystem
from experiments.benchmarks.control_bank import BANK

EVERYTHING = os.environ.get("BANK") == "all"
LONG = {
    "weak pendulum",
    "cart-pole",
    "long pendulum",
    "fishing",
    "rendezvous",
    "stiff line",
    "stiff van der Pol",
    "minimum time",
}
QUICK_ILQR = ("golden ratio", "tripling line", "doubling block", "turning line", "unicycle", "exploding cube")
BUDGET = {"van der Pol", "fishing"}  # first order converges linearly, here too slowly for 500 steps
FREE = [name for name, problem in BANK.items() if not problem.constrained]
CHEAP = [(name, "ddp") for name in FREE if name not in LONG] + [(name, "ilqr") for name in QUICK_ILQR]
ALL = [(name, solver) for name in FREE for solver in ("ilqr", "ddp")]


def test_there_are_thirty_of_which_each_says_where_it_is_from():
    assert len(BANK) >= 30
    assert all(problem.statement and problem.source for problem in BANK.values())


@pytest.mark.parametrize(("name", "solver"), ALL if EVERYTHING else CHEAP)
def test_the_optimum_is_reached(name, solver):
    stated = BANK[name]
    found = {"ilqr": ILQR, "ddp": DDP}[solver]().solve(stated.system(), start=stated.first())
    if solver == "ilqr" and name in BUDGET:
        assert found.status is Status.BUDGET
        return
    assert found.status is Status.CONVERGED
    assert found.cost == pytest.approx(stated.optimum, rel=stated.tolerance)


def test_of_a_stationary_point_without_a_definite_model_the_status_is_that_of_the_residual():
    """Near the obstacle the cost is concave in the controls' effects: iLQR was "ill-conditioned" there."""
    stated = BANK["obstacle by penalty"]
    near = DDP().solve(stated.system())
    found = ILQR().solve(stated.system(), start=near.value)
    assert found.status is Status.CONVERGED
    assert found.details["stationarity"] < 1e-6


OTHERS = [name for name, kind in SOLVERS.items() if issubclass(AnalyticSystem, kind.takes)]
FEW = [name for name in FREE if BANK[name].horizon <= 60] if EVERYTHING else ["unicycle", "exploding cube"]


PAIRS = [(solver, problem) for solver in OTHERS for problem in FEW if solver not in ("ilqr", "ddp")]


@pytest.mark.parametrize(
    ("solver", "problem"), [pair for pair in PAIRS if EVERYTHING or pair != ("e-msa", "unicycle")]
)
def test_solvers_of_any_system_reach_it_or_say_that_they_did_not(solver, problem):
    stated, settings = BANK[problem], {"inner": 1, "steps": 1} if solver == "e-msa" else {"steps": 5}
    found = solve(stated.system(), solver, start=stated.first(), **settings)
    if found.status is Status.CONVERGED:
        assert found.cost == pytest.approx(stated.optimum, rel=1e-3)
    else:
        assert found.remedy
