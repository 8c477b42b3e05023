"""Gradient methods in the space of δ: the baselines that a second-order solver has to beat."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from deltatheory.control.solvers.base import SolverRun, Status
from deltatheory.control.solvers.objective import Minimizer, Objective
from deltatheory.problems import Problem, epochs

__all__ = ["LBFGS", "SGD", "Adam", "batches", "descend"]

_ENDLESS = 10**9
_SPENT = "raise the budget, or take another learning rate"


class _RunOver(Exception):
    """Ends torch's L-BFGS, which knows no other stop in the middle of a line search."""


def batches(objective: Objective, batch_size: int | None, seed: int) -> Iterator[list[int] | None]:
    """Yield positions of mini-batches, every epoch a permutation; without a batch size `None`, for all."""
    if batch_size is None or batch_size >= objective.examples:
        return repeat(None)
    return epochs(objective.lengths, batch_size, seed)


def descend(
    solver: Minimizer,
    objective: Objective,
    run: SolverRun,
    optimizer: torch.optim.Optimizer,
    delta: Tensor,
    batch_size: int | None,
    seed: int,
) -> tuple[Status, str]:
    """Step with a torch optimizer of `delta` until the run is over.

    The cost of a mini-batch run is the mean over the last epoch's batches, each at the δ it was met.

    Args:
        solver: says when to stop.
        objective: F.
        run: to write to.
        optimizer: whose only parameter is `delta`.
        delta: where to start; changed in place.
        batch_size: examples a step; `None` for all.
        seed: of the order of mini-batches.
    """
    count = objective.examples
    recent: deque[tuple[float, float]] = deque(maxlen=1 if batch_size is None else -(-count // batch_size))
    for positions in batches(objective, batch_size, seed):
        cost, metric, gradient = objective.gradient(delta, positions)
        recent.append((cost, metric))
        cost, metric = (sum(column) / len(recent) for column in zip(*recent, strict=True))
        run.record(delta, cost, exact=positions is None, metric=metric)
        if positions is None and (end := solver.settled(objective, run, float(gradient.norm()))):
            return end
        if solver.over(run):
            return Status.BUDGET, _SPENT
        delta.grad = gradient
        optimizer.step()
    raise AssertionError("batches never end")


@dataclass(frozen=True, kw_only=True)
class FirstOrder(Minimizer):
    """Steps with an optimizer of torch.

    Attributes:
        learning_rate: the step.
        batch_size: examples a step; `None` for all.
        seed: of the order of mini-batches.
    """

    takes = (Problem,)
    learning_rate: float
    batch_size: int | None = None
    seed: int = 0

    positive = ("learning_rate", "batch_size")

    @abstractmethod
    def _optimizer(self, delta: Tensor) -> torch.optim.Optimizer:
        """Return the optimizer of δ."""

    def _descend(self, objective: Objective, run: SolverRun) -> tuple[Status, str]:
        delta = run.value.clone()
        return descend(self, objective, run, self._optimizer(delta), delta, self.batch_size, self.seed)


@dataclass(frozen=True, kw_only=True)
class Adam(FirstOrder):
    """Adam (Kingma & Ba 2015) with a constant step."""

    name = "adam"
    learning_rate: float = 0.01

    def _optimizer(self, delta: Tensor) -> torch.optim.Optimizer:
        return torch.optim.Adam([delta], lr=self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class SGD(FirstOrder):
    """δ ← δ - η v, v ← μ v + ∇F (Polyak 1964).

    Attributes:
        learning_rate: η.
        momentum: μ.
    """

    name = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9

    def _optimizer(self, delta: Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD([delta], lr=self.learning_rate, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class LBFGS(Minimizer):
    """L-BFGS with a strong Wolfe line search (Liu & Nocedal 1989), full batch.

    Attributes:
        memory: pairs of steps and gradient changes to keep.
    """

    name = "l-bfgs"
    takes = (Problem,)
    memory: int = 20

    positive = ("memory",)

    def _descend(self, objective: Objective, run: SolverRun) -> tuple[Status, str]:
        delta = run.value.clone()
        end: list[tuple[Status, str]] = []

        def closure() -> Tensor:
            cost, metric, delta.grad = objective.gradient(delta)
            run.record(delta, cost, metric=metric)
            if settled := self.settled(objective, run, float(delta.grad.norm())):
                end.append(settled)
            if end or self.over(run):
                raise _RunOver
            return torch.tensor(cost, dtype=torch.float64)

        optimizer = torch.optim.LBFGS(
            [delta],
            max_iter=_ENDLESS,
            max_eval=_ENDLESS,
            history_size=self.memory,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )
        try:
            optimizer.step(closure)
        except _RunOver:
            return end[0] if end else (Status.BUDGET, "raise the budget, or take another solver")
        return Status.STALLED, "the line search found nothing lower: take float64, or another solver"
