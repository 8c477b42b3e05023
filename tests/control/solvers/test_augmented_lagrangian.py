from __future__ import annotations

import os

import numpy as np
import pytest
from scipy.optimize import minimize

from deltatheory.control.solvers import DDP, Status, solve
from deltatheory.control.systems import AnalyticSystem, ConstrainedSystem
from experiments.benchmarks.control_bank import BANK


def mass(horizon=20, limit=None):
    """A point of position and velocity under a force, ½ Σ u² alone."""

    def step(t, x, u):
        return x + 0.1 * np.concatenate([x[..., 1:], u], -1)

    limits = None if limit is None else (-limit, limit)
    return AnalyticSystem(
        step, lambda t, x, u: 0.5 * (u * u).sum(-1), lambda x: 0 * x[..., 0], [0.0, 0.0], horizon, 1,
        control_limits=limits,
    )  # fmt: skip


def moved(x):
    return x - np.array([1.0, 0.0])


LONG = set() if os.environ.get("BANK") == "all" else {"van der Pol above a floor", "pendulum to the top"}


@pytest.mark.parametrize("name", [name for name, one in BANK.items() if one.constrained and name not in LONG])
def test_constrained_problems_reach_the_optimum(name):
    stated = BANK[name]
    found = solve(stated.system(), "augmented-lagrangian", start=stated.first())
    assert found.status is Status.CONVERGED
    assert found.cost == pytest.approx(stated.optimum, rel=stated.tolerance)
    assert max(found.details["violation"], found.details["complementarity"]) <= 1e-7


def test_the_multipliers_are_those_of_the_dense_problem_and_satisfy_kkt():
    """x₁ <= 0.55 at all times and x_T = (0.5, 0.7) at least force: SLSQP over all controls at once."""
    system = mass()
    point = np.array([0.5, 0.7])
    posed = ConstrainedSystem(
        system,
        stage=lambda t, x, u: x[..., 1:] - 0.55 - 0.02 * np.asarray(t)[..., None],
        goal=lambda x: x - point,
    )
    found = solve(posed, "augmented-lagrangian", feasibility=1e-9)
    T, A, B = 20, np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([0.0, 0.1])
    maps = np.zeros((T + 1, 2, T))
    for t in range(T):
        maps[t + 1] = A @ maps[t]
        maps[t + 1, :, t] = B
    bound = 0.55 + 0.02 * np.arange(T)
    dense = minimize(
        lambda u: 0.5 * u @ u,
        np.zeros(T),
        jac=lambda u: u,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda u: maps[T] @ u - point, "jac": lambda u: maps[T]},
            {"type": "ineq", "fun": lambda u: bound - maps[:-1, 1] @ u, "jac": lambda u: -maps[:-1, 1]},
        ],
        options={"ftol": 1e-14, "maxiter": 200},
    )
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.value[:, 0], dense.x, atol=1e-6)
    weights, goal = found.details["stage"][:, 0], found.details["goal"]
    assert (weights >= 0).all()
    np.testing.assert_allclose(dense.x + weights @ maps[:-1, 1] + goal @ maps[T], 0, atol=1e-6)
    np.testing.assert_allclose(weights * (maps[:-1, 1] @ dense.x - bound), 0, atol=1e-7)
    assert found.details["stationarity"] < 1e-6


def test_a_bound_of_the_control_is_kept_beside_them():
    found = solve(ConstrainedSystem(mass(40, 0.3), goal=moved), "augmented-lagrangian")
    assert found.status is Status.CONVERGED
    assert np.abs(found.value).max() == 0.3
    assert np.abs(found.details["states"][-1] - [1, 0]).max() < 1e-7


def test_what_no_control_meets_is_infeasible_and_named():
    posed = ConstrainedSystem(mass(10, 0.1), stage=lambda t, x, u: 0 * x - 1, goal=moved)
    found = solve(posed, "augmented-lagrangian")
    assert found.status is Status.INFEASIBLE
    assert found.remedy.startswith("goal: its constraint number 0")


def test_constraints_that_hold_anyway_change_nothing():
    system = BANK["unicycle"].system()
    free = DDP().solve(system)
    found = solve(ConstrainedSystem(system, end=lambda x: x - 10), "augmented-lagrangian")
    assert found.cost == pytest.approx(free.cost, rel=1e-12)
    assert not found.details["end"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "stage, end and goal are all None"),
        ({"goal": lambda x: x[0]}, r"goal: on x of shape .* it returns shape \(1, 2"),
        ({"end": lambda x: x @ np.ones((3, 3))}, "end: write it to broadcast"),
    ],
)
def test_bad_constraints_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ConstrainedSystem(mass(), **options)
    batch = BANK["double well"].system()
    batch.x0 = np.zeros((2, 2))
    with pytest.raises(ValueError, match="it has 2 initial states"):
        ConstrainedSystem(batch, goal=moved)
