"""What every solver of the control view returns, and how it stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

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
class Solution:
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

    def plot(self) -> Any:
        """Return a matplotlib figure: the cost against passes, or against iterations without a network."""
        import matplotlib.pyplot as plt

        over = "passes" if self.passes else "iteration"
        figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
        axes.plot([row[over] for row in self.history], [row["cost"] for row in self.history], lw=1.5)
        axes.set(xlabel=over, ylabel="cost", title=str(self.status))
        if all(row["cost"] > 0 for row in self.history):
            axes.set_yscale("log")
        return figure
