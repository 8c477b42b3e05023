"""A problem of optimal control, written once for numpy, torch, CasADi and JAX.

A step and its cost take the components of state and control as they come, numbers, arrays or symbols, and the
module whose `sin`, `exp`, ... fit them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Parts", "Stated"]

Parts = Sequence[Any]


@dataclass(frozen=True)
class Stated:
    """min Σ_{t<T} ℓ(t, x_t, u_t) + Φ(x_T) with x_{t+1} = f(t, x_t, u_t), low <= u <= high.

    Attributes:
        statement: in words.
        source: where it, or its like, is from.
        step: (module, t, x, u) ↦ components of f.
        running: (module, t, x, u) ↦ ℓ.
        terminal: (module, x) ↦ Φ.
        x0: initial state.
        horizon: T.
        optimum: the least cost known.
        limits: low and high, the same for all controls or one for each.
        start: the controls that solvers begin with, t ↦ u; 0 by default.
        controls: m.
        stage: (module, t, x, u) ↦ components of g(t, x_t, u_t) <= 0, t < T.
        end: (module, x) ↦ components of g_T(x_T) <= 0.
        goal: (module, x) ↦ components of h(x_T) = 0.
        tolerance: relative to the optimum, and absolute to 1e-6 where that is 0.
    """

    statement: str
    source: str
    step: Callable[[Any, Any, Parts, Parts], Parts]
    running: Callable[[Any, Any, Parts, Parts], Any]
    terminal: Callable[[Any, Parts], Any]
    x0: tuple[float, ...]
    horizon: int
    optimum: float
    limits: tuple[Any, Any] | None = None
    start: Callable[[int], Parts] | None = None
    controls: int = 1
    stage: Callable[[Any, Any, Parts, Parts], Parts] | None = None
    end: Callable[[Any, Parts], Parts] | None = None
    goal: Callable[[Any, Parts], Parts] | None = None
    tolerance: float = 1e-6

    def system(self) -> Any:
        """Return the problem as an `AnalyticSystem`, or a `ConstrainedSystem` where there are constraints."""
        from deltatheory.control.systems import AnalyticSystem, ConstrainedSystem
        from deltatheory.control.systems.analytic import namespace

        def parts(z: Any) -> list[Any]:
            return [z[..., i] for i in range(z.shape[-1])]

        def whole(like: Any, values: Parts) -> Any:
            shape = like.shape[:-1]
            full = [v if np.shape(v) == shape else v + 0 * like[..., 0] for v in values]
            return namespace(like).stack(full, -1)

        system = AnalyticSystem(
            lambda t, x, u: whole(x, self.step(namespace(x), t, parts(x), parts(u))),
            lambda t, x, u: self.running(namespace(x), t, parts(x), parts(u)) + 0 * x[..., 0],
            lambda x: self.terminal(namespace(x), parts(x)) + 0 * x[..., 0],
            self.x0,
            self.horizon,
            self.controls,
            control_limits=self.limits,
        )
        if not self.constrained:
            return system
        stage, end, goal = self.stage, self.end, self.goal
        return ConstrainedSystem(
            system,
            stage and (lambda t, x, u: whole(x, stage(namespace(x), t, parts(x), parts(u)))),
            end and (lambda x: whole(x, end(namespace(x), parts(x)))),
            goal and (lambda x: whole(x, goal(namespace(x), parts(x)))),
        )

    @property
    def constrained(self) -> bool:
        """Whether there is a constraint beside the limits."""
        return not (self.stage is None and self.end is None and self.goal is None)

    def first(self) -> np.ndarray:
        """Return the controls to start from, (T, m)."""
        if self.start is None:
            return np.zeros((self.horizon, self.controls))
        return np.array([self.start(t) for t in range(self.horizon)], dtype=float)
