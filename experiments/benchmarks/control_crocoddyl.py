"""FDDP of crocoddyl on a problem of the bank, in a box BoxFDDP, with models in Python and in C++."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.benchmarks.control_casadi import written
from experiments.benchmarks.control_stated import Parts, Stated

__all__ = ["BY_HAND", "COMPILER", "in_cpp", "in_python", "lqr"]

COMPILER = "c++"
_FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-shared"]
# The library is built so; without, what is asked of the threads here would be ignored.
_FLAGS += ["-DCROCODDYL_WITH_MULTITHREADING", "-DCROCODDYL_WITH_NTHREADS=1"]
_MOST, _TOLERANCE = 1000, 1e-9


@dataclass(frozen=True)
class _ByHand:
    """Derivatives where ℓ = ½ Σ w (z - z̄)² over z = (x, u), and Φ the same with one weight.

    Attributes:
        jacobian: (x, u) ↦ rows of (∂f/∂x, ∂f/∂u).
        goal: z̄; 0 for controls.
        weights: w of ℓ.
        final: w of Φ.
    """

    jacobian: Callable[[Parts, Parts], list[list[float]]]
    goal: tuple[float, ...]
    weights: tuple[float, ...]
    final: float


def _pendulum(x: Parts, u: Parts) -> list[list[float]]:
    row = [-0.05 * 9.81 * math.cos(x[0]), 1 - 0.005, 0.05]
    return [[1 + 0.05 * row[0], 0.05 * row[1], 0.05 * row[2]], row]


def _cart_pole(x: Parts, u: Parts) -> list[list[float]]:
    _, angle, _, rate = x
    dt, g, s, c = 0.05, 9.81, math.sin(angle), math.cos(angle)
    D = 1 + 0.3 * s * s
    a = (u[0] + 0.3 * s * (rate * rate + g * c)) / D
    a_angle = (0.3 * (c * rate * rate + g * (c * c - s * s)) - a * 0.6 * s * c) / D
    v = [0.0, dt * a_angle, 1.0, dt * 0.6 * s * rate / D, dt / D]
    w = [0.0, -c * v[1] + dt * (a * s - g * c), 0.0, 1 - c * v[3], -c * v[4]]
    rows = [[dt * y for y in v], [dt * y for y in w], v, w]
    rows[0][0] += 1
    rows[1][1] += 1
    return rows


BY_HAND = {
    "pendulum": _ByHand(_pendulum, (math.pi, 0.0, 0.0), (0.05, 0.05, 0.005), 100.0),
    "cart-pole": _ByHand(_cart_pole, (0.0, math.pi, 0.0, 0.0, 0.0), (0.005, 0.005, 0.005, 0.005, 0.05), 10.0),
}


def in_python(stated: Stated, by_hand: _ByHand | None = None) -> Callable[[], tuple[float, int]]:
    """Return a solve with a model in Python scalars, ↦ cost and iterations; derivatives by differences."""
    import crocoddyl

    n, m, T = len(stated.x0), stated.controls, stated.horizon
    if by_hand is not None:
        goal, weights, final = np.array(by_hand.goal), np.array(by_hand.weights), by_hand.final
        Lxx, Luu, end = np.diag(weights[:n]), np.diag(weights[n:]), final * np.eye(n)

    class Action(crocoddyl.ActionModelAbstract):
        def __init__(self, t: int) -> None:
            crocoddyl.ActionModelAbstract.__init__(self, crocoddyl.StateVector(n), m, 1)
            self.t = t

        def calc(self, data: Any, x: np.ndarray, u: np.ndarray | None = None) -> None:
            parts = x.tolist()
            if u is None or self.t == T:
                data.cost, data.xnext = stated.terminal(math, parts), x
                return
            controls = u.tolist()
            data.cost = stated.running(math, self.t, parts, controls)
            data.xnext = np.array(stated.step(math, self.t, parts, controls), dtype=float)

        def calcDiff(self, data: Any, x: np.ndarray, u: np.ndarray | None = None) -> None:
            if u is None or self.t == T:
                data.Lx, data.Lxx = final * (x - goal[:n]), end
                return
            F = np.array(by_hand.jacobian(x.tolist(), u.tolist()))
            data.Fx, data.Fu = F[:, :n], F[:, n:]
            data.Lx, data.Lu = weights[:n] * (x - goal[:n]), weights[n:] * u
            data.Lxx, data.Luu = Lxx, Luu

    models = [Action(t) for t in range(T + 1)]
    if by_hand is None:
        models = [crocoddyl.ActionModelNumDiff(model, False) for model in models]
    for model in models:
        if stated.limits is not None:
            model.u_lb, model.u_ub = (np.array(np.broadcast_to(one, m), dtype=float) for one in stated.limits)
    shooting = crocoddyl.ShootingProblem(np.array(stated.x0), models[:-1], models[-1])
    return _solve(shooting, stated.first(), "FDDP" if stated.limits is None else "BoxFDDP")


def lqr(system: Any, F: np.ndarray, solver: str) -> Callable[[], tuple[float, int]]:
    """Return a solve of ½Σ(|x|² + 0.1|u|²) + ½|x_T|², x' = F (x, u), with crocoddyl's model of it in C++."""
    import crocoddyl

    n, m = system.state_size, system.control_size
    weights = np.eye(n), 0.1 * np.eye(m), np.zeros((n, m)), np.zeros(n), np.zeros(n), np.zeros(m)
    model = crocoddyl.ActionModelLQR(F[:, :n].copy(), F[:, n:].copy(), *weights)
    shooting = crocoddyl.ShootingProblem(system.x0, [model] * system.horizon, model)
    return _solve(shooting, np.zeros((system.horizon, m)), solver)


def _solve(shooting: Any, first: np.ndarray, solver: str) -> Callable[[], tuple[float, int]]:
    import crocoddyl

    shooting.nthreads = 1

    def solve() -> tuple[float, int]:
        method = getattr(crocoddyl, f"Solver{solver}")(shooting)
        method.th_stop = _TOLERANCE
        controls = list(first)
        method.solve(shooting.rollout(controls), controls, _MOST, True)
        return method.cost, method.iter + 1

    return solve


def in_cpp(stated: Stated) -> Callable[[], tuple[float, int]]:
    """Return a solve with a model in C++, which is compiled here, ↦ cost and iterations.

    The functions and their exact derivatives are C by CasADi, the program around them stands beside this
    module. The headers are those of the wheels of crocoddyl and CasADi (Eigen).
    """
    import casadi
    import crocoddyl

    prefix, source = Path(crocoddyl.__file__).parents[4], Path(__file__).with_suffix(".cpp")
    eigen = [prefix / "include/eigen3", Path(casadi.__file__).with_name("include") / "eigen3"]
    with TemporaryDirectory() as folder:
        problem, library = Path(folder) / "problem.cpp", Path(folder) / "problem.so"
        problem.write_text(written(stated))
        include = [f"-I{one}" for one in (prefix / "include", *eigen)]
        link = [f"-L{prefix / 'lib'}", f"-Wl,-rpath,{prefix / 'lib'}", "-lcrocoddyl"]
        command = [COMPILER, *_FLAGS, source, problem, "-o", library, *include, *link]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(library))
    n, m, T = len(stated.x0), stated.controls, stated.horizon
    bounded, limits = stated.limits is not None, stated.limits or (-np.inf, np.inf)

    def pointer(values: Any) -> Any:
        values = np.ascontiguousarray(values, dtype=float).ravel()
        return (ctypes.c_double * values.size)(*values)

    loaded.state(n, m, T, pointer(stated.x0), *(pointer(np.broadcast_to(one, m)) for one in limits))
    controls, cost = pointer(stated.first()), ctypes.c_double()

    def solve() -> tuple[float, int]:
        found = ctypes.c_int(bounded), ctypes.c_double(_TOLERANCE), ctypes.c_int(_MOST)
        iterations = loaded.solve(controls, *found, ctypes.byref(cost))
        return cost.value, iterations

    return solve
