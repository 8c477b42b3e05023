"""A small system under constraints on states and controls beyond the bounds of a control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray

from deltatheory.control.systems.analytic import AnalyticSystem, Array, namespace

__all__ = ["ConstrainedSystem", "Multipliers"]


@dataclass(frozen=True, eq=False)
class Multipliers:
    """λ of the inequalities along the way (T, c) and at the end (e,), ν of the equalities at the end (k,).

    Attributes:
        stage: λ_t >= 0 of g(t, x_t, u_t) <= 0.
        end: λ >= 0 of g_T(x_T) <= 0.
        goal: ν of h(x_T) = 0.
    """

    stage: ndarray
    end: ndarray
    goal: ndarray


@dataclass(frozen=True, eq=False)
class ConstrainedSystem:
    """An `AnalyticSystem` with g(t, x_t, u_t) <= 0 at t < T, g_T(x_T) <= 0 and h(x_T) = 0.

    The functions are written as those of the system: they broadcast over leading dimensions and return their
    values along a last one. State bounds are x - high and low - x, an obstacle is r² - |x - c|².

    Attributes:
        system: without them, from one initial state.
        stage: g, (t, x, u) ↦ (..., c).
        end: g_T, x ↦ (..., e).
        goal: h, x ↦ (..., k).

    Raises:
        ValueError: for several initial states, no constraint at all, or a function that does not broadcast.
    """

    system: AnalyticSystem
    stage: Callable[[Any, Array, Array], Array] | None = None
    end: Callable[[Array], Array] | None = None
    goal: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        if self.system.x0.ndim != 1:
            raise ValueError(f"system: it has {len(self.system.x0)} initial states; allowed is one.")
        if self.stage is None and self.end is None and self.goal is None:
            raise ValueError("stage, end and goal are all None: give one, or solve the system itself.")
        T, n, m = self.system.horizon, self.system.state_size, self.system.control_size
        x, u = np.broadcast_to(self.system.x0, (T, 1, n)), np.zeros((T, 1, m))
        calls = (
            ("stage", self.stage, (np.arange(T)[:, None], x, u)),
            ("end", self.end, (x,)),
            ("goal", self.goal, (x,)),
        )
        for name, function, arguments in calls:
            if function is None:
                continue
            try:
                with np.errstate(all="ignore"):
                    shape = np.shape(function(*arguments))
            except (ValueError, IndexError, TypeError) as error:
                raise ValueError(
                    f"{name}: write it to broadcast over leading dimensions ({error})."
                ) from error
            if len(shape) != 3 or shape[:2] != (T, 1):
                raise ValueError(
                    f"{name}: on x of shape {x.shape} it returns shape {shape}; allowed is ({T}, 1, number)."
                )

    @property
    def examples(self) -> int:
        """There is no network."""
        return 0

    @property
    def passes(self) -> float:
        """There is no network."""
        return 0.0

    def zero(self) -> ndarray:
        """Return the controls that do nothing, (T, m)."""
        return self.system.zero()

    def values(self, states: ndarray, controls: ndarray) -> Multipliers:
        """Return g, g_T and h along trajectories (T + 1, b, n), (T, b, m), in the places of multipliers."""
        T, lead = self.system.horizon, states.shape[1:-1]
        times = np.arange(T).reshape(-1, *[1] * len(lead))
        return Multipliers(
            np.zeros((T, *lead, 0)) if self.stage is None else self.stage(times, states[:-1], controls),
            np.zeros((*lead, 0)) if self.end is None else self.end(states[-1]),
            np.zeros((*lead, 0)) if self.goal is None else self.goal(states[-1]),
        )

    def augmented(self, multipliers: Multipliers, penalty: float) -> AnalyticSystem:
        """Return the system at the augmented Lagrangian, J + ½ρ Σ (max(0, g + λ/ρ)² + (h + ν/ρ)²).

        Args:
            multipliers: λ and ν.
            penalty: ρ > 0.
        """
        return self.system.under(
            partial(self._running, multipliers, penalty), partial(self._terminal, multipliers, penalty)
        )

    def _running(self, multipliers: Multipliers, penalty: float, t: Any, x: Array, u: Array) -> Array:
        cost = self.system._running(t, x, u)
        if self.stage is None:
            return cost
        return cost + _penalized(self.stage(t, x, u), multipliers.stage[t], penalty)

    def _terminal(self, multipliers: Multipliers, penalty: float, x: Array) -> Array:
        cost = self.system._terminal(x)
        if self.end is not None:
            cost = cost + _penalized(self.end(x), multipliers.end, penalty)
        if self.goal is not None:
            missed = self.goal(x) + namespace(x).asarray(multipliers.goal / penalty)
            cost = cost + 0.5 * penalty * (missed * missed).sum(-1)
        return cost


def _penalized(values: Array, multipliers: ndarray, penalty: float) -> Array:
    """Return ½ρ Σ max(0, g + λ/ρ)²."""
    xp = namespace(values)
    above = xp.clip(values + xp.asarray(multipliers / penalty), 0.0, None)
    return 0.5 * penalty * (above * above).sum(-1)
