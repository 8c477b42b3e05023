from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are
from scipy.optimize import lsq_linear

from deltatheory import autodiff
from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.riccati import AffineTerms, box_qp, lqr

N, M, T, PROBLEMS = 3, 2, 12, 4
NAMES = ("A", "B", "Q", "R", "S", "c", "q", "r", "terminal", "terminal_linear")


def data(seed: int = 0, batch: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Random time-varying data with cross and affine terms; the joint stage Hessian is positive definite."""
    g = np.random.default_rng(seed)
    root = g.standard_normal((*batch, T, N + M, N + M))
    stage = root @ root.swapaxes(-1, -2) + 0.1 * np.eye(N + M)
    end = g.standard_normal((*batch, N, N))
    return {
        "A": g.standard_normal((*batch, T, N, N)) * 0.8,
        "B": g.standard_normal((*batch, T, N, M)),
        "Q": stage[..., :N, :N],
        "R": stage[..., N:, N:],
        "S": stage[..., :N, N:],
        "c": g.standard_normal((*batch, T, N)),
        "q": g.standard_normal((*batch, T, N)),
        "r": g.standard_normal((*batch, T, M)),
        "terminal": end @ end.swapaxes(-1, -2),
        "terminal_linear": g.standard_normal((*batch, N)),
    }


def solved(d: dict[str, np.ndarray]):
    affine = {name: d.get(name) for name in ("c", "q", "r", "terminal_linear")}
    return lqr(affine=AffineTerms(**affine), **{name: a for name, a in d.items() if name not in affine})


def cost(d: dict[str, np.ndarray], x0: np.ndarray, U: np.ndarray) -> tuple[float, np.ndarray]:
    """J and the states, term by term as in the docstring."""
    x, states, J = x0, [x0], 0.0
    for t, u in enumerate(U):
        Q, R, S = d["Q"][t], d["R"][t], d["S"][t]
        J += x @ Q @ x / 2 + x @ S @ u + u @ R @ u / 2 + d["q"][t] @ x + d["r"][t] @ u
        x = d["A"][t] @ x + d["B"][t] @ u + d["c"][t]
        states.append(x)
    return J + x @ d["terminal"] @ x / 2 + d["terminal_linear"] @ x, np.array(states)


def test_a_long_horizon_is_the_algebraic_equation_of_scipy():
    g = np.random.default_rng(1)
    n, m = 6, 2
    A, B = g.standard_normal((n, n)), g.standard_normal((n, m))
    A *= 1.1 / np.abs(np.linalg.eigvals(A)).max()
    S = 0.1 * g.standard_normal((n, m))
    P = solve_discrete_are(A, B, np.eye(n), np.eye(m), s=S)
    found = lqr(A, B, np.eye(n), np.eye(m), S=S, horizon=300)
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.P[0], P, rtol=1e-11, atol=1e-11)
    K = -np.linalg.solve(np.eye(m) + B.T @ P @ B, B.T @ P @ A + S.T)
    np.testing.assert_allclose(found.gains[0], K, rtol=1e-10, atol=1e-11)
    assert np.abs(lqr(A, B, np.eye(n), np.eye(m), horizon=300).P[0] - P).max() > 1e-3  # mutant: no cross term


@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_quadratic_program_of_cvxpy_has_the_same_optimum(limit):
    cvxpy = pytest.importorskip("cvxpy")
    from deltatheory.control.solvers.ilqr import ILQR
    from deltatheory.control.systems.analytic import AnalyticSystem, namespace

    d, x0 = data(2), np.random.default_rng(3).standard_normal(N)
    x, u = cvxpy.Variable((T + 1, N)), cvxpy.Variable((T, M))
    J, constraints = d["terminal_linear"] @ x[T], [x[0] == x0]
    J += cvxpy.sum_squares(np.linalg.cholesky(d["terminal"]).T @ x[T]) / 2
    for t in range(T):
        stage = np.linalg.cholesky(np.block([[d["Q"][t], d["S"][t]], [d["S"][t].T, d["R"][t]]]))
        J += cvxpy.sum_squares(stage.T @ cvxpy.hstack([x[t], u[t]])) / 2 + d["q"][t] @ x[t] + d["r"][t] @ u[t]
        constraints.append(x[t + 1] == d["A"][t] @ x[t] + d["B"][t] @ u[t] + d["c"][t])
    if limit is not None:
        constraints.append(cvxpy.abs(u) <= limit)
    tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    optimum = cvxpy.Problem(cvxpy.Minimize(J), constraints).solve(solver="CLARABEL", **tight)
    if limit is None:
        found = solved(d)
        states, controls = found.rollout(x0)
        assert found.cost(x0) == pytest.approx(optimum, abs=1e-8)
        np.testing.assert_allclose(states, x.value, atol=1e-7)
    else:

        def at(name, t, like):
            return namespace(like).asarray(d[name][t])

        def product(matrix, vector):
            return (matrix @ vector[..., None])[..., 0]

        def running(t, y, v):
            quadratic = (y * product(at("Q", t, y), y) + 2 * product(at("S", t, y), v) * y).sum(-1) / 2
            effort = (v * product(at("R", t, y), v)).sum(-1) / 2
            return quadratic + effort + (at("q", t, y) * y).sum(-1) + (at("r", t, y) * v).sum(-1)

        system = AnalyticSystem(
            lambda t, y, v: product(at("A", t, y), y) + product(at("B", t, y), v) + at("c", t, y),
            running,
            lambda y: (
                (y * product(namespace(y).asarray(d["terminal"]), y)).sum(-1) / 2
                + (y * namespace(y).asarray(d["terminal_linear"])).sum(-1)
            ),
            x0,
            T,
            M,
            control_limits=(-limit, limit),
        )
        found = ILQR(tolerance=1e-13).solve(system)
        controls = found.value
        assert found.status is Status.CONVERGED
        assert found.cost == pytest.approx(optimum, abs=1e-8)
        assert (np.abs(controls) == limit).any()  # otherwise the limit tests nothing
        assert found.details["stationarity"] < 1e-5
    np.testing.assert_allclose(controls, u.value, atol=1e-6)


def test_completion_of_squares():
    """T34: J(u) = V_0(x_0) + ½ Σ |u_t - K_t x_t - k_t|² in the metric R + BᵀPB, for any controls."""
    d, g = data(4), np.random.default_rng(5)
    x0, U = g.standard_normal(N), g.standard_normal((T, M))
    found = solved(d)
    J, states = cost(d, x0, U)

    def completed(gains: np.ndarray) -> float:
        error = U - (gains @ states[:-1, :, None])[..., 0] - found.feedforward
        return found.cost(x0) + 0.5 * np.einsum("ti,tij,tj", error, found.curvature, error)

    assert completed(found.gains) == pytest.approx(J, rel=1e-11)
    assert abs(completed(found.gains * 1.01) - J) > 1e-3 * abs(J)  # mutant: other gains
    optimal = found.rollout(x0)
    assert cost(d, x0, optimal[1])[0] == pytest.approx(found.cost(x0), rel=1e-11)
    np.testing.assert_allclose(cost(d, x0, optimal[1])[1], optimal[0], rtol=1e-12)


def test_one_gauss_newton_step_is_one_affine_lqr_step():
    """T35: ½ Σ |r_t(x_t, u_t)|² + ½ |r_T(x_T)|² on nonlinear dynamics, linearized at random controls."""
    g = np.random.default_rng(6)
    W, B, C, D, E = (torch.from_numpy(g.standard_normal(s)) for s in ((N, N), (N, M), (5, N), (5, M), (N, N)))
    x0, U = torch.from_numpy(g.standard_normal(N)), torch.from_numpy(g.standard_normal((T, M)))

    def step(z):
        return torch.tanh(W @ z[:N]) + B @ z[N:]

    def residual(z):
        return torch.sin(C @ z[:N] + D @ z[N:]) + 0.3 * (C @ z[:N])

    def stacked(flat):
        x, rows = x0, []
        for u in flat.view(T, M):
            z = torch.cat([x, u])
            rows.append(residual(z))
            x = step(z)
        return torch.cat([*rows, E @ x])

    J = torch.cat(list(autodiff.jacobian_rows(stacked, U.flatten()))).numpy()
    r = stacked(U.flatten()).numpy()
    newton = -np.linalg.solve(J.T @ J, J.T @ r).reshape(T, M)

    def rows(f, z):
        return torch.cat(list(autodiff.jacobian_rows(f, z))).numpy()

    x, stage = x0, {name: [] for name in ("A", "B", "Q", "R", "S", "q", "r")}
    for u in U:
        z = torch.cat([x, u])
        F, G, value = rows(step, z), rows(residual, z), residual(z).numpy()
        H, gradient = G.T @ G, G.T @ value
        parts = (F[:, :N], F[:, N:], H[:N, :N], H[N:, N:], H[:N, N:], gradient[:N], gradient[N:])
        for name, part in zip(stage, parts, strict=True):
            stage[name].append(part)
        x = step(z)
    given = {name: np.array(parts) for name, parts in stage.items()}
    end = {"terminal": (E.T @ E).numpy(), "terminal_linear": (E.T @ E @ x).numpy()}

    found = solved(given | end)
    _, change = found.rollout(np.zeros(N))
    np.testing.assert_allclose(change, newton, atol=1e-10)
    predicted = 0.5 * r @ r + found.cost(np.zeros(N))
    assert predicted == pytest.approx(0.5 * np.square(r + J @ newton.ravel()).sum(), rel=1e-10)
    mutant = solved(given | end | {"S": np.zeros_like(given["S"])}).rollout(np.zeros(N))[1]
    assert np.abs(mutant - newton).max() > 1e-2


def test_a_batch_is_its_problems():
    d, x0 = data(7, (PROBLEMS,)), np.random.default_rng(8).standard_normal((PROBLEMS, N))
    d["q"] = d["q"][0]  # shared by the problems
    found = solved(d)
    states, controls = found.rollout(x0)
    assert found.gains.shape == (PROBLEMS, T, M, N)
    assert found.failed.shape == (PROBLEMS,)
    for i in range(PROBLEMS):
        one = solved({name: a if name == "q" else a[i] for name, a in d.items()})
        np.testing.assert_allclose(found.P[i], one.P, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.cost(x0)[i], one.cost(x0[i]), rtol=1e-12)
        np.testing.assert_allclose(states[i], one.rollout(x0[i])[0], rtol=1e-10)
        np.testing.assert_allclose(controls[i], one.rollout(x0[i])[1], rtol=1e-10)


def test_only_failing_problems_fail():
    d = data(9, (2,))
    d["R"][1, 5] -= 1e4 * np.eye(M)
    found = solved(d)
    assert found.status is Status.ILL_CONDITIONED
    assert "t = 5" in found.remedy
    assert found.failed.tolist() == [False, True]
    alone = solved({name: a[0] for name, a in d.items()})
    np.testing.assert_allclose(found.gains[0], alone.gains)


def test_rank_deficient_controls_without_a_cost_are_no_silent_result():
    found = lqr(np.eye(N), np.ones((N, M)), np.eye(N), np.zeros((M, M)), terminal=np.eye(N), horizon=3)
    assert found.status is Status.ILL_CONDITIONED
    paid = lqr(np.eye(N), np.zeros((N, M)), np.eye(N), np.eye(M), terminal=np.eye(N), horizon=3)
    assert paid.status is Status.CONVERGED
    assert not paid.gains.any()
    assert paid.P[0] == pytest.approx(4 * np.eye(N))


def test_an_unstable_system_over_a_long_horizon_overflows_and_says_so():
    found = lqr(1e3 * np.eye(N), np.zeros((N, M)), np.eye(N), np.eye(M), terminal=np.eye(N), horizon=200)
    assert found.status is Status.DIVERGED
    assert "unstable" in found.remedy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.zeros((T, N, N + 1))}, "A: its shape"),
        ({"S": np.zeros((M, N))}, "S: its shape"),
        ({"B": np.zeros(N)}, "B: its shape"),
        ({"terminal": np.zeros((2, 2, N, N))}, "terminal: its shape"),
        ({"Q": np.full((N, N), np.nan)}, "Q: it has NaN"),
        ({"R": np.zeros((T + 1, M, M))}, "horizon: the arguments say"),
        ({"horizon": T + 1}, "horizon: the arguments say"),
        ({"A": np.zeros((2, T, N, N)), "B": np.zeros((3, T, N, M))}, "problems: the arguments have"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        solved(data() | change)


@pytest.mark.parametrize("horizon", [0, -1, None])
def test_there_must_be_a_horizon(horizon):
    with pytest.raises(ValueError, match="horizon"):
        lqr(np.eye(N), np.ones((N, M)), np.eye(N), np.eye(M), horizon=horizon)


@pytest.mark.parametrize("m", [1, 2, 5])
def test_box_qp_satisfies_the_optimality_conditions(m):
    g = np.random.default_rng(m)
    root, gradient = g.standard_normal((200, m, m)), 3 * g.standard_normal((200, m))
    H = root @ root.swapaxes(-1, -2) + 0.01 * np.eye(m)
    low, high = -g.uniform(0, 1, (200, m)), g.uniform(0, 1, (200, m))
    u, free = box_qp(H, gradient, low, high)
    assert ((low <= u) & (u <= high)).all()
    slope = gradient + (H @ u[..., None])[..., 0]
    projected = u - np.clip(u - slope, low, high)
    assert np.abs(projected).max() < 1e-9
    assert (free == ((low < u) & (u < high))).all()
    clipped = np.clip(-np.linalg.solve(H, gradient[..., None])[..., 0], low, high)  # mutant: clip and be done
    slope = gradient + (H @ clipped[..., None])[..., 0]
    assert m == 1 or np.abs(clipped - np.clip(clipped - slope, low, high)).max() > 0.1


def optimality(H, g, u, low, high):
    """The largest derivative that neither vanishes nor points out of the box, relative to its terms."""
    slope = g + (H @ u[..., None])[..., 0]
    held = (u <= low) & (slope > 0) | (u >= high) & (slope < 0)
    terms = np.abs(g) + (np.abs(H) @ np.abs(u)[..., None])[..., 0]
    return np.where(held, 0, np.abs(slope)).max(-1) / terms.max(-1)


@pytest.mark.parametrize(("m", "count"), [(3, 1500), (8, 400), (100, 2)])
@pytest.mark.parametrize("condition", [1e1, 1e4, 1e8])
def test_box_qp_with_correlated_controls(m, count, condition):
    """A line search that ends before the first bound of the path leaves such problems where they are."""
    rng = np.random.default_rng(m)
    basis = np.linalg.qr(rng.standard_normal((count, m, m)))[0]
    values = condition ** -rng.uniform(0, 1, (count, m))
    H = (basis * values[:, None]) @ basis.swapaxes(-1, -2)
    g = rng.standard_normal((count, m)) * np.exp(rng.uniform(-3, 1, (count, 1)))
    low, high = -rng.uniform(0.5, 1, (count, m)), rng.uniform(0.5, 1, (count, m))
    u, free = box_qp(H, g, low, high)
    assert optimality(H, g, u, low, high).max() < 1e-13
    assert (free == ((low < u) & (u < high))).all()
    root = np.linalg.cholesky(H[0]).T
    found = lsq_linear(root, np.linalg.solve(root.T, -g[0]), (low[0], high[0]), "bvls", tol=1e-14)
    np.testing.assert_allclose(u[0], found.x, atol=1e-15 * condition + 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"H": np.full((3, 3), np.nan)}, "H: it has NaN"),
        ({"g": np.full(3, np.inf)}, "g: it has NaN or infinite"),
        ({"H": -np.eye(3)}, "H: it is not positive definite"),
        ({"low": np.ones(3)}, "low: it is above high"),
        ({"low": np.full(3, np.nan)}, "low: it is above high"),
    ],
)
def test_box_qp_of_no_problem_is_refused(changes, message):
    problem = {"H": np.eye(3), "g": np.ones(3), "low": -np.ones(3), "high": np.zeros(3)}
    with pytest.raises(ValueError, match=message):
        box_qp(**problem | changes)
