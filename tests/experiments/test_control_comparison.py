"""The comparison with other solvers of control: each gets the bank's problem, and what is missing is said."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.benchmarks import control
from experiments.benchmarks.control_bank import BANK
from experiments.benchmarks.control_crocoddyl import BY_HAND

PAIRS = [
    (one, problem)
    for one in control.CONTESTANTS
    for problem in ("pendulum", "weak pendulum")
    if problem in one.problems and not one.name.startswith("ours")
]


@pytest.mark.parametrize("name", BY_HAND)
def test_derivatives_by_hand_are_those_of_the_statement(name):
    stated, by_hand = BANK[name], BY_HAND[name]
    n, rng = len(stated.x0), np.random.default_rng(0)
    X, U = rng.standard_normal((stated.horizon + 1, 1, n)), rng.standard_normal((stated.horizon, 1, 1))
    model = stated.system().expand(X, U)
    F = [by_hand.jacobian(x.tolist(), u.tolist()) for x, u in zip(X[:-1, 0], U[:, 0], strict=True)]
    np.testing.assert_allclose(F, model.F[:, 0], rtol=1e-12, atol=1e-13)
    error = np.concatenate([X[:-1], U], -1) - by_hand.goal
    np.testing.assert_allclose(error * by_hand.weights, model.gradient, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(np.diag(by_hand.weights), model.hessian[0, 0], atol=1e-15)
    np.testing.assert_allclose(
        by_hand.final * (X[-1] - by_hand.goal[:n]), model.terminal_gradient, rtol=1e-12
    )
    np.testing.assert_allclose(by_hand.final * np.eye(n), model.terminal_hessian[0], atol=1e-13)


def test_what_is_not_installed_is_said_in_its_row(monkeypatch):
    monkeypatch.setattr(control, "TWELVE", ("unicycle",))
    monkeypatch.setattr(control, "find_spec", lambda package: None)
    monkeypatch.setattr(control.shutil, "which", lambda program: None)
    found = control.compared(1)
    assert {row["contestant"]: row["skipped"] for row in found if "skipped" in row} == {
        "ours, DDP, derivatives by torch": "torch not installed",
        "CasADi + IPOPT": "casadi not installed",
        "crocoddyl FDDP, C++ model": "crocoddyl, casadi, c++ not installed",
        "crocoddyl FDDP, Python model, differences": "crocoddyl not installed",
        "JAX DDP, jitted": "jax not installed",
    }
    assert "| unicycle | JAX DDP, jitted | jax not installed |" in control.comparison(found)
    assert control.summary(found).splitlines()[2] == "| ours, DDP | 1 of 1 | 1 | 1 to 1 | 1 |"


@pytest.mark.parametrize(("other", "problem"), PAIRS, ids=lambda one: getattr(one, "name", one))
def test_others_reach_the_optimum(other, problem):
    if missing := other.missing():
        pytest.skip(f"{', '.join(missing)} not installed")
    cost, iterations = other.build(problem)()
    assert cost == pytest.approx(BANK[problem].optimum, rel=BANK[problem].tolerance)
    assert iterations < 100
