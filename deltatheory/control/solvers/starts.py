"""Several minima: a solver from several starts, and the best point that it called one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deltatheory.control.solvers.base import Solution, Status
from deltatheory.control.systems import AnalyticSystem, ConstrainedSystem

__all__ = ["best_of", "drawn_starts"]

_HOPELESS = (Status.DIVERGED, Status.INFEASIBLE)


def drawn_starts(problem: Any, count: int, seed: int = 0) -> list[Any]:
    """Return zero controls, then random ones that are constant over one to eight pieces of the horizon.

    They fill the limits of the controls; without limits their sizes go from a tenth to ten.

    Args:
        problem: a small system.
        count: of starts, at least 1.
        seed: of the draw.

    Raises:
        ValueError: for a problem whose controls have no such form, or a count below 1.
    """
    system = problem.system if isinstance(problem, ConstrainedSystem) else problem
    if not isinstance(system, AnalyticSystem) or system.x0.ndim != 1:
        raise ValueError(
            f"starts={count}: a number is for small systems from one initial state; allowed for "
            f"{type(problem).__name__} is a list of starts."
        )
    if count < 1:
        raise ValueError(f"starts={count}: allowed is at least 1.")
    T, m, rng = system.horizon, system.control_size, np.random.default_rng(seed)
    low, high = system.control_limits or (np.full(m, -np.inf), np.full(m, np.inf))
    bounded = np.isfinite(high - low)
    found = [system.zero()]
    while len(found) < count:
        pieces = int(rng.integers(1, 9))
        free = 10 ** rng.uniform(-1, 1) * rng.standard_normal((pieces, m))
        within = rng.uniform(size=(pieces, m)) * np.where(bounded, high - low, 0) + np.where(bounded, low, 0)
        levels = np.where(bounded, within, free)
        found.append(np.clip(levels[np.arange(T) * pieces // T], low, high))
    return found


def best_of(run: Callable[[Any], Solution], starts: Sequence[Any]) -> Solution:
    """Return the cheapest solution that converged, or else the cheapest that there is.

    `details["starts"]` has cost and status from every start; passes and seconds are those of all.

    Args:
        run: start ↦ solution.
        starts: at least one.

    Raises:
        ValueError: for no start.
    """
    if not len(starts):
        raise ValueError("starts: there is none; allowed is at least one.")
    found = [run(start) for start in starts]
    best = min(
        found,
        key=lambda one: (
            one.status is not Status.CONVERGED,
            one.status in _HOPELESS,
            float(np.sum(one.cost)),
        ),
    )
    each = [{"cost": one.cost, "status": one.status} for one in found]
    return replace(
        best,
        passes=sum(one.passes for one in found),
        seconds=sum(one.seconds for one in found),
        details=best.details | {"starts": each},
    )
