"""Constraints on states and ends by an augmented Lagrangian around DDP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from deltatheory.control.solvers.base import Solver, SolverRun, Status
from deltatheory.control.solvers.ilqr import DDP, ILQR
from deltatheory.control.systems.constrained import ConstrainedSystem, Multipliers

__all__ = ["AugmentedLagrangian"]

_PROGRESS = 0.25  # share of the violation that a step may leave before the penalty grows
_GROWTH = 10.0
_LARGEST = (
    1e12  # penalty, in the unit of the first or 1, after which no control is believed to meet the constraints
)


@dataclass(frozen=True, kw_only=True)
class AugmentedLagrangian(Solver):
    """min J under constraints: minimize the augmented Lagrangian, then move the multipliers.

    λ ← max(0, λ + ρ g), ν ← ν + ρ h (Hestenes 1969; Powell 1969; Rockafellar 1973), and ρ grows tenfold where
    the violation did not fall to a quarter (Birgin & Martínez 2014, algorithm 4.1). Each minimization begins
    at the controls before it; bounds of the controls are kept by it exactly.

    The value is the controls (T, m), the rows of the history have J and the violation. `details`: the KKT
    conditions at the value, which are `violation`, the largest of g, g_T and |h|, `complementarity`, the
    largest of |min(λ, -g)| in units of g, and `stationarity` of the Lagrangian, with the multipliers
    (`stage`, `end`, `goal`), and states, costates and gains of the last minimization.

    Attributes:
        steps: minimizations at most.
        tolerance: of each minimization.
        feasibility: violation and complementarity that are allowed, in the units of the constraints.
        penalty: first ρ, in units of 2|J| / Σ violation² at the start, between 10⁻⁶ and 10 (1 at no cost).
        inner: the solver that minimizes.
    """

    name = "augmented-lagrangian"
    takes = (ConstrainedSystem,)
    positive = ("feasibility", "penalty")

    steps: int | None = 50
    tolerance: float = 1e-9
    feasibility: float = 1e-7
    penalty: float = 10.0
    inner: Literal["ddp", "ilqr"] = "ddp"

    def _posed(self, problem: ConstrainedSystem) -> ConstrainedSystem:
        return problem

    def _solve(self, posed: ConstrainedSystem, run: SolverRun) -> tuple[Status, str]:
        solver = {"ddp": DDP, "ilqr": ILQR}[self.inner](tolerance=self.tolerance)
        states, controls = _rolled(posed, run.value)
        now = posed.values(states, controls)
        price = float(posed.system.costs(states, controls)[0])
        missed = sum(float(np.square(part).sum()) for part in _broken(now))
        ratio = 2 * abs(price) / missed if missed and np.isfinite([price, missed]).all() else 0.0
        penalty = self.penalty * (min(max(ratio, 1e-6), 10.0) if ratio else 1.0)
        most = _LARGEST * max(penalty, 1.0)
        multipliers = Multipliers(*(np.zeros_like(part[..., 0, :]) for part in vars(now).values()))
        if np.isfinite(price):
            run.record(run.value, price, exact=False, violation=_largest(_broken(now)), penalty=penalty)
        before = np.inf
        while True:
            if run.spent:
                return Status.BUDGET, f"constraints are broken by up to {before:.3g}: raise steps"
            found = solver.solve(posed.augmented(multipliers, penalty), start=run.value)
            if found.status is Status.DIVERGED:
                return Status.DIVERGED, found.remedy
            states, controls = found.details["states"][:, None], found.value[:, None]
            now, cost = posed.values(states, controls), float(posed.system.costs(states, controls)[0])
            following = _moved(multipliers, now, penalty)
            violation = _largest(_broken(now))
            slack = max(
                _largest([np.minimum(np.maximum(-part, 0), weight / penalty)])
                for part, weight in (
                    (now.stage[:, 0], following.stage),
                    (now.end[0], following.end),
                )
            )
            run.record(
                found.value,
                cost,
                exact=False,
                violation=violation,
                complementarity=slack,
                penalty=penalty,
                inner=found.details["iterations"],
            )
            kept = ("states", "costates", "gains", "stationarity")
            run.details |= {key: found.details[key] for key in kept} | vars(following)
            run.details |= {"violation": violation, "complementarity": slack}
            worst = max(violation, slack)
            if worst <= self.feasibility and found.status is Status.CONVERGED:
                return Status.CONVERGED, ""
            if worst <= self.feasibility and found.status is not Status.BUDGET:
                return found.status, found.remedy
            multipliers = following
            if worst > _PROGRESS * before:
                penalty *= _GROWTH
            if penalty > most:
                return Status.INFEASIBLE, self._blame(now)
            before = worst

    def _blame(self, now: Multipliers) -> str:
        broken = dict(zip(("stage", "end", "goal"), _broken(now), strict=True))
        name = max(broken, key=lambda one: _largest([broken[one]]))
        where = np.unravel_index(np.argmax(broken[name][..., 0, :]), broken[name][..., 0, :].shape)
        at = f"t = {where[0]}, " if name == "stage" else ""
        return (
            f"{name}: its constraint number {where[-1]} ({at}from 0) stays broken by "
            f"{_largest([broken[name]]):.3g} under any penalty: loosen it, widen control_limits, take a "
            "longer horizon, or another start"
        )


def _rolled(posed: ConstrainedSystem, value: ndarray) -> tuple[ndarray, ndarray]:
    """Return states (T + 1, 1, n) and controls (T, 1, m) of a start."""
    system, controls = posed.system, value[:, None]
    if system.control_limits is not None:
        controls = np.clip(controls, *system.control_limits)
    states = [system.x0[None]]
    with np.errstate(all="ignore"):
        for t in range(system.horizon):
            states.append(system.advance(t, states[-1], controls[t]))
    return np.stack(states), controls


def _broken(now: Multipliers) -> list[ndarray]:
    return [np.maximum(now.stage, 0), np.maximum(now.end, 0), np.abs(now.goal)]


def _largest(parts: list[ndarray]) -> float:
    return max(float(part.max(initial=0.0)) for part in parts)


def _moved(multipliers: Multipliers, now: Multipliers, penalty: float) -> Multipliers:
    return Multipliers(
        np.maximum(0, multipliers.stage + penalty * now.stage[:, 0]),
        np.maximum(0, multipliers.end + penalty * now.end[0]),
        multipliers.goal + penalty * now.goal[0],
    )
