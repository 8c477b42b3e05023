"""What solvers in the space of δ share: the objective with its rows, the run they write, their face."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatheory import autodiff
from deltatheory._shapes import Bool, Float
from deltatheory.backbones import Batch
from deltatheory.control.solvers.settings import check_settings
from deltatheory.control.solvers.solution import Solution, Status
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem, Problem

__all__ = [
    "NAN_REMEDY",
    "NO_GRADIENT",
    "DeltaSolver",
    "Minimizer",
    "Objective",
    "Outputs",
    "SolverRun",
    "require_finite",
]

_CHUNK = 32  # examples a pass, sorted by length: less padding

NAN_REMEDY = "look for NaN in the weights, or start from other controls"
NO_GRADIENT = (  # 0 to the last digit: no optimum looks like that, a δ that moves nothing does
    Status.ILL_CONDITIONED,
    "the derivative of the objective is 0 where the run starts, so that no direction is better than another: "
    "start from another δ, or take another delta, head or examples",
)


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
    """F on some training examples of a problem, its gradient, and the outputs inside it.

    Passes are counted as one a forward pass over one example, one a backward pass that differentiates
    activations only, and two a backward pass where the delta changes weights of the backbone.

    Args:
        problem: classification for `outputs`; generation as well for the others.
        indices: training examples; all by default.
        energy: weight of ½|δ|².

    Raises:
        ValueError: for examples that are not there, none or repeated ones, or a negative energy.
    """

    def __init__(self, problem: Problem, indices: Sequence[int] | None = None, energy: float = 0.0) -> None:
        total = len(problem.train)
        self.indices = list(range(total) if indices is None else indices)
        if not self.indices or len(set(self.indices)) < len(self.indices):
            raise ValueError(f"indices={self.indices}: must be distinct, and at least one.")
        if min(self.indices) < 0 or max(self.indices) >= total:
            raise ValueError(f"indices={self.indices}: must lie in 0..{total - 1}.")
        if energy < 0:
            raise ValueError(f"energy={energy}: must be at least 0.")
        self.problem, self.energy, self.count = problem, energy, len(self.indices)
        self.lengths = problem.train.lengths[self.indices]
        changes_weights = bool(problem.delta.edit(problem.delta.initial()).parameters)
        self.backward = BACKWARD if changes_weights else FORWARD
        self._kept: dict[tuple[int, ...], tuple[Batch, Tensor]] = {}

    def chunks(self, places: Sequence[int] | None = None) -> list[tuple[list[int], Batch, Tensor]]:
        """Return chunks of like length: places among `indices`, batch and labels."""
        chosen = sorted(range(self.count) if places is None else places, key=lambda i: self.lengths[i])
        parts = [chosen[k : k + _CHUNK] for k in range(0, len(chosen), _CHUNK)]
        chunks = []
        for part in parts:
            key = tuple(part)
            kept = self._kept.get(key)
            if kept is None:
                kept = self.problem.batch(self.problem.train, [self.indices[i] for i in part])
                if places is None:  # the whole set comes back, a mini-batch hardly ever
                    self._kept[key] = kept
            chunks.append((part, *kept))
        return chunks

    def price(self, delta: Float[Tensor, " m"]) -> float:
        """Return (energy/2)|δ|²."""
        return 0.5 * self.energy * float(delta.double().square().sum())

    @torch.no_grad()
    def value(self, delta: Float[Tensor, " m"]) -> tuple[float, float]:
        """Return F(δ) and the share of right answers, in one forward pass."""
        loss, right, count = 0.0, 0.0, 0
        for part, batch, labels in self.chunks(None):
            logits, answers = self.problem.outputs(delta, batch, labels)
            loss += float(cross_entropy(logits, answers, reduction="sum"))
            right += float((logits.argmax(1) == answers).sum())
            count += len(answers)
            self.problem.passes += FORWARD * len(part)
        return loss / count + self.price(delta), right / count

    def gradient(
        self, delta: Float[Tensor, " m"], places: Sequence[int] | None = None
    ) -> tuple[float, float, Float[Tensor, " m"]]:
        """Return F, the share of right answers and ∇F, on all examples or on those at some places."""
        leaf = delta.detach().clone().requires_grad_()
        loss, right, count, total = 0.0, 0.0, 0, torch.zeros_like(delta)
        for part, batch, labels in self.chunks(places):
            logits, answers = self.problem.outputs(leaf, batch, labels)
            value = cross_entropy(logits, answers, reduction="sum")
            total += torch.autograd.grad(value, leaf)[0]
            loss += float(value.detach())
            right += float((logits.argmax(1) == answers).sum())
            count += len(answers)
            self.problem.passes += (FORWARD + self.backward) * len(part)
        return loss / count + self.price(delta), right / count, total / count + self.energy * delta

    def outputs(
        self,
        delta: Float[Tensor, " m"],
        places: Sequence[int] | None = None,
        kind: Literal["margin", "logits"] = "margin",
    ) -> Outputs:
        """Return margins m = z_y - log Σ_{c≠y} exp z_c, or logit differences z_c - z_0, in one forward pass.

        The cross-entropy of an example is softplus(-m), exactly.

        Args:
            delta: where.
            places: among `indices`, in the order wanted; all by default.
            kind: "margin" (k = 1) or "logits" (k = C - 1).

        Raises:
            ValueError: for a problem that is not classification.
        """
        problem = self.problem
        if not isinstance(problem, ClassificationProblem):
            raise ValueError(
                f"problem: {type(problem).__name__} has no classes; take "
                "ClassificationProblem, or sampled Gauss-Newton."
            )
        order, values, solved, pullbacks = [], [], [], []
        for part, batch, labels in self.chunks(places):
            fields = [batch.input_ids, batch.mask, batch.attention_mask, batch.position_ids]
            if batch.token_type_ids is not None:
                fields.append(batch.token_type_ids)

            def one(x: Tensor, label: Tensor, *row: Tensor) -> tuple[Tensor, Tensor]:
                logits = problem.logits(x, Batch(*(entry[None] for entry in row)))[0]
                return (_margin(logits, label) if kind == "margin" else logits[1:] - logits[0]), logits

            value, logits, rows = autodiff.per_example(one, delta, [labels, *fields])
            problem.passes += FORWARD * len(part)
            order += part
            values.append(value)
            solved.append(logits.argmax(1) == labels)
            pullbacks.append(rows)
        back = _inverse(order, places if places is not None else range(self.count))

        def jacobian() -> Tensor:
            parts = [rows() for rows in pullbacks]
            problem.passes += self.backward * len(order) * parts[0].shape[1]
            return torch.cat(parts)[back]

        return Outputs(torch.cat(values)[back].double(), torch.cat(solved)[back], jacobian)


def _margin(logits: Float[Tensor, " C"], label: Tensor) -> Float[Tensor, " 1"]:
    """Return the margin of one example as a vector of one output; every branch is a tensor operation."""
    own = torch.zeros_like(logits, dtype=torch.bool).scatter(0, label[None], True)
    return logits.gather(0, label[None]) - logits.masked_fill(own, float("-inf")).logsumexp(0)


def _inverse(order: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """Return where, in `order`, the wanted entries are."""
    where = {place: k for k, place in enumerate(order)}
    return torch.tensor([where[place] for place in wanted])


def require_finite(values: Tensor) -> None:
    """Refuse outputs, or rows of their Jacobian, that are not finite.

    Raises:
        FloatingPointError: if there are any.
    """
    if not values.isfinite().all():
        raise FloatingPointError(f"outputs, or their derivatives, are not finite: {NAN_REMEDY}")


@dataclass(eq=False)
class SolverRun:
    """One solver at work: the history it writes, and the best δ it met."""

    objective: Objective
    value: Tensor
    budget: float
    on_step: Callable[[dict[str, Any]], None] | None
    watch: Callable[[Tensor], dict[str, Any]] | None
    cost: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    exact: bool = True

    def __post_init__(self) -> None:
        self._before = self.objective.problem.passes
        self._began = time.perf_counter()

    @property
    def passes(self) -> float:
        """Forward-equivalents so far, over single examples."""
        return self.objective.problem.passes - self._before

    @property
    def spent(self) -> bool:
        """Whether the budget is."""
        return self.passes >= self.budget * self.objective.count

    @property
    def seconds(self) -> float:
        """Time so far, without that of `watch`."""
        return time.perf_counter() - self._began

    def record(
        self, delta: Tensor, cost: float, metric: float, *, exact: bool = True, **columns: float | None
    ) -> None:
        """Write a row of the history.

        Args:
            delta: where.
            cost: F there; with `exact=False` an estimate from mini-batches.
            metric: share of right answers.
            exact: only exact costs say which δ was best; without them it is the last.
            columns: what else the solver knows.

        Raises:
            FloatingPointError: for a cost that is not finite.
        """
        if not math.isfinite(cost):
            remedy = "lower the step size" if self.history else f"at the start already: {NAN_REMEDY}"
            raise FloatingPointError(f"the objective became {cost}: {remedy}")
        self.exact = exact
        if not exact or cost < self.cost:
            self.value, self.cost = delta.detach().clone(), cost
        row = {"iteration": len(self.history), "cost": cost, "metric": metric}
        row |= {"passes": self.passes, "seconds": self.seconds, **columns}
        if self.watch:
            spent, began = self.objective.problem.passes, time.perf_counter()
            row |= self.watch(delta.detach())
            self.objective.problem.passes = spent
            self._began += time.perf_counter() - began
        self.history.append(row)
        if self.on_step:
            self.on_step(row)


@dataclass(frozen=True, kw_only=True)
class DeltaSolver(ABC):
    """Finds a δ for a problem, with its settings.

    Attributes:
        budget: forward-equivalent passes over all of the examples, after which to stop.
        tolerance: when to call it converged; each solver says what it compares.
        positive: names of the settings, beside these, that must be above 0.
    """

    budget: float = 100.0
    tolerance: float = 1e-5
    positive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_settings(self, ("budget", "tolerance", *self.positive))

    def solve(
        self,
        problem: Problem,
        indices: Sequence[int] | None = None,
        *,
        start: Float[Tensor, " m"] | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        watch: Callable[[Tensor], dict[str, Any]] | None = None,
    ) -> Solution:
        """Go from a start to the solution.

        Args:
            problem: a task under a backbone and a delta.
            indices: training examples; all by default.
            start: δ to begin with; 0, the frozen backbone, by default.
            on_step: called with each row of the history.
            watch: δ ↦ further columns of each row (a held-out loss); neither its passes nor its time count.

        Raises:
            ValueError: for examples or a start that do not fit the problem.
        """
        origin = problem.delta.initial() if start is None else start.detach().clone()
        if origin.shape != (problem.delta.size,):
            raise ValueError(f"start has shape {tuple(origin.shape)}: allowed is ({problem.delta.size},).")
        run = SolverRun(self._objective(problem, indices), origin, self.budget, on_step, watch)
        try:
            status, remedy = self._solve(run)
        except FloatingPointError as error:
            status, remedy = Status.DIVERGED, str(error)
        return Solution(
            run.value, run.cost, status, remedy, run.history, run.passes, run.seconds, run.details
        )

    @abstractmethod
    def _objective(self, problem: Problem, indices: Sequence[int] | None) -> Objective:
        """Return what to minimize."""

    @abstractmethod
    def _solve(self, run: SolverRun) -> tuple[Status, str]:
        """Go down from `run.value` until there is a reason to stop; return the status and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Minimizer(DeltaSolver):
    """Minimizes F(δ) = mean cross-entropy + (energy/2)|δ|².

    Converged where F is at the target, or, with full batches, |∇F| is below `tolerance` times |∇F| at the
    start, unless that is 0: there δ moves nothing, and the solution says so.

    Attributes:
        energy: weight of ½|δ|².
        target: cost at which to stop; `None` for as low as possible.
    """

    energy: float = 0.0
    target: float | None = None

    def _objective(self, problem: Problem, indices: Sequence[int] | None) -> Objective:
        return Objective(problem, indices, self.energy)

    def _solve(self, run: SolverRun) -> tuple[Status, str]:
        status, remedy = self._descend(run)
        if not run.exact:
            run.cost = run.objective.value(run.value)[0]
        if self._reached(run.cost):
            return Status.CONVERGED, ""
        return status, remedy

    def _reached(self, cost: float) -> bool:
        return self.target is not None and cost <= self.target

    def settled(self, norms: Sequence[float]) -> tuple[Status, str] | None:
        """Return how a full-batch run ends, by |∇F| so far; `None` where it goes on."""
        if norms[0] == 0:
            return NO_GRADIENT
        return (Status.CONVERGED, "") if norms[-1] <= self.tolerance * norms[0] else None

    def over(self, run: SolverRun) -> bool:
        """Whether the budget is spent or the last row is at the target."""
        return run.spent or self._reached(run.history[-1]["cost"])

    @abstractmethod
    def _descend(self, run: SolverRun) -> tuple[Status, str]:
        """Lower F from `run.value` until the run is over or there is another reason to stop."""
