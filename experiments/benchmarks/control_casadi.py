"""CasADi on a problem of the bank: its solution by IPOPT, and its functions and derivatives as C."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from experiments.benchmarks.control_stated import Stated

__all__ = ["certified", "ipopt", "written"]


def ipopt(stated: Stated) -> Callable[[np.ndarray], tuple[float, int]]:
    """Return controls ↦ cost and iterations of IPOPT from resting states and those; NaN where it fails.

    Multiple shooting: states and controls are unknowns and the dynamics equations, with exact second
    derivatives by CasADi.
    """
    import casadi

    T, n, m = stated.horizon, len(stated.x0), stated.controls
    X, U = casadi.SX.sym("x", n, T + 1), casadi.SX.sym("u", m, T)
    cost, equations, bounds = 0, [X[:, 0] - casadi.DM(stated.x0)], []
    for t in range(T):
        x, u = casadi.vertsplit(X[:, t]), casadi.vertsplit(U[:, t])
        cost += stated.running(casadi, t, x, u)
        equations.append(X[:, t + 1] - casadi.vertcat(*stated.step(casadi, t, x, u)))
        bounds += stated.stage(casadi, t, x, u) if stated.stage else []
    last = casadi.vertsplit(X[:, T])
    cost += stated.terminal(casadi, last)
    equations += stated.goal(casadi, last) if stated.goal else []
    bounds += stated.end(casadi, last) if stated.end else []
    equations, bounds = casadi.vertcat(*equations), casadi.vertcat(*bounds)
    program = {
        "x": casadi.vertcat(casadi.vec(X), casadi.vec(U)),
        "f": cost,
        "g": casadi.vertcat(equations, bounds),
    }
    quiet = {"ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes"}
    exact = {"ipopt.tol": 1e-10, "ipopt.max_iter": 3000, "ipopt.bound_relax_factor": 0.0}
    solver = casadi.nlpsol("bank", "ipopt", program, quiet | exact)
    low, high = (np.broadcast_to(limit, m) for limit in stated.limits or (-np.inf, np.inf))
    free = np.full(n * (T + 1), np.inf)
    box = {
        "lbg": np.append(np.zeros(equations.numel()), np.full(bounds.numel(), -np.inf)),
        "ubg": 0,
        "lbx": np.append(-free, np.tile(low, T)),
        "ubx": np.append(free, np.tile(high, T)),
    }

    def solve(controls: np.ndarray) -> tuple[float, int]:
        answer = solver(x0=np.append(np.tile(stated.x0, T + 1), controls), **box)
        done = solver.stats()
        return float(answer["f"]) if done["success"] else math.nan, done["iter_count"]

    return solve


def certified(stated: Stated, guesses: int = 3, seed: int = 0) -> tuple[float, str]:
    """Return the least cost that IPOPT finds from the start and random controls, and how often."""
    solve, rng = ipopt(stated), np.random.default_rng(seed)
    shape = stated.first().shape
    found = [solve(rng.standard_normal(shape) if guess else stated.first())[0] for guess in range(guesses)]
    least = np.nanmin(found)
    same = sum(value <= least + 1e-6 * (1 + abs(least)) for value in found)
    return float(least), f"{same} of {guesses}"


def written(stated: Stated) -> str:
    """Return C: `running` (t, x, u) ↦ f, ℓ and `terminal` x ↦ Φ, and each followed by `_derivatives`.

    Those of `running` are ∂f/∂x, ∂f/∂u, ∂ℓ/∂x, ∂ℓ/∂u, ∂²ℓ/∂x², ∂²ℓ/∂x∂u, ∂²ℓ/∂u²; of `terminal` ∇Φ, ∇²Φ:
    exact, dense, by columns.
    """
    import casadi

    n, m = len(stated.x0), stated.controls
    t, x, u = casadi.SX.sym("t"), casadi.SX.sym("x", n), casadi.SX.sym("u", m)
    parts, controls = casadi.vertsplit(x), casadi.vertsplit(u)
    step = casadi.vertcat(*stated.step(casadi, t, parts, controls))
    cost = casadi.SX(stated.running(casadi, t, parts, controls))
    end = casadi.SX(stated.terminal(casadi, parts))
    slope, end_slope = (casadi.gradient(cost, one) for one in (x, u)), casadi.gradient(end, x)
    Lx, Lu = slope
    derivatives = [
        *(casadi.jacobian(step, one) for one in (x, u)),
        *(Lx, Lu, casadi.jacobian(Lx, x), casadi.jacobian(Lx, u), casadi.jacobian(Lu, u)),
    ]
    code = casadi.CodeGenerator("problem", {"cpp": True})
    for name, given, found in (
        ("running", [t, x, u], [step, cost]),
        ("running_derivatives", [t, x, u], derivatives),
        ("terminal", [x], [end]),
        ("terminal_derivatives", [x], [end_slope, casadi.jacobian(end_slope, x)]),
    ):
        code.add(casadi.Function(name, given, [casadi.densify(one) for one in found], {"cse": True}))
    return code.dump()
