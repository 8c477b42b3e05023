"""What solvers in the space of δ share: the objective with the rows of its outputs, and their face."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deltatheory import autodiff
from deltatheory._shapes import Bool, Float
from deltatheory.backbones import Batch
from deltatheory.control.solvers.base import NAN_REMEDY, NO_GRADIENT, Solver, SolverRun, Status
from deltatheory.problems import ClassificationProblem, Problem

__all__ = ["DeltaSolver", "Minimizer", "Objective", "Outputs", "require_finite"]

_CHUNK = 32  # examples a pass, sorted by length: less padding


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of some examples at a δ, with their Jacobian for whoever asks.

    Attributes:
        values: shape (n, k), float64.
        solved: whether the largest logit is that of the right class.
        rows: computes ∂values/∂δ, shape (n, k, m), by k backward passes.
    """

    values: Float[Tensor, "n k"]
    solved: Bool[Tensor, " n"]
    rows: Callable[[], Float[Tensor, "n k m"]]


class Objective:
    """F(δ) = mean loss over the training examples + (w/2)|δ|², its gradient, and the outputs inside it.

    A backward pass counts half where the delta leaves the weights of the backbone alone.

    Args:
        problem: classification for `outputs`; generation as well for the others.
        energy_weight: w.

    Raises:
        ValueError: for a negative weight.
    """

    def __init__(self, problem: Problem, energy_weight: float = 0.0) -> None:
        if not energy_weight >= 0:
            raise ValueError(f"energy_weight={energy_weight}: must be at least 0.")
        self.problem, self.energy_weight = problem, energy_weight
        self.lengths = problem.train.lengths
        changes_weights = bool(problem.delta.edit(problem.delta.initial()).parameters)
        self.backward = 1.0 if changes_weights else 0.5
        self._whole: list[tuple[list[int], Batch, Tensor]] | None = None

    @property
    def examples(self) -> int:
        """How many training examples there are."""
        return len(self.problem.train)

    @property
    def passes(self) -> float:
        """Forward-equivalents that the problem has spent so far."""
        return self.problem.passes

    def zero(self) -> Float[Tensor, " m"]:
        """Return δ = 0."""
        return self.problem.delta.initial()

    def chunks(self, positions: Sequence[int] | None = None) -> list[tuple[list[int], Batch, Tensor]]:
        """Return training examples, all or those at some positions, in chunks of like length."""
        if positions is None and self._whole:
            return self._whole
        chosen = sorted(
            range(self.examples) if positions is None else positions, key=lambda i: self.lengths[i]
        )
        parts = [chosen[k : k + _CHUNK] for k in range(0, len(chosen), _CHUNK)]
        chunks = [(part, *self.problem.batch(self.problem.train, part)) for part in parts]
        if positions is None:  # the whole set comes back, a mini-batch hardly ever
            self._whole = chunks
        return chunks

    def price(self, delta: Float[Tensor, " m"]) -> float:
        """Return (w/2)|δ|²."""
        return 0.5 * self.energy_weight * float(delta.double().square().sum())

    @torch.no_grad()
    def value(self, delta: Float[Tensor, " m"]) -> tuple[float, float]:
        """Return F(δ) and the share of right answers, in one forward pass."""
        loss, right, count = 0.0, 0, 0
        for part, batch, labels in self.chunks():
            outputs, answers = self.problem.outputs(delta, batch, labels)
            loss += float(self.problem.loss_function.total(outputs, answers))
            right += int(self.problem.loss_function.right(outputs, answers).sum())
            count += len(answers)
            self.problem.count(len(part), forward=1.0)
        return loss / count + self.price(delta), right / count

    def gradient(
        self, delta: Float[Tensor, " m"], positions: Sequence[int] | None = None
    ) -> tuple[float, float, Float[Tensor, " m"]]:
        """Return F, the share of right answers and ∇F, on all examples or on those at some positions."""
        batches = ((batch, labels) for _, batch, labels in self.chunks(positions))
        found = self.problem.sum_with_gradient(delta, batches, backward=self.backward)
        gradient = found.gradient / found.answers + self.energy_weight * delta
        return found.value / found.answers + self.price(delta), found.right / found.answers, gradient

    def outputs(
        self,
        delta: Float[Tensor, " m"],
        positions: Sequence[int] | None = None,
        kind: Literal["margin", "logits"] = "margin",
    ) -> Outputs:
        """Return the loss's margins, or logit differences z_c - z_0, of classification in one forward pass.

        Args:
            delta: where.
            positions: of training examples, in the order wanted; all by default.
            kind: "margin" (k = 1) or "logits" (k = C - 1).
        """
        problem = self.problem
        assert isinstance(problem, ClassificationProblem)
        order, values, solved, pullbacks = [], [], [], []
        for part, batch, labels in self.chunks(positions):

            def one(x: Tensor, label: Tensor, *row: Tensor, batch: Batch = batch) -> tuple[Tensor, Tensor]:
                logits = problem.logits(x, batch.alone(row))
                if kind == "margin":
                    return problem.loss_function.margin(logits, label[None]), logits[0]
                return logits[0, 1:] - logits[0, 0], logits[0]

            value, logits, rows = autodiff.per_example(one, delta, [labels, *batch.tensors()])
            problem.count(len(part), forward=1.0)
            order += part
            values.append(value)
            solved.append(problem.loss_function.right(logits, labels))
            pullbacks.append(rows)
        back = _inverse(order, positions if positions is not None else range(self.examples))

        def jacobian() -> Tensor:
            parts = [rows() for rows in pullbacks]
            problem.count(len(order) * parts[0].shape[1], backward=self.backward)
            return torch.cat(parts)[back]

        return Outputs(torch.cat(values)[back].double(), torch.cat(solved)[back], jacobian)


def _inverse(order: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """Return where, in `order`, the wanted entries are."""
    where = {position: k for k, position in enumerate(order)}
    return torch.tensor([where[position] for position in wanted])


def require_finite(values: Tensor) -> None:
    """Refuse outputs, or rows of their Jacobian, that are not finite.

    Raises:
        FloatingPointError: if there are any.
    """
    if not values.isfinite().all():
        raise FloatingPointError(f"outputs, or their derivatives, are not finite: {NAN_REMEDY}")


@dataclass(frozen=True, kw_only=True)
class DeltaSolver(Solver):
    """Finds a δ for a classification problem by ½|δ|² or the loss on its training examples."""

    takes = (ClassificationProblem,)
    budget: float | None = 100.0

    def _posed(self, problem: Problem) -> Objective:
        return Objective(problem, 1.0)


@dataclass(frozen=True, kw_only=True)
class Minimizer(DeltaSolver):
    """Minimizes F(δ) = mean loss + (w/2)|δ|².

    Converged where F is at the target, or, with full batches, |∇F| is below `tolerance` times |∇F(0)|, which
    no start changes; where that vanishes, times |∇F| at the start. Where both do, δ moves nothing, and the
    solution says so.

    Attributes:
        energy_weight: w.
        target: cost at which to stop; `None` for as low as possible.
    """

    energy_weight: float = 0.0
    target: float | None = None

    def _posed(self, problem: Problem) -> Objective:
        return Objective(problem, self.energy_weight)

    def _solve(self, posed: Objective, run: SolverRun) -> tuple[Status, str]:
        try:
            status, remedy = self._descend(posed, run)
        finally:
            posed.problem.restore()
        if not run.exact:
            run.cost = posed.value(run.value)[0]
        return (Status.CONVERGED, "") if self._reached(run.cost) else (status, remedy)

    def _reached(self, cost: float) -> bool:
        return self.target is not None and cost <= self.target

    def settled(self, objective: Objective, run: SolverRun, norm: float) -> tuple[Status, str] | None:
        """Return how a full-batch run ends, by |∇F| at its last row; `None` where it goes on."""
        if run.scale is None:
            zero = objective.zero()
            elsewhere = not torch.equal(run.value, zero)
            run.scale = (float(objective.gradient(zero)[2].norm()) if elsewhere else 0.0) or norm
        if run.scale == 0:
            return NO_GRADIENT
        return (Status.CONVERGED, "") if norm <= self.tolerance * run.scale else None

    def over(self, run: SolverRun) -> bool:
        """Whether the budget is spent or the last row is at the target."""
        return run.spent or self._reached(run.history[-1]["cost"])

    @abstractmethod
    def _descend(self, objective: Objective, run: SolverRun) -> tuple[Status, str]:
        """Lower F from `run.value` until the run is over or there is another reason to stop."""
