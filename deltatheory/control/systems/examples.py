"""Small systems on which solvers are tested where the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from deltatheory.control.systems.analytic import AnalyticSystem, Derivatives, namespace

__all__ = ["attention_head", "cart_pole", "linear_quadratic", "pendulum"]

GRAVITY = 9.81
"""m/s²."""


def linear_quadratic(
    n: int = 12, m: int = 4, horizon: int = 100, *, radius: float = 1.02, seed: int = 0
) -> AnalyticSystem:
    """Return x' = A x + B u with J = ½ Σ (|x|² + 0.1 |u|²) + ½ |x_T|², from one random initial state.

    Args:
        n: numbers in the state.
        m: numbers in the control.
        horizon: T.
        radius: spectral radius of the random A.
        seed: of A, B and x_0.
    """
    generator = np.random.default_rng(seed)
    A = generator.standard_normal((n, n))
    A *= radius / np.abs(np.linalg.eigvals(A)).max()
    B = generator.standard_normal((n, m)) / np.sqrt(n)
    x0 = generator.standard_normal(n)
    F = np.concatenate([A, B], axis=1)
    weights = np.concatenate([np.ones(n), np.full(m, 0.1)])

    def step(t: Any, x: Any, u: Any) -> Any:
        xp = namespace(x)
        return x @ xp.asarray(A.T) + u @ xp.asarray(B.T)

    return AnalyticSystem(
        step,
        lambda t, x, u: 0.5 * (x * x).sum(-1) + 0.05 * (u * u).sum(-1),
        lambda x: 0.5 * (x * x).sum(-1),
        x0,
        horizon,
        m,
        derivatives=Derivatives(
            lambda t, x, u: np.broadcast_to(F, (*x.shape[:-1], *F.shape)),
            _quadratic(np.zeros(n + m), weights),
            lambda x: (x, np.broadcast_to(np.eye(n), (*x.shape[:-1], n, n))),
            lambda t, x, u, p: np.zeros((*x.shape[:-1], n + m, n + m)),
        ),
    )


def pendulum(
    x0: Any = (0.0, 0.0), *, horizon: int = 100, dt: float = 0.05, torque: float | None = None
) -> AnalyticSystem:
    """Return the swing-up of a damped pendulum, x = (angle, angular velocity), by semi-implicit Euler.

    ω' = u - g sin θ - 0.1 ω (mass 1 kg, length 1 m), θ = 0 hangs, θ = π stands;
    ℓ = ½ dt (|x - x*|² + 0.1 u²), Φ = 50 |x_T - x*|², x* = (π, 0).

    Args:
        x0: initial state (2,), or a batch (b, 2).
        horizon: T.
        dt: seconds a step.
        torque: largest |u| in N m; by default unlimited.
    """
    friction, goal = 0.1, np.array([np.pi, 0.0])

    def step(t: Any, x: Any, u: Any) -> Any:
        xp = namespace(x)
        angle, rate = x[..., :1], x[..., 1:]
        rate = (1 - dt * friction) * rate + dt * u - (dt * GRAVITY) * xp.sin(angle)
        return xp.concatenate([angle + dt * rate, rate], axis=-1)

    def step_derivative(t: Any, x: ndarray, u: ndarray) -> ndarray:
        F = np.empty((*x.shape, 3))
        F[..., 1, 0] = -dt * GRAVITY * np.cos(x[..., 0])
        F[..., 1, 1] = 1 - dt * friction
        F[..., 1, 2] = dt
        F[..., 0, :] = dt * F[..., 1, :]
        F[..., 0, 0] += 1
        return F

    def curvature(t: Any, x: ndarray, u: ndarray, p: ndarray) -> ndarray:
        H = np.zeros((*x.shape[:-1], 3, 3))
        H[..., 0, 0] = (p[..., 1] + dt * p[..., 0]) * dt * GRAVITY * np.sin(x[..., 0])
        return H

    return _swing_up(step, step_derivative, curvature, x0, horizon, goal, dt, torque, (1.0, 0.1, 100.0))


def cart_pole(
    x0: Any = (0.0, 0.0, 0.0, 0.0), *, horizon: int = 100, dt: float = 0.05, force: float | None = None
) -> AnalyticSystem:
    """Return the swing-up of a pole on a cart, x = (position, angle, velocity, rate), semi-implicit Euler.

    Cart 1 kg, point mass 0.3 kg on a pole of 1 m, θ = 0 hangs (Barto, Sutton & Anderson, 1983, turned):
    a = (u + m sin θ (l ω² + g cos θ)) / (M + m sin² θ), α = -(a cos θ + g sin θ) / l;
    ℓ = ½ dt (0.1 |x - x*|² + u²), Φ = 5 |x_T - x*|², x* = (0, π, 0, 0).

    Args:
        x0: initial state (4,), or a batch (b, 4).
        horizon: T.
        dt: seconds a step.
        force: largest |u| in N; by default unlimited.
    """
    M, m, l = 1.0, 0.3, 1.0

    def step(t: Any, x: Any, u: Any) -> Any:
        xp = namespace(x)
        position, angle, velocity, rate = x[..., :1], x[..., 1:2], x[..., 2:3], x[..., 3:]
        s, c = xp.sin(angle), xp.cos(angle)
        a = (u + m * s * (l * rate * rate + GRAVITY * c)) / (M + m * s * s)
        velocity = velocity + dt * a
        rate = rate - (dt / l) * (a * c + GRAVITY * s)
        return xp.concatenate([position + dt * velocity, angle + dt * rate, velocity, rate], axis=-1)

    def first(x: ndarray, u: ndarray) -> tuple[ndarray, ...]:
        """Return sin θ, cos θ, D = M + m sin² θ, D', and a with its derivatives in θ, ω and u."""
        angle, rate = x[..., 1], x[..., 3]
        s, c = np.sin(angle), np.cos(angle)
        D, dD = M + m * s * s, 2 * m * s * c
        a = (u[..., 0] + m * s * (l * rate * rate + GRAVITY * c)) / D
        a_angle = (m * (l * c * rate * rate + GRAVITY * (c * c - s * s)) - a * dD) / D
        return s, c, D, dD, a, a_angle, 2 * m * l * s * rate / D, 1 / D

    def step_derivative(t: Any, x: ndarray, u: ndarray) -> ndarray:
        s, c, _, _, a, a_angle, a_rate, a_u = first(x, u)
        F = np.zeros((*x.shape, 5))
        F[..., 2, 1], F[..., 2, 3], F[..., 2, 4] = dt * a_angle, dt * a_rate, dt * a_u
        F[..., 3, :] = (-c / l)[..., None] * F[..., 2, :]
        F[..., 3, 1] += dt / l * (a * s - GRAVITY * c)
        F[..., 2, 2] += 1
        F[..., 3, 3] += 1
        F[..., :2, :] = dt * F[..., 2:, :]
        F[..., 0, 0] += 1
        F[..., 1, 1] += 1
        return F

    def curvature(t: Any, x: ndarray, u: ndarray, p: ndarray) -> ndarray:
        s, c, D, dD, a, a_angle, a_rate, a_u = first(x, u)
        rate, ddD = x[..., 3], 2 * m * (c * c - s * s)
        second = -m * s * (l * rate * rate + 4 * GRAVITY * c)  # of the numerator of a, in θ
        on_a = dt * (p[..., 2] + dt * p[..., 0])
        on_alpha = -dt / l * (p[..., 3] + dt * p[..., 1])
        weight = on_a + c * on_alpha  # of the second derivatives of a
        H = np.zeros((*x.shape[:-1], 5, 5))
        H[..., 1, 1] = weight * (second - 2 * a_angle * dD - a * ddD) / D
        H[..., 1, 1] -= on_alpha * (2 * s * a_angle + c * a + GRAVITY * s)
        H[..., 1, 3] = weight * (2 * m * l * c * rate - a_rate * dD) / D - on_alpha * s * a_rate
        H[..., 1, 4] = -weight * a_u * dD / D - on_alpha * s * a_u
        H[..., 3, 3] = weight * 2 * m * l * s / D
        H[..., 3, 1], H[..., 4, 1] = H[..., 1, 3], H[..., 1, 4]
        return H

    goal = np.array([0.0, np.pi, 0.0, 0.0])
    return _swing_up(step, step_derivative, curvature, x0, horizon, goal, dt, force, (0.1, 1.0, 10.0))


def attention_head(
    tokens: int = 4, width: int = 4, prefix: int = 2, horizon: int = 3, *, seed: int = 0
) -> AnalyticSystem:
    """Return layers of one random attention head with a residual, steered by prefix keys and values.

    X' = X + softmax(X W_q [K; X W_k]ᵀ / √d) [V; X W_v] in every layer t, with its own random weights and
    the control u_t = (K, V), each (prefix, d) (Li & Liang, 2021);
    ℓ = ½ 10⁻² |u|², Φ = ½ |last token - target|² for a random target.

    Args:
        tokens: of the input.
        width: d, of the head and of the residual stream; the state has tokens · d numbers.
        prefix: keys and values a layer; the control has 2 · prefix · d numbers.
        horizon: layers.
        seed: of weights, input and target.
    """
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal((3, horizon, width, width)) / np.sqrt(width)
    x0, target = generator.standard_normal(tokens * width), generator.standard_normal(width)

    def step(t: Any, x: Any, u: Any) -> Any:
        xp = namespace(x)
        hidden = x.reshape(*x.shape[:-1], tokens, width)
        pairs = u.reshape(*u.shape[:-1], 2, prefix, width)
        queries, keys, values = (hidden @ xp.asarray(weights[i][t]) for i in range(3))
        keys = xp.concatenate([pairs[..., 0, :, :], keys], axis=-2)
        values = xp.concatenate([pairs[..., 1, :, :], values], axis=-2)
        scores = xp.exp(queries @ keys.swapaxes(-1, -2) / width**0.5)
        return (hidden + scores / scores.sum(-1, keepdims=True) @ values).reshape(x.shape)

    def terminal_cost(x: Any) -> Any:
        error = x[..., -width:] - namespace(x).asarray(target)
        return 0.5 * (error * error).sum(-1)

    return AnalyticSystem(
        step,
        lambda t, x, u: 0.005 * (u * u).sum(-1),
        terminal_cost,
        x0,
        horizon,
        2 * prefix * width,
    )


def _quadratic(center: ndarray, weights: ndarray) -> Any:
    """Return the derivatives of ½ Σ w (z - center)²."""

    def derivatives(t: Any, x: ndarray, u: ndarray) -> tuple[ndarray, ndarray]:
        gradient = weights * (np.concatenate([x, u], axis=-1) - center)
        return gradient, np.broadcast_to(np.diag(weights), (*gradient.shape, len(weights)))

    return derivatives


def _swing_up(
    step: Any,
    step_derivative: Any,
    curvature: Any,
    x0: Any,
    horizon: int,
    goal: ndarray,
    dt: float,
    limit: float | None,
    weights: tuple[float, float, float],
) -> AnalyticSystem:
    """Return the system with ℓ = ½ dt (w_0 |x - goal|² + w_1 u²) and Φ = ½ w_2 |x - goal|²."""
    n, (stage, effort, final) = len(goal), weights

    def running_cost(t: Any, x: Any, u: Any) -> Any:
        error = x - namespace(x).asarray(goal)
        return 0.5 * dt * (stage * (error * error).sum(-1) + effort * (u * u).sum(-1))

    def terminal_cost(x: Any) -> Any:
        error = x - namespace(x).asarray(goal)
        return 0.5 * final * (error * error).sum(-1)

    derivatives = Derivatives(
        step_derivative,
        _quadratic(np.append(goal, 0.0), dt * np.append(np.full(n, stage), effort)),
        lambda x: (final * (x - goal), np.broadcast_to(final * np.eye(n), (*x.shape, n))),
        curvature,
    )
    limits = None if limit is None else (-limit, limit)
    return AnalyticSystem(
        step, running_cost, terminal_cost, x0, horizon, 1, derivatives=derivatives, control_limits=limits
    )
