"""What every solver of the control view returns, and how it stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from deltatheory.results import Result

__all__ = ["Solution", "Status"]


class Status(StrEnum):
    """Why a solver stopped; everything but `CONVERGED` comes with a remedy."""

    CONVERGED = "converged"
    BUDGET = "budget spent"
    STALLED = "stalled"
    DIVERGED = "diverged"
    INFEASIBLE = "infeasible"
    ILL_CONDITIONED = "ill-conditioned"


@dataclass(frozen=True, eq=False)
class Solution(Result):
    """A control, what it costs, and how it was found.

    Attributes:
        value: the best control met: δ of shape (m,), or controls of shape (T, m), with a leading dimension of
            initial states where several were solved at once.
        cost: objective at `value`; an array where several were solved at once.
        status: why the solver stopped; where several were solved at once, the worst of theirs.
        remedy: what to do about it, in a sentence; empty when converged.
        history: one row an iteration: iteration, cost, passes, seconds, and what else the solver knows.
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
