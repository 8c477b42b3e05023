"""No false "converged": random unstable, stiff and box-bounded problems, their KKT conditions checked apart.

A hundred here; `STATUSES=2000 pytest tests/control/solvers/test_statuses.py` for as many as that.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy import sparse

from deltatheory.control.solvers import DDP, ILQR, Status
from deltatheory.control.systems.analytic import AnalyticSystem, namespace

PROBLEMS = int(os.environ.get("STATUSES", "100"))
CHECKED = 1e-6  # of the cost's scale: what a point called optimal may be above another near it


def linear(rng: np.random.Generator) -> tuple:
    """A, B, q, R, S of ½Σ q x² + ½uᵀRu, unstable (spectral radius to 3) or stiff (rates over 6 decades)."""
    n, m = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    stiff = rng.random() < 0.5
    rates = 10 ** rng.uniform(-6, -0.01, n) if stiff else rng.uniform(0.9, 3.0, n) * rng.choice([-1, 1], n)
    A = basis @ np.diag(rates) @ basis.T + (0.0 if stiff else 0.1) * np.triu(rng.standard_normal((n, n)), 1)
    B = 10 ** rng.uniform(-2, 2) * rng.standard_normal((n, m))
    root = rng.standard_normal((m, m))
    R = 10 ** rng.uniform(-3, 3) * (root @ root.T / m + 0.01 * np.eye(m))
    q = 10 ** rng.uniform(-3, 1, n)
    return A, B, q, R


def running_of(q, R, bend):
    def running(t, x, u):
        xp = namespace(x)
        quadratic = 0.5 * (x * x * xp.asarray(q)).sum(-1) + 0.5 * ((u @ xp.asarray(R)) * u).sum(-1)
        return quadratic + bend * (x * x * x * x).sum(-1)

    return running


def random_problem(seed: int) -> AnalyticSystem:
    rng = np.random.default_rng(seed)
    A, B, q, R = linear(rng)
    n, m = B.shape
    horizon = int(rng.integers(1, 16 if PROBLEMS <= 100 else 40))
    kind = ("linear", "saturated", "cubic", "oscillator")[seed % 4]
    limit = 10 ** rng.uniform(-2, 2) if rng.random() < 0.6 else np.inf
    x0 = 10 ** rng.uniform(-2, 1) * rng.standard_normal(n)
    bend = 0.0 if kind == "linear" else float(rng.choice([0.0, 0.01]))

    def step(t, x, u):
        xp = namespace(x)
        A_, B_ = xp.asarray(A.T), xp.asarray(B.T)
        if kind == "linear":
            return x @ A_ + u @ B_
        if kind == "saturated":
            return xp.tanh(x @ A_) * 2 + u @ B_
        if kind == "cubic":
            return x + 0.1 * (x - x * x * x / (1 + x * x)) @ A_ + 0.1 * u @ B_
        return (
            x
            + 0.2 * xp.sin(x @ A_)
            + 0.2 * u @ B_ * (1 + 0.3 * xp.cos(xp.asarray(np.asarray(t)[..., None]) + x[..., :1]))
        )

    system = AnalyticSystem(
        step,
        running_of(q, R, bend),
        lambda x: 5 * (x * x * namespace(x).asarray(q)).sum(-1),
        x0,
        horizon,
        m,
        control_limits=None if np.isinf(limit) else (-limit, limit),
    )
    system.data = A, B, q, R
    return system


def quadratic_program(system: AnalyticSystem) -> float:
    """The optimum of a linear problem by Clarabel, an interior-point method over states and controls.

    Infinity where it does not solve it: states that a bounded control cannot hold grow beyond its scaling.
    """
    clarabel = pytest.importorskip("clarabel")
    A, B, q, R = system.data
    T, (n, m) = system.horizon, B.shape
    P = sparse.block_diag([*[sparse.diags(q)] * T, sparse.diags(10 * q), *[sparse.csc_matrix(R)] * T]).tocsc()
    shift = sparse.eye(T + 1, k=-1).tocsc()[:, : T + 1]
    dynamics = sparse.hstack(
        [
            sparse.kron(sparse.eye(T + 1), np.eye(n)) - sparse.kron(shift, A),
            sparse.kron(sparse.eye(T + 1, T, k=-1), -B),
        ]
    )
    right = np.concatenate([system.x0, np.zeros(T * n)])
    rows, cones = [dynamics], [clarabel.ZeroConeT((T + 1) * n)]
    if system.control_limits is not None:
        pick = sparse.hstack([sparse.csc_matrix((T * m, (T + 1) * n)), sparse.eye(T * m)])
        rows += [pick, -pick]
        low, high = system.control_limits
        right = np.concatenate([right, np.tile(high, T), -np.tile(low, T)])
        cones.append(clarabel.NonnegativeConeT(2 * T * m))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    found = clarabel.DefaultSolver(
        sparse.triu(P).tocsc(), np.zeros(P.shape[0]), sparse.vstack(rows).tocsc(), right, cones, settings
    ).solve()
    return found.obj_val if found.status == clarabel.SolverStatus.Solved else np.inf


def slopes(f, z):
    """Differences along the last axis of z, (..., k): no derivative of the package has a part in them."""
    h = 1e-6 * np.maximum(1.0, np.abs(z))
    units = np.eye(z.shape[-1]) * h[..., None, :]
    up, down = (
        np.stack([f(z + sign * units[..., i, :]) for i in range(z.shape[-1])], -1) for sign in (1, -1)
    )
    return (up - down) / (2 * h if up.ndim == z.ndim else 2 * h[..., None, :])


def kkt(system: AnalyticSystem, X: np.ndarray, U: np.ndarray) -> float:
    """The KKT residual in states and controls, relative to the terms that cancel in it.

    The multipliers of the dynamics are those of least squares, so that nothing runs through an unstable
    system; a control at its bound, up to rounding, must only be pressed against it.
    """
    T, n, m = system.horizon, system.state_size, system.control_size
    z, t = np.concatenate([X[:-1], U], -1), np.arange(T)
    F = slopes(lambda y: system._step(t, y[..., :n], y[..., n:]), z)
    own = slopes(lambda y: system._running(t, y[..., :n], y[..., n:]), z)
    end = slopes(system._terminal, X[-1])
    rows = np.zeros((T, n + m, T, n))  # of stage t, by multiplier of x_{t+1}
    for s in range(T):
        rows[s, :, s] = F[s].T
        if s:
            rows[s, :n, s - 1] = -np.eye(n)
    free = np.ones((T, n + m), dtype=bool)
    free[0, :n] = False  # x_0 is given
    low, high = system.control_limits or (np.full(m, -np.inf), np.full(m, np.inf))
    rounding = 4 * np.finfo(float).eps * np.abs(U)
    at = np.where(low >= U - rounding, -1, np.where(high <= U + rounding, 1, 0))
    free[:, n:] &= at == 0
    last = np.zeros((n, T, n))
    last[:, -1] = -np.eye(n)
    matrix = np.concatenate([rows[free], last]).reshape(-1, T * n)
    p = np.linalg.lstsq(matrix, -np.concatenate([own[free], end]), rcond=None)[0]
    residual = own + (rows.reshape(T * (n + m), -1) @ p).reshape(T, n + m)
    size = np.abs(own) + (np.abs(rows).reshape(T * (n + m), -1) @ np.abs(p)).reshape(T, n + m)
    pressed = np.where(at == 0, np.abs(residual[:, n:]), np.maximum(residual[:, n:] * at, 0))
    return max(np.abs(residual[:, :n] * free[:, :n]).max(), pressed.max()) / size.max()


def along_the_gradient(system: AnalyticSystem, U: np.ndarray) -> float:
    """By how much the cost falls, at most, from U along the projected gradient, that of differences.

    Steps are short, as elsewhere there may be other minima.
    """
    n, T = system.state_size, len(U)
    low, high = system.control_limits or (-np.inf, np.inf)

    def rolled(V):
        X = [np.broadcast_to(system.x0, (V.shape[1], n))]
        for t in range(T):
            X.append(system.advance(t, X[-1], V[t]))
        X = np.stack(X)
        return X, system.costs(X, V)

    X, J = rolled(U[:, None])
    z, t = np.concatenate([X[:-1, 0], U], -1), np.arange(T)
    F = slopes(lambda y: system._step(t, y[..., :n], y[..., n:]), z)
    own = slopes(lambda y: system._running(t, y[..., :n], y[..., n:]), z)
    p, gradient = slopes(system._terminal, X[-1, 0]), np.empty_like(U)
    for s in range(T - 1, -1, -1):
        whole = own[s] + p @ F[s]
        p, gradient[s] = whole[:n], whole[n:]
    sizes = (
        10.0 ** np.arange(-12, -1)[:, None, None] * (1 + np.abs(U).max()) / (1e-300 + np.abs(gradient).max())
    )
    trials = np.clip(U - sizes * gradient, low, high)
    return float(J[0] - rolled(trials.swapaxes(0, 1))[1].min())


def kkt_of_linear(system: AnalyticSystem, U: np.ndarray) -> float:
    """The projected gradient relative to the largest, in extended precision.

    For what bounded controls cannot hold: states that grow to 10^30 leave nothing of least squares.
    """
    A, B, q, R = (np.asarray(one, dtype=np.longdouble) for one in system.data)
    X = [system.x0.astype(np.longdouble)]
    for u in U:
        X.append(A @ X[-1] + B @ u)
    p, gradient = 10 * q * X[-1], np.empty(U.shape, dtype=np.longdouble)
    for t in range(len(U) - 1, -1, -1):
        gradient[t] = R @ U[t] + B.T @ p
        p = q * X[t] + A.T @ p
    limits = system.control_limits
    projected = gradient if limits is None else U - np.clip(U - gradient, *limits)
    projected = np.where(np.sign(projected) == 0, 0, gradient)
    return float(np.abs(projected).max() / np.abs(gradient).max())


def determined(system: AnalyticSystem, X: np.ndarray, U: np.ndarray) -> bool:
    """Whether rounding of controls and states moves the end of the trajectory by less than 10⁻⁶ of it."""
    F = system.expand(X[:, None], U[:, None]).F[:, 0, :, : X.shape[-1]]
    growth, largest = np.eye(X.shape[-1]), 1.0
    for A in F:
        growth = A @ growth
        largest = max(largest, float(np.linalg.norm(growth)))
    return largest < 1e10


@pytest.mark.parametrize("first", range(0, PROBLEMS, 20))
def test_converged_is_a_kkt_point_that_nothing_near_improves(first):
    """The residual of KKT, Clarabel's optimum where the problem is linear, a line search: all agree."""
    converged = 0
    with np.errstate(all="ignore"):
        for seed in range(first, first + 20):
            system = random_problem(seed)
            found = (ILQR, DDP)[seed // 4 % 2](steps=200).solve(system)
            assert bool(found.remedy) == (found.status is not Status.CONVERGED)
            if found.status is not Status.CONVERGED:
                continue
            converged += 1
            X, U = found.details["states"], found.value
            scale = CHECKED * float(system.magnitude(X, U))
            residual = kkt(system, X, U)
            if seed % 4 == 0 and residual >= 1e-3:
                residual = kkt_of_linear(system, U)
            assert residual < 1e-3, seed
            if determined(system, X, U):
                assert along_the_gradient(system, U) <= scale, seed
            if seed % 4 == 0:
                assert found.cost <= quadratic_program(system) + scale, seed
    assert converged >= 17
