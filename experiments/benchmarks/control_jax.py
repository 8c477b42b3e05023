"""DDP in JAX, jitted whole: what a user of that library would run on a problem of the bank."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.control_stated import Stated

__all__ = ["jitted"]

MOST, TOLERANCE = 500, 1e-9
FIRST, LARGEST = 1e-6, 1e12  # regularization, in units of the mean ∂²ℓ/∂u²
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def jitted(stated: Stated) -> Callable[[], tuple[float, int]]:
    """Return a compiled solve, ↦ cost and iterations.

    The algorithm is that of ours: each iteration tries the model with the exact second derivatives of the
    dynamics and that without, six step sizes each, and a regularization of their own; a box by projected
    Newton in the backward pass. All derivatives are exact, all numbers doubles, all loops XLA's.
    """
    os.environ["XLA_FLAGS"] = ONE_THREAD  # read when the first array is made
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    n, m, T = len(stated.x0), stated.controls, stated.horizon
    low, high = (jnp.broadcast_to(jnp.array(one), m) for one in stated.limits or (-np.inf, np.inf))
    times, sizes, exact = jnp.arange(T), 0.5 ** jnp.arange(6), jnp.array([0.0, 1.0])

    def step(t: Any, z: Any) -> Any:
        return jnp.array(stated.step(jnp, t, list(z[:n]), list(z[n:])))

    def running(t: Any, z: Any) -> Any:
        return stated.running(jnp, t, list(z[:n]), list(z[n:]))

    def terminal(x: Any) -> Any:
        return stated.terminal(jnp, list(x))

    def rollout(X: Any, U: Any, k: Any, K: Any, size: Any) -> Any:
        def advance(x: Any, at: Any) -> Any:
            t, y, v, feed, gain = at
            u = jnp.clip(v + size * feed + gain @ (x - y), low, high)
            z = jnp.concatenate([x, u])
            return step(t, z), (x, u, running(t, z))

        end, (states, controls, costs) = jax.lax.scan(advance, X[0], (times, X[:-1], U, k, K))
        J = costs.sum() + terminal(end)
        return jnp.concatenate([states, end[None]]), controls, jnp.where(jnp.isfinite(J), J, jnp.inf)

    def solved(Q: Any, B: Any) -> Any:
        """Return Q⁻¹B by Gauss and Jordan, unrolled (a call of LAPACK takes longer), and whether Q > 0."""
        rows, definite = [jnp.concatenate([Q[i], B[i]]) for i in range(m)], True
        for i in range(m):
            definite &= rows[i][i] > 0
            rows[i] = rows[i] / rows[i][i]
            rows = [row if j == i else row - row[i] * rows[i] for j, row in enumerate(rows)]
        return jnp.stack(rows)[:, m:], definite

    def box(Q: Any, q: Any, low: Any, high: Any) -> Any:
        """Minimize ½kᵀQk + qᵀk between the bounds; return k, and which of it are free."""

        def newton(state: Any) -> Any:
            k, _, count, _ = state
            slope = q + Q @ k
            free = ~(((k <= low) & (slope > 0)) | ((k >= high) & (slope < 0)))
            change, _ = solved(among(free, Q), jnp.where(free, slope, 0.0)[:, None])
            tried = jnp.clip(k - sizes[:, None] * change[:, 0], low, high)
            values = 0.5 * jnp.einsum("si,ij,sj->s", tried, Q, tried) + tried @ q
            best = tried[values.argmin()]
            return best, free, count + 1, jnp.abs(best - k).max() > 0

        state = jnp.zeros(m), jnp.ones(m, bool), 0, True
        return jax.lax.while_loop(lambda s: s[3] & (s[2] < 10), newton, state)[:2]

    def among(free: Any, Q: Any) -> Any:
        return jnp.where(free[:, None] & free, Q, jnp.eye(m))

    def backward(X: Any, U: Any, model: Any, exact: Any, mu: Any) -> Any:
        unit = jnp.abs(jnp.diagonal(model[3][:, n:, n:], axis1=1, axis2=2)).mean()
        damping = mu * jnp.where(unit > 0, unit, 1.0) * jnp.eye(m)

        def eliminate(value: Any, at: Any) -> Any:
            P, p, promise, definite = value
            F, D, g, H, u = at
            q, Q = g + F.T @ p, H + F.T @ P @ F + exact * jnp.tensordot(p, D, 1)
            Qu, Qux, Quu = q[n:], Q[n:, :n], Q[n:, n:] + damping
            if stated.limits is None:
                both, positive = solved(Quu, jnp.concatenate([Qu[:, None], Qux], 1))
                k, K = -both[:, 0], -both[:, 1:]
            else:
                k, free = box(Quu, Qu, low - u, high - u)
                K, positive = solved(among(free, Quu), jnp.where(free[:, None], -Qux, 0.0))
            promise -= Qu @ k + 0.5 * k @ Quu @ k
            definite &= positive
            Quuk, cross = Qu + Quu @ k, K.T @ Qux
            P = Q[:n, :n] + K.T @ Quu @ K + cross + cross.T
            return (P, q[:n] + K.T @ Quuk + Qux.T @ k, promise, definite), (k, K)

        end = jax.hessian(terminal)(X[-1]), jax.grad(terminal)(X[-1]), 0.0, True
        value, gains = jax.lax.scan(eliminate, end, (*model, U), reverse=True)
        return *gains, value[2], value[3]

    def expand(X: Any, U: Any) -> Any:
        kinds = jax.jacfwd(step, 1), jax.hessian(step, 1), jax.grad(running, 1), jax.hessian(running, 1)
        return tuple(jax.vmap(kind)(times, jnp.concatenate([X[:-1], U], 1)) for kind in kinds)

    def iterate(carry: Any) -> Any:
        X, U, J, mu, count, relaxed, _ = carry
        k, K, promise, definite = jax.vmap(backward, (None, None, None, 0, 0))(X, U, expand(X, U), exact, mu)
        each = jax.vmap(jax.vmap(rollout, (None,) * 4 + (0,)), (None, None, 0, 0, None))
        states, controls, costs = each(X, U, k, K, sizes)
        costs = jnp.where(definite[:, None], costs, jnp.inf)
        least, size = costs.min(1), costs.argmin(1)
        best = least.argmin()
        lower = least < J
        small = definite & (promise <= TOLERANCE * jnp.abs(J))
        done = (small & (mu <= FIRST)).any()
        relax = small.any() & ~relaxed  # so little is promised: ask once at the first regularization
        mu = jnp.where(lower & (size <= 1), mu / 10, jnp.where(lower & (size <= 3), mu, mu * 10))
        mu = jnp.where(relax, FIRST, jnp.clip(mu, FIRST * 1e-3, LARGEST))
        X, U, J = (
            jnp.where(lower.any(), new, old)
            for new, old in ((states[best, size[best]], X), (controls[best, size[best]], U), (least[best], J))
        )
        stuck = ~lower.any() & (mu >= LARGEST).all()
        return X, U, J, mu, count + 1, (relaxed | relax) & small.any(), done | stuck

    def solve(x0: Any, controls: Any) -> Any:
        start = jnp.broadcast_to(x0, (T + 1, n))
        X, U, J = rollout(start, controls, jnp.zeros((T, m)), jnp.zeros((T, m, n)), 0.0)
        carry = X, U, J, jnp.full(2, FIRST), 0, False, False
        carry = jax.lax.while_loop(lambda c: ~c[6] & (c[4] < MOST), iterate, carry)
        return carry[2], carry[4]

    given = jnp.array(stated.x0), jnp.array(stated.first())
    compiled = jax.jit(solve).lower(*given).compile()
    return lambda: tuple(np.asarray(v).item() for v in compiled(*given))  # type: ignore[return-value]
