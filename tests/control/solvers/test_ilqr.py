from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize

from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.ilqr import DDP, ILQR
from deltatheory.control.solvers.riccati import lqr
from deltatheory.control.systems.analytic import AnalyticSystem, Derivatives, namespace
from deltatheory.control.systems.examples import attention_head, cart_pole, linear_quadratic, pendulum

OPTIMA = {"pendulum": 9.623984, "cart-pole": 22.060294}
"""Reached by L-BFGS of scipy, by crocoddyl and by a JAX iLQR as well (experiments/benchmarks/control.py)."""


def by_scipy(system: AnalyticSystem, start: np.ndarray, bounds=None):
    """The best controls near a start by a quasi-Newton method; its gradient: finite differences of J."""
    T, m = system.horizon, system.control_size

    def cost(flat):
        batch = np.atleast_2d(flat)
        U = np.moveaxis(batch.reshape(len(batch), T, m), 0, 1)
        X = [np.broadcast_to(system.x0, (len(batch), system.state_size))]
        for t in range(T):
            X.append(system.advance(t, X[-1], U[t]))
        return system.costs(np.stack(X), U)

    def slope(flat):
        units = 1e-6 * np.eye(flat.size)
        return (cost(flat + units) - cost(flat - units)) / 2e-6

    options = {"maxiter": 3000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9}
    return minimize(
        lambda f: cost(f)[0], start.ravel(), jac=slope, method="L-BFGS-B", bounds=bounds, options=options
    )


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
@pytest.mark.parametrize(("name", "most"), [("pendulum", 41), ("cart-pole", 200)])
def test_swing_ups_reach_the_optimum_of_other_solvers(solver, name, most):
    system = pendulum() if name == "pendulum" else cart_pole()
    found = solver.solve(system)
    assert found.status is Status.CONVERGED
    assert found.cost == pytest.approx(OPTIMA[name], abs=1e-6)
    assert found.details["iterations"] <= (most if isinstance(solver, ILQR) else 25)
    assert found.details["stationarity"] < (1e-4 if isinstance(solver, ILQR) else 1e-8)
    assert [row["iteration"] for row in found.history] == list(range(len(found.history)))
    assert (np.diff([row["cost"] for row in found.history]) <= 0).all()
    json.dumps(found.history)


def test_a_swing_up_is_a_minimum_that_scipy_cannot_improve():
    system = pendulum(horizon=20)
    found = DDP().solve(system)
    other = by_scipy(system, np.zeros(20))
    assert found.cost == pytest.approx(other.fun, abs=1e-6)
    np.testing.assert_allclose(found.value.ravel(), other.x, atol=1e-3)
    assert found.details["strict_minimum"]


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
def test_a_linear_quadratic_problem_takes_one_step(solver):
    system = linear_quadratic(4, 2, 20)
    found = solver.solve(system)
    F = system.expand(np.zeros((21, 1, 4)), np.zeros((20, 1, 2))).F[0, 0]
    exact = lqr(F[:, :4], F[:, 4:], np.eye(4), 0.1 * np.eye(2), terminal=np.eye(4), horizon=20)
    assert found.history[1]["cost"] == pytest.approx(found.cost, rel=1e-9)
    assert found.cost == pytest.approx(exact.cost(system.x0), rel=1e-12)
    np.testing.assert_allclose(found.value, exact.rollout(system.x0)[1], atol=1e-9)
    np.testing.assert_allclose(found.details["gains"], exact.gains, atol=1e-9)


def test_the_gradient_and_costates_are_those_at_the_controls_returned():
    system = attention_head(3, 2, 1, 3)
    start = 0.1 * np.random.default_rng(0).standard_normal((3, 4))
    found = ILQR(steps=2).solve(system, start=start)
    assert found.status is Status.BUDGET
    assert "steps" in found.remedy

    def cost(flat):
        x, states, U = system.x0, [system.x0], flat.reshape(3, 4)
        for t, u in enumerate(U):
            x = system.advance(t, x, u)
            states.append(x)
        return float(system.costs(np.stack(states), U))

    flat = found.value.ravel()
    units = 1e-6 * np.eye(flat.size)
    slope = np.array([(cost(flat + e) - cost(flat - e)) / 2e-6 for e in units])
    assert cost(flat) == pytest.approx(found.cost, rel=1e-12)
    np.testing.assert_allclose(found.details["gradient"].ravel(), slope, atol=1e-8)
    assert np.abs(slope).max() > 1e-5  # not yet at the optimum: the comparison is of something


def test_exact_second_derivatives_converge_in_fewer_steps_and_tell_a_saddle():
    system = attention_head()
    start = 0.1 * np.random.default_rng(0).standard_normal((3, 16))
    exact, first_order = (solver.solve(system, start=start) for solver in (DDP(), ILQR()))
    assert exact.cost == pytest.approx(first_order.cost, rel=1e-7)
    assert exact.details["iterations"] < first_order.details["iterations"]
    assert exact.details["strict_minimum"]
    saddle = DDP(tolerance=1e-7).solve(system)  # from zero the slots stay equal, until rounding has grown
    assert saddle.status is Status.CONVERGED
    assert saddle.cost > exact.cost + 0.01
    assert not saddle.details["strict_minimum"]


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
def test_a_batch_is_its_problems(solver):
    x0 = np.random.default_rng(1).uniform(-0.5, 0.5, (4, 2))
    together = solver.solve(pendulum(x0, horizon=30))
    assert together.value.shape == (4, 30, 1)
    for i, x in enumerate(x0):
        alone = solver.solve(pendulum(x, horizon=30))
        assert alone.value.shape == (30, 1)
        assert together.cost[i] == pytest.approx(alone.cost, rel=1e-10)
        assert together.details["iterations"][i] == alone.details["iterations"]
        np.testing.assert_allclose(together.value[i], alone.value, atol=1e-6)


@pytest.mark.parametrize("solver", [ILQR(tolerance=1e-12), DDP()], ids=["ilqr", "ddp"])
def test_torque_limits_are_kept_and_the_optimum_is_scipys(solver):
    system = pendulum(horizon=20, torque=4.0)
    found = solver.solve(system)
    other = by_scipy(system, found.value + 0.1, bounds=[(-4.0, 4.0)] * 20)
    assert found.status is Status.CONVERGED
    assert np.abs(found.value).max() == 4.0
    assert found.cost == pytest.approx(other.fun, abs=1e-6)
    assert found.details["stationarity"] < 1e-4
    free = ILQR().solve(pendulum(horizon=20))
    assert np.abs(free.value).max() > 5  # mutant: without the limit


def quadratic(step, derivatives=None, **options) -> AnalyticSystem:
    def running(t, x, u):
        return (x * x).sum(-1) + options.get("effort", 0.1) * (u * u).sum(-1)

    return AnalyticSystem(
        step, running, lambda x: (x * x).sum(-1), options.get("x0", [1.0]), 5, 1, derivatives=derivatives
    )


def test_an_unstable_start_that_overflows_diverges_with_a_remedy():
    found = ILQR().solve(quadratic(lambda t, x, u: 1e80 * x * x * x + u))
    assert found.status is Status.DIVERGED
    assert "start" in found.remedy
    assert found.history == []


def test_nan_dynamics_of_one_problem_leave_the_others_alone():
    system = quadratic(lambda t, x, u: 0.5 * x + u + 0 * namespace(x).sqrt(x + 10), x0=[[1.0], [-30.0]])
    found = ILQR().solve(system)
    assert found.status is Status.DIVERGED
    assert found.remedy.startswith("1 of 2")
    assert found.details["status"].tolist() == [Status.CONVERGED, Status.DIVERGED]
    assert np.isfinite(found.value[0]).all()


def test_a_cost_without_a_lower_bound_diverges_with_a_remedy():
    found = ILQR().solve(quadratic(lambda t, x, u: x + u, effort=-50.0))
    assert found.status is Status.DIVERGED
    assert "no lower bound" in found.remedy


def test_controls_that_move_nothing_and_cost_nothing_are_no_trouble():
    found = ILQR().solve(quadratic(lambda t, x, u: 0.5 * x + 0 * u, effort=0.0))
    assert found.status is Status.CONVERGED
    assert not found.value.any()


def wrong(d: Derivatives, what: str) -> Derivatives:
    """Derivatives with one mistake; "" for none."""
    signs = {"step": [-1, -1, -1], "control": [1, 1, -1], "rate": [1, 0.5, 1]}.get(what, [1, 1, 1])
    sign = -1 if what == "terminal cost" else 1

    def terminal(x):
        gradient, hessian = d.terminal_cost(x)
        return sign * gradient, hessian

    return Derivatives(lambda t, x, u: d.step(t, x, u) * signs, d.running_cost, terminal, d.curvature)


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
@pytest.mark.parametrize("mistake", ["step", "control", "rate", "terminal cost", ""])
def test_wrong_derivatives_stall_and_the_remedy_names_them(solver, mistake):
    true = pendulum(horizon=10)
    derivatives = wrong(true.derivatives, mistake)
    system = AnalyticSystem(
        true._step, true._running, true._terminal, true.x0, 10, 1, derivatives=derivatives
    )
    found, optimum = solver.solve(system), by_scipy(true, np.zeros(10)).fun
    if not mistake:
        assert found.status is Status.CONVERGED
        assert found.cost == pytest.approx(optimum, abs=1e-6)
        return
    assert found.status is Status.STALLED
    assert "derivatives given by hand may be wrong" in found.remedy
    assert found.cost > 1.2 * optimum
    assert found.cost == pytest.approx(float(system.costs(found.details["states"], found.value)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"step_sizes": 0}, "step_sizes=0"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"regularization": -1.0}, "regularization"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DDP(**options)


@pytest.mark.parametrize("start", [np.zeros((3, 1)), np.full((100, 1), np.nan)])
def test_bad_starts_are_named(start):
    with pytest.raises(ValueError, match="start"):
        ILQR().solve(pendulum(), start=start)


def test_each_step_is_reported():
    rows = []
    found = ILQR().solve(pendulum(horizon=10), on_step=rows.append)
    assert rows == found.history


# Statuses that are true --------------------------------------------------------------------------------


def linear(A, B, Q, R, r, x0, horizon, limit=np.inf) -> AnalyticSystem:
    """x' = Ax + Bu at ½xᵀQx + ½uᵀRu + rᵀu a step and ½xᵀQx at the end, |u| <= limit, with its derivatives."""
    n, m = B.shape
    F, L, c = np.hstack([A, B]), np.zeros((n + m, n + m)), np.concatenate([np.zeros(n), r])
    L[:n, :n], L[n:, n:] = Q, R

    def running(t, x, u):
        z = np.concatenate([x, u], -1)
        return 0.5 * ((z @ L) * z).sum(-1) + z @ c

    def of_running(t, x, u):
        z = np.concatenate([x, u], -1)
        return z @ L + c, np.broadcast_to(L, (*z.shape, n + m))

    derivatives = Derivatives(
        lambda t, x, u: np.broadcast_to(F, (*x.shape[:-1], *F.shape)),
        of_running,
        lambda x: (x @ Q, np.broadcast_to(Q, (*x.shape, n))),
        lambda t, x, u, p: np.zeros((*x.shape[:-1], n + m, n + m)),
    )
    return AnalyticSystem(
        lambda t, x, u: x @ A.T + u @ B.T,
        running,
        lambda x: 0.5 * ((x @ Q) * x).sum(-1),
        x0,
        horizon,
        m,
        derivatives=derivatives,
        control_limits=(-limit, limit),
    )


def condensed(A, B, Q, R, r, x0, horizon, limit) -> float:
    """The optimum of the same as one bounded least-squares problem in all controls, by scipy."""
    n, m = B.shape
    maps, free, x = np.zeros((horizon, n, horizon, m)), [], x0
    for t in range(horizon):
        x = A @ x
        free.append(x)
        for s in range(t + 1):
            maps[t, :, s] = np.linalg.matrix_power(A, t - s) @ B
    state, control = (np.kron(np.eye(horizon), np.linalg.cholesky(M).T) for M in (Q, R))
    pull = np.linalg.solve(control.T, np.tile(r, horizon))
    rows = np.vstack([state @ maps.reshape(horizon * n, horizon * m), control])
    right = np.concatenate([-state @ np.concatenate(free), -pull])
    found = lsq_linear(rows, right, (-limit, limit), "bvls", tol=1e-15, max_iter=10_000)
    return found.cost + 0.5 * x0 @ Q @ x0 - 0.5 * pull @ pull


def random_linear(seed):
    """Unstable or not, stiff or not, correlated controls, over scales of states, controls and costs."""
    rng = np.random.default_rng(seed)
    n, m, horizon = (int(rng.integers(1, most)) for most in (4, 5, 7))

    def definite(size, condition):
        basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
        return (basis * condition ** -rng.uniform(0, 1, size)) @ basis.T

    A = rng.choice([0.3, 1.0, 2.0]) * rng.standard_normal((n, n))
    B = 10 ** rng.uniform(-2, 2) * rng.standard_normal((n, m))
    R = 10 ** rng.uniform(-3, 3) * definite(m, rng.choice([1.0, 1e2, 1e4]))
    r, x0 = (10 ** rng.uniform(-3, 2) * rng.standard_normal(size) for size in (m, n))
    return A, B, definite(n, 1e2), R, r, x0, horizon, 10 ** rng.uniform(-2, 2)


@pytest.mark.parametrize("solver", [ILQR(steps=100), DDP(steps=100)], ids=["ilqr", "ddp"])
def test_converged_is_the_optimum_of_scipy(solver):
    converged = 0
    for seed in range(20):
        data = random_linear(seed)
        found = solver.solve(linear(*data))
        if found.status is Status.CONVERGED:
            assert found.cost == pytest.approx(condensed(*data), rel=1e-7), seed
            converged += 1
    assert converged >= 19


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
@pytest.mark.parametrize(("rate", "horizon"), [(1.2, 100), (2.0, 200)])
def test_the_cost_of_an_unstable_start_is_no_scale(solver, rate, horizon):
    """At u = 0 it is up to 1e120, of which a share of 1e-18 is far above the optimum."""
    A, B, one = np.array([[rate, 0.1], [0.0, rate]]), np.array([[0.0], [1.0]]), np.ones(2)
    found = solver.solve(linear(A, B, np.eye(2), np.eye(1), np.zeros(1), one, horizon))
    exact = lqr(A, B, np.eye(2), np.eye(1), terminal=np.eye(2), horizon=horizon)
    assert found.status is Status.CONVERGED
    assert found.cost == pytest.approx(exact.cost(one), rel=1e-9)
    assert found.details["stationarity"] < 1e-7  # its own derivative would be rounding times 2^200


def exploding():
    """From u = 0 the states overflow after nine of sixty steps."""
    return AnalyticSystem(
        lambda t, x, u: x + 0.1 * (x + x * x * x + u),
        lambda t, x, u: 0.1 * ((x * x).sum(-1) + (u * u).sum(-1)),
        lambda x: (x * x).sum(-1),
        [3.0],
        60,
        1,
    )


def unstable_line():
    """x' = 3x + u: 3^1000 is beyond every float, the optimum is that of Riccati."""
    return AnalyticSystem(
        lambda t, x, u: 3 * x + u,
        lambda t, x, u: 0.5 * ((x * x).sum(-1) + (u * u).sum(-1)),
        lambda x: 0.5 * (x * x).sum(-1),
        [1.0],
        1000,
        1,
    )


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
def test_a_start_that_overflows_is_made_feasible(solver):
    found = solver.solve(exploding())
    assert found.status is Status.CONVERGED
    stable = exploding()
    start, x = np.zeros((60, 1)), stable.x0
    for t in range(60):  # by feedback linearization, a start that nothing must be done for
        start[t] = -3 * x - x**3
        x = stable.advance(t, x, start[t])
    assert found.cost == pytest.approx(solver.solve(stable, start=start).cost, rel=1e-8)
    assert found.cost < float(by_scipy(stable, start).fun) * (1 + 1e-8)


def test_an_unstable_line_of_a_thousand_steps():
    found = ILQR().solve(unstable_line())
    exact = lqr([[3.0]], [[1.0]], [[1.0]], [[1.0]], terminal=[[1.0]], horizon=1000)
    assert found.status is Status.CONVERGED
    assert found.cost == pytest.approx(exact.cost([1.0]), rel=1e-12)


def joined(x, *columns):
    return namespace(x).stack(columns, -1)


def double_well():
    return AnalyticSystem(
        lambda t, x, u: joined(x, x[..., 0] + 0.1 * x[..., 1], x[..., 1] + 0.1 * u[..., 0]),
        lambda t, x, u: 0.05 * u[..., 0] ** 2 + 0 * x[..., 0],
        lambda x: 10 * (x[..., 0] ** 2 - 1) ** 2 + x[..., 1] ** 2 + 0.5 * x[..., 0],
        [0.0, 0.0],
        30,
        1,
    )


def van_der_pol():
    return AnalyticSystem(
        lambda t, x, u: joined(
            x,
            x[..., 0] + 0.25 * ((1 - x[..., 1] ** 2) * x[..., 0] - x[..., 1] + u[..., 0]),
            x[..., 1] + 0.25 * x[..., 0],
        ),
        lambda t, x, u: 0.25 * ((x * x).sum(-1) + u[..., 0] ** 2),
        lambda x: 0 * x[..., 0],
        [0.0, 1.0],
        40,
        1,
        control_limits=(-1.0, 1.0),
    )


def reached_for_nothing():
    """The cost at the optimum is 0: no share of it is positive."""
    return AnalyticSystem(
        lambda t, x, u: x + namespace(u).sin(u),
        lambda t, x, u: 0 * u[..., 0],
        lambda x: (x[..., 0] - 1.3) ** 2,
        [0.0],
        3,
        1,
    )


def offset():
    """A constant in the cost makes its share larger than all that there is to gain."""
    return AnalyticSystem(
        lambda t, x, u: x + u - 0.1 * x * x * x,
        lambda t, x, u: 1e9 + 0.5 * (u * u).sum(-1),
        lambda x: (x * x).sum(-1),
        [0.01],
        5,
        1,
    )


@pytest.mark.parametrize("solver", [ILQR(steps=100), DDP(steps=100)], ids=["ilqr", "ddp"])
@pytest.mark.parametrize("make", [double_well, van_der_pol, reached_for_nothing, offset])
def test_an_optimum_is_not_called_stalled_nor_another_point_an_optimum(make, solver):
    system = make()
    found = solver.solve(system)
    assert found.status is Status.CONVERGED
    assert found.details["stationarity"] < 1e-5
    again = solver.solve(system, start=found.value)
    assert again.status is Status.CONVERGED
    assert again.details["iterations"] == 1


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
def test_correlated_controls_at_their_bounds(solver):
    """The box-constrained problem whose old solution had a projected gradient of .044."""
    H = np.array(
        [
            [0.19599601, 0.08920346, 0.06931033],
            [0.08920346, 0.76306521, 0.40141569],
            [0.06931033, 0.40141569, 0.2568463],
        ]
    )
    g = np.array([-0.47065938, -0.17281994, -0.1700147])

    def running(t, x, u):
        h, q = (torch.from_numpy(H), torch.from_numpy(g)) if isinstance(u, torch.Tensor) else (H, g)
        return 0.5 * ((u @ h) * u).sum(-1) + (u * q).sum(-1)

    system = AnalyticSystem(
        lambda t, x, u: x + 0 * u[..., :1],
        running,
        lambda x: 0 * x[..., 0],
        [0.0],
        1,
        3,
        control_limits=(-1.0, 1.0),
    )
    found = solver.solve(system)
    assert found.status is Status.CONVERGED
    assert found.details["stationarity"] < 1e-12
    np.testing.assert_allclose(found.value, [[1.0, -0.41647713, 1.0]], atol=1e-8)
