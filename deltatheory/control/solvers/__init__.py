"""Solvers of optimal-control problems: in the space of δ, over the layers, and for small systems.

One question, any solver: `solve(problem, "gauss-newton")`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from deltatheory.control.solvers.augmented_lagrangian import AugmentedLagrangian
from deltatheory.control.solvers.base import OnStep, Solution, Solver, Status, Watch
from deltatheory.control.solvers.constrained import Constrained, MinimumEnergy
from deltatheory.control.solvers.first_order import LBFGS, SGD, Adam
from deltatheory.control.solvers.ilqr import DDP, ILQR
from deltatheory.control.solvers.least_squares import GaussNewton
from deltatheory.control.solvers.low_rank_riccati import LowRankGains, low_rank_riccati
from deltatheory.control.solvers.msa import EMSA, MSA, certified_rho
from deltatheory.control.solvers.riccati import AffineTerms, LQRSolution, box_qp, lqr
from deltatheory.control.solvers.sampled import SampledGaussNewton
from deltatheory.control.solvers.starts import best_of, drawn_starts

__all__ = [
    "DDP",
    "EMSA",
    "ILQR",
    "LBFGS",
    "MSA",
    "SGD",
    "SOLVERS",
    "Adam",
    "AffineTerms",
    "AugmentedLagrangian",
    "Constrained",
    "GaussNewton",
    "LQRSolution",
    "LowRankGains",
    "MinimumEnergy",
    "SampledGaussNewton",
    "Solution",
    "Solver",
    "Status",
    "box_qp",
    "certified_rho",
    "low_rank_riccati",
    "lqr",
    "make_solver",
    "solve",
]

SOLVERS: dict[str, type[Solver]] = {
    kind.name: kind
    for kind in (
        GaussNewton,
        SampledGaussNewton,
        Adam,
        SGD,
        LBFGS,
        MinimumEnergy,
        Constrained,
        MSA,
        EMSA,
        ILQR,
        DDP,
        AugmentedLagrangian,
    )
}


def solve(
    problem: Any,
    solver: str = "gauss-newton",
    *,
    start: Any = None,
    starts: int | Sequence[Any] | None = None,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Solution:
    """Find the best control of a network's layers, or of a small system.

    One step x' = x + u from 1 with cost ½u² + ½x'²: u = -½, and the cost is ¼.

    >>> from deltatheory.control.systems import AnalyticSystem
    >>> half = lambda z: 0.5 * (z * z).sum(-1)
    >>> system = AnalyticSystem(lambda t, x, u: x + u, lambda t, x, u: half(u), half, [1.0], 1, 1)
    >>> found = solve(system, "ilqr")
    >>> round(found.value.item(), 6), round(found.cost, 6), str(found.status)
    (-0.5, 0.25, 'converged')

    Args:
        problem: a task under a backbone and a delta, or a `System`.
        solver: a key of `SOLVERS`.
        start: control to begin with, in the form of `Solution.value`; 0, the frozen backbone, by default.
        starts: several controls to begin with, or for a small system how many to draw, 0 the first: the
            cheapest solution that converged is returned, and `details["starts"]` says what became of each.
        on_step: called with each row of the history, of one start after the other.
        watch: control ↦ further columns of each row, whose cost does not count.
        settings: of the solver, the fields of its class.

    Raises:
        ValueError: for an unknown solver, a setting that it does not have, a problem that is not its kind, or
            `start` beside `starts`.
    """
    made = make_solver(solver, problem, settings)
    if starts is None:
        return made.solve(problem, start=start, on_step=on_step, watch=watch)
    if start is not None:
        raise ValueError("start: there is `starts` too; put it among them.")
    several = drawn_starts(problem, starts) if isinstance(starts, int) else starts
    return best_of(partial(_from, made, problem, on_step, watch), several)


def _from(made: Solver, problem: Any, on_step: OnStep | None, watch: Watch | None, start: Any) -> Solution:
    return made.solve(problem, start=start, on_step=on_step, watch=watch)


def make_solver(solver: str, problem: Any, settings: Mapping[str, Any]) -> Solver:
    """Return a solver with its settings; what does not fit is refused before anything is computed.

    Args:
        solver: a key of `SOLVERS`.
        problem: that is to be solved, or its class.
        settings: of the solver.

    Raises:
        ValueError: as `solve`.
    """
    takes = problem if isinstance(problem, type) else type(problem)
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}: allowed are {', '.join(SOLVERS)}.")
    kind = SOLVERS[solver]
    if not issubclass(takes, kind.takes):
        fitting = [name for name, other in SOLVERS.items() if issubclass(takes, other.takes)]
        raise ValueError(
            f"solver={solver!r}: takes {' and '.join(one.__name__ for one in kind.takes)}; "
            f"allowed for {takes.__name__} are {', '.join(fitting)}."
        )
    known = [field.name for field in fields(kind)]
    if unknown := sorted(settings.keys() - set(known)):
        raise ValueError(f"{unknown[0]}: {solver!r} has no such setting; it has {', '.join(known)}.")
    return kind(**settings)
