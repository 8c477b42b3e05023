from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.low_rank_riccati import low_rank_riccati
from deltatheory.control.solvers.riccati import lqr
from deltatheory.control.systems.system import System


def stable(rng, d, t):
    return [torch.from_numpy(rng.standard_normal((d, d)) / np.sqrt(d)) for _ in range(t)]


def outputs(rng, d, ks):
    return [torch.from_numpy(np.linalg.qr(rng.standard_normal((d, k)))[0]) for k in ks]


def dense_gains(A, V, q, r, rank_one_term=1.0):
    """The textbook recursion with full matrices in numpy; `rank_one_term` below 1 is the mutant."""
    d = A[0].shape[0]
    A, V = [a.numpy() for a in A], [v.numpy() for v in V]
    S, gains = q * V[-1] @ V[-1].T, []
    for t in reversed(range(len(A))):
        K = np.linalg.solve(S + r * np.eye(d), S @ A[t])
        gains.insert(0, K)
        S = q * V[t] @ V[t].T + rank_one_term * A[t].T @ S @ (A[t] - K)
    return gains, S


def solve(A, V, q=1.0, r=1.0):
    return low_rank_riccati([lambda w, a=a: a.T @ w for a in A], V, state_weight=q, control_weight=r)


@pytest.mark.parametrize(
    ("d", "ks", "q", "r"),
    [
        (5, [2, 2], 1.0, 1.0),
        (16, [3] * 5, 10.0, 0.1),
        (40, [1] * 13, 1e3, 1.0),
        (24, [0, 0, 2, 1, 4], 2.0, 3.0),
    ],
)
def test_gains_and_cost_are_those_of_the_dense_recursion(d, ks, q, r):
    rng = np.random.default_rng(d)
    A, V = stable(rng, d, len(ks) - 1), outputs(rng, d, ks)
    solution = solve(A, V, q, r)
    expected, S = dense_gains(A, V, q, r)
    mutant, _ = dense_gains(A, V, q, r, rank_one_term=0.999)
    gains = solution.value
    assert solution.status is Status.CONVERGED
    worst = max(np.abs(gains.gain(t).numpy() - K).max() / np.abs(K).max() for t, K in enumerate(expected))
    assert worst < 1e-12
    np.testing.assert_allclose(
        (gains.factors[0] @ gains.factors[0].T).numpy(), S, atol=1e-11 * np.abs(S).max()
    )
    assert solution.cost == pytest.approx(np.trace(S))
    if len(A) > 1:
        assert any(np.abs(gains.gain(t).numpy() - K).max() > 1e-6 for t, K in enumerate(mutant))


@pytest.mark.parametrize(("k", "horizon"), [(1, 1), (2, 4), (3, 6)])
def test_products_are_k_t_t_plus_1_half(k, horizon):
    rng = np.random.default_rng(0)
    A, V = stable(rng, 12, horizon), outputs(rng, 12, [k] * (horizon + 1))
    calls = 0

    def counted(a):
        def adjoint(w):
            nonlocal calls
            calls += 1
            return a.T @ w

        return adjoint

    solution = low_rank_riccati([counted(a) for a in A], V)
    assert calls == solution.details["products"] == k * horizon * (horizon + 1) // 2


def test_the_closed_loop_reaches_the_optimal_cost_and_both_forms_are_one_law():
    rng = np.random.default_rng(3)
    d, horizon, q, r = 10, 5, 4.0, 0.5
    A, V = stable(rng, d, horizon), outputs(rng, d, [2] * (horizon + 1))
    solution = solve(A, V, q, r)
    gains = solution.value
    start = torch.from_numpy(rng.standard_normal(d))

    def cost(shift):
        x, total = start, 0.0
        for t in range(horizon):
            u = gains.before(t, x) + shift[t]
            torch.testing.assert_close(gains.before(t, x), gains.after(t, A[t] @ x), atol=1e-13, rtol=0)
            total += q * float((V[t].T @ x).square().sum()) + r * float(u.square().sum())
            x = A[t] @ x + u
        return total + q * float((V[-1].T @ x).square().sum())

    none = torch.zeros(horizon, d, dtype=torch.float64)
    best = cost(none)
    assert best == pytest.approx(float((gains.factors[0].T @ start).square().sum()))
    for _ in range(10):
        assert cost(torch.from_numpy(0.01 * rng.standard_normal((horizon, d)))) > best


class Network(System):
    """x ↦ tanh(M x) + u, whose linearization only autodiff knows."""

    def __init__(self, matrices):
        self.matrices, self.horizon = matrices, len(matrices)

    def initial_state(self):
        return torch.linspace(-1, 1, self.matrices[0].shape[0], dtype=torch.float64)

    def zero_controls(self):
        return [torch.zeros(self.matrices[0].shape[0], dtype=torch.float64)] * self.horizon

    def step(self, t, x, u):
        return torch.tanh(self.matrices[t] @ x) + u

    def running_cost(self, t, x, u):
        return u.square().sum()

    def terminal_cost(self, x):
        return x.square().sum()


def test_takes_the_adjoints_of_a_system_linearized_along_a_rollout():
    rng = np.random.default_rng(5)
    system = Network(stable(rng, 8, 4))
    path = system.rollout(system.zero_controls())
    V = outputs(rng, 8, [2] * 5)
    maps = [
        system.linearize(t, x, u).A for t, (x, u) in enumerate(zip(path.states, path.controls, strict=False))
    ]
    gains = low_rank_riccati([m.adjoint for m in maps], V, control_weight=0.3).value
    # The Jacobian by hand: diag(1 - tanh²) M.
    dense = [
        (1 - torch.tanh(m @ x).square())[:, None] * m
        for m, x in zip(system.matrices, path.states, strict=False)
    ]
    for t, K in enumerate(dense_gains(dense, V, 1.0, 0.3)[0]):
        np.testing.assert_allclose(gains.gain(t).numpy(), K, atol=1e-13)


def test_gains_in_float32_are_close():
    rng = np.random.default_rng(6)
    A, V = stable(rng, 12, 3), outputs(rng, 12, [2] * 4)
    exact, rough = solve(A, V).value, solve([a.float() for a in A], [v.float() for v in V]).value
    for t in range(3):
        torch.testing.assert_close(rough.gain(t).double(), exact.gain(t), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            exact.to(torch.float32).gain(t).double(), exact.gain(t), atol=1e-5, rtol=1e-4
        )


def test_a_linearization_with_nan_is_reported():
    V = outputs(np.random.default_rng(0), 4, [1, 1, 1])
    adjoints = [lambda w: w, lambda w: w * math.nan]
    solution = low_rank_riccati(adjoints, V)
    assert solution.status is Status.DIVERGED
    assert solution.value is None
    assert "step 1" in solution.remedy


def test_outputs_that_leave_the_gains_no_digits_are_reported():
    V = [torch.ones(4, 2, dtype=torch.float64)] * 3  # the same output twice
    solution = low_rank_riccati([lambda w: 1e4 * w] * 2, V, control_weight=1e-14)
    assert solution.status is Status.ILL_CONDITIONED
    assert "control_weight" in solution.remedy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adjoints": []}, "adjoints"),
        ({"directions": [torch.ones(2, 1)]}, "directions: there are 1; 1 steps need 2"),
        ({"control_weight": 0.0}, "control_weight=0.0"),
        ({"state_weight": -1.0}, "state_weight=-1.0"),
        ({"control_weight": math.nan}, "control_weight=nan"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"adjoints": [lambda w: w], "directions": [torch.ones(2, 1)] * 2} | change
    with pytest.raises(ValueError, match=message):
        low_rank_riccati(**arguments)


def test_gains_are_those_of_the_dense_solver_of_small_systems():
    rng = np.random.default_rng(8)
    d, horizon, q, r = 12, 6, 3.0, 0.4
    A, V = stable(rng, d, horizon), outputs(rng, d, [2] * (horizon + 1))
    weights = np.stack([q * (v @ v.T).numpy() for v in V])
    dense = lqr(
        np.stack([a.numpy() for a in A]),
        np.eye(d),
        weights[:-1],
        r * np.eye(d),
        terminal=weights[-1],
    )
    gains = solve(A, V, q, r).value
    for t in range(horizon):  # there u = K x, here u = -K x
        np.testing.assert_allclose(gains.gain(t).numpy(), -dense.gains[t], atol=1e-13)
