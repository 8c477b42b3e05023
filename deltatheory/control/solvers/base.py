"""The contract of all solvers: a problem or a system goes in, with a start, and a `Solution` comes out."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy import ndarray

from deltatheory.control.solvers.settings import check_settings
from deltatheory.results import Result

__all__ = [
    "NAN_REMEDY",
    "NO_GRADIENT",
    "OnStep",
    "Posed",
    "Solution",
    "Solver",
    "SolverRun",
    "Status",
    "Watch",
]

OnStep = Callable[[dict[str, Any]], Any]
Watch = Callable[[Any], dict[str, Any]]

NAN_REMEDY = "look for NaN in the weights, or start from other controls"


class Status(StrEnum):
    """Why a solver stopped; everything but `CONVERGED` comes with a remedy."""

    CONVERGED = "converged"
    BUDGET = "budget spent"
    STALLED = "stalled"
    DIVERGED = "diverged"
    INFEASIBLE = "infeasible"
    ILL_CONDITIONED = "ill-conditioned"


NO_GRADIENT = (  # 0 to the last digit: no optimum of a network looks like that, a δ that moves nothing does
    Status.ILL_CONDITIONED,
    "the derivative of the objective is 0 where the run starts, so that no direction is better than another: "
    "start from another δ, or take another delta, head or examples",
)


@dataclass(frozen=True, eq=False)
class Solution(Result):
    """A control, what it costs, and how it was found.

    Attributes:
        value: the best control met: δ of shape (m,) of a network, or controls of shape (T, m) of a small
            system, with a leading dimension of initial states where there are several.
        cost: objective at `value`; an array where several were solved at once.
        status: why the solver stopped; where several were solved at once, the worst of theirs.
        remedy: what to do about it, in a sentence; empty when converged.
        history: a row for the start and one for each step: iteration, cost, passes, seconds, and what else
            the solver knows.
        passes: forward-equivalents over single examples; 0 for systems without a network.
        seconds: time taken.
        details: what only this solver gives (gains, multipliers, residuals by layer, ...).
    """

    value: Any
    cost: Any
    status: Status
    remedy: str
    history: list[dict[str, Any]]
    passes: float
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status is not Status.CONVERGED and not self.remedy:
            raise ValueError(f"status={self.status!r}: needs a remedy.")


@runtime_checkable
class Posed(Protocol):
    """What a solver works on: an objective in δ, or a system."""

    @property
    def examples(self) -> int:
        """Number of examples that a pass of the network goes over; 0 where there is no network."""
        ...

    @property
    def passes(self) -> float:
        """Forward-equivalents over single examples that were spent so far."""
        ...

    def zero(self) -> Any:
        """Return the control that does nothing, in the form of `Solution.value`."""


class SolverRun:
    """One solver at work: the rows it writes, what it has spent, and the best control it met.

    Args:
        solver: whose budget and steps count.
        posed: what it works on.
        value: where it starts.
        on_step: called with each row.
        watch: adds to each row.

    Attributes:
        value, cost: the best met; without exact costs the last.
        exact: whether the last cost was exact.
        history: so far.
        details: for the solution.
        scale: what residuals are measured by; `None` until the solver knows.
    """

    def __init__(
        self,
        solver: Solver,
        posed: Posed,
        value: Any,
        on_step: OnStep | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.value, self.cost, self.exact = value, math.inf, True
        self.history: list[dict[str, Any]] = []
        self.details: dict[str, Any] = {}
        self.scale: float | None = None
        self._solver, self._posed, self._on_step, self._watch = solver, posed, on_step, watch
        self._before, self._began = posed.passes, time.perf_counter()

    @property
    def passes(self) -> float:
        """Forward-equivalents so far, over single examples, without those of `watch`."""
        return self._posed.passes - self._before

    @property
    def seconds(self) -> float:
        """Time so far, without that of `watch`."""
        return time.perf_counter() - self._began

    @property
    def spent(self) -> bool:
        """Whether the budget is, or all steps are taken."""
        budget, steps, examples = self._solver.budget, self._solver.steps, self._posed.examples
        if steps is not None and len(self.history) > steps:
            return True
        return budget is not None and examples > 0 and self.passes >= budget * examples

    def record(self, value: Any, cost: float, *, exact: bool = True, **columns: Any) -> None:
        """Write a row of the history.

        Args:
            value: where.
            cost: the objective there; with `exact=False` an estimate.
            exact: only exact costs say which control was best; without them it is the last.
            columns: what else the solver knows.

        Raises:
            FloatingPointError: for a cost that is not finite.
        """
        if not math.isfinite(cost):
            remedy = "lower the step size" if self.history else f"at the start already: {NAN_REMEDY}"
            raise FloatingPointError(f"the objective became {cost}: {remedy}")
        self.exact = exact
        if not exact or cost < self.cost:
            self.value, self.cost = _copied(value), cost
        row = {"iteration": len(self.history), "cost": cost, "passes": self.passes, "seconds": self.seconds}
        row |= columns
        if self._watch:
            spent, began = self._posed.passes, time.perf_counter()
            row |= self._watch(value)
            self._before += self._posed.passes - spent
            self._began += time.perf_counter() - began
        self.history.append(row)
        if self._on_step:
            self._on_step(row)


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A way to solve optimal-control problems, with its settings; it says itself what it takes.

    A solver is one subclass in one file and one line in `deltatheory.control.solvers.SOLVERS`. It defines
    `name`, `takes`, `_posed` and `_solve`; `solve` does for all of them what does not differ.

    Attributes:
        name: key in `SOLVERS`.
        takes: the classes of problems and systems that it solves.
        positive: names of its own settings that must be above 0 where they are numbers.
        budget: passes over all examples of a network after which to stop, in forward-equivalents; `None` for
            no limit. Small systems spend none.
        steps: changes of the control after which to stop; `None` for no limit.
        tolerance: when to call it converged; each solver says what it compares.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[type, ...]]
    positive: ClassVar[tuple[str, ...]] = ()

    budget: float | None = None
    steps: int | None = None
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        check_settings(self, ("budget", "steps", "tolerance", *self.positive))

    def solve(
        self, problem: Any, *, start: Any = None, on_step: OnStep | None = None, watch: Watch | None = None
    ) -> Solution:
        """Go from a start to the best control that there is, or that the budget allows.

        Args:
            problem: of a class that `takes` names.
            start: control to begin with, in the form of `Solution.value`; 0 by default.
            on_step: called with each row of the history.
            watch: control ↦ further columns of each row (a held-out loss); neither its passes nor its time
                count.

        Raises:
            ValueError: for a problem of another kind, or a start of another shape or that is not finite.
        """
        if not isinstance(problem, self.takes):
            allowed = " and ".join(kind.__name__ for kind in self.takes)
            raise ValueError(
                f"problem: {self.name!r} takes {allowed}, and this is a {type(problem).__name__}."
            )
        posed = self._posed(problem)
        zero = posed.zero()
        run = SolverRun(self, posed, zero if start is None else _checked(start, zero), on_step, watch)
        try:
            status, remedy = self._solve(posed, run)
        except FloatingPointError as error:
            status, remedy = Status.DIVERGED, str(error)
        return Solution(
            run.value, run.cost, status, remedy, run.history, run.passes, run.seconds, run.details
        )

    @abstractmethod
    def _posed(self, problem: Any) -> Any:
        """Return the problem as this solver works on it, a `Posed`; what is spent here does not count."""

    @abstractmethod
    def _solve(self, posed: Any, run: SolverRun) -> tuple[Status, str]:
        """Go on from `run.value` until there is a reason to stop; return the status and the remedy.

        Raises:
            FloatingPointError: where something is not finite; the message is the remedy.
        """


def _copied(value: Any) -> Any:
    """Return a control that later steps do not change, without the graph of how it was found."""
    if isinstance(value, list):
        return [_copied(u) for u in value]
    return value.detach().clone() if isinstance(value, torch.Tensor) else np.array(value)


def _checked(start: Any, zero: Any) -> Any:
    """Return a start in the type of the control that does nothing, whose shape it must have."""
    if isinstance(zero, list):
        if not isinstance(start, list | tuple) or len(start) != len(zero):
            raise ValueError(f"start: allowed is a list of {len(zero)} controls.")
        return [_checked(u, v) for u, v in zip(start, zero, strict=True)]
    if isinstance(zero, ndarray):
        given = np.array(start, dtype=zero.dtype)
        finite = bool(np.isfinite(given).all())
    else:
        given = torch.as_tensor(start).detach().clone().to(zero)
        finite = bool(torch.isfinite(given).all())
    if given.shape != zero.shape or not finite:
        raise ValueError(
            f"start: its shape is {tuple(given.shape)}; allowed are finite numbers of shape "
            f"{tuple(zero.shape)}."
        )
    return given
