"""Gauss-Newton in the space of δ: linear margins, exact convex loss, and a Marquardt metric.

A loss is ψ(m) of the margin m of its outputs: cross-entropy is softplus(-m), m = z_y - log Σ_{c≠y} exp z_c.
Linearizing m alone, and keeping ψ as it is, gives a convex problem in δ whose solution costs no pass of the
network; one backward pass over examples with copies of δ of their own gives all rows of its Jacobian.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.control.solvers.base import NO_GRADIENT, SolverRun, Status
from deltatheory.control.solvers.first_order import batches, descend
from deltatheory.control.solvers.objective import Minimizer, Objective
from deltatheory.problems import Loss

__all__ = ["GaussNewton", "convex_step"]

_NEWTON = 50  # Newton steps of the inner problem: it is smooth and convex, ten are usual
_EXACT = 1e-10  # its tolerance
_REJECTED = 30  # in a row: the damping has grown beyond any float
_POOR = 0.25  # gain ratio


def convex_step(
    loss: Loss,
    rows: Float[Tensor, "n m"],
    margins: Float[Tensor, " n"],
    scale: Float[Tensor, " m"],
    pull: Float[Tensor, " m"],
    weight: float,
    side: Literal["primal", "dual"],
) -> Float[Tensor, " m"]:
    """Return the d that minimizes weight · Σ_i ψ((margins + rows d)_i) + pull·d + ½ d·(scale ∘ d).

    Newton's method with a line search, in float64. The dual side works in α with d = (rowsᵀα - pull)/scale,
    that is through the kernel rows diag(1/scale) rowsᵀ of n × n numbers; the primal side in d itself.

    One example, one coordinate: d = -ψ'(d), and of cross-entropy -ψ'(d) = 1/(1 + e^d).

    >>> import math
    >>> from deltatheory.problems import CrossEntropy
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> d = convex_step(CrossEntropy(), one[None], 0 * one, one, 0 * one, 1.0, "dual")
    >>> round(float(d), 6), round(1 / (1 + math.exp(d)), 6)
    (0.401058, 0.401058)

    Args:
        loss: whose ψ.
        rows: J.
        margins: at d = 0.
        scale: positive diagonal of the quadratic term.
        pull: linear term.
        weight: of an example.
        side: which system to solve; the result is the same.
    """
    rows, margins, scale, pull = rows.double(), margins.double(), scale.double(), pull.double()
    start = -pull / scale
    if side == "primal":
        x, image, quadratic = start, rows, torch.diag(scale)
        offset, linear = margins, pull
    else:
        image = (rows / scale) @ rows.T
        quadratic, offset = image, margins + rows @ start
        x, linear = torch.zeros_like(margins), torch.zeros_like(margins)

    def value(at: Tensor) -> Tensor:
        return weight * loss.of_margin(offset + image @ at)[0].sum() + linear @ at + 0.5 * at @ quadratic @ at

    current = value(x)
    for _ in range(_NEWTON):
        _, force, curvature = (weight * part for part in loss.of_margin(offset + image @ x))
        if side == "primal":
            gradient = quadratic @ x + linear - image.T @ force
            hessian = (image.T * curvature) @ image + quadratic
            step = -torch.linalg.solve(hessian, gradient)
            slope = gradient @ step
        else:  # the common factor `image` of gradient and Hessian is divided out: it may be singular
            residual = x - force
            identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
            step = -torch.linalg.solve(identity + curvature[:, None] * image, residual)
            slope = residual @ (image @ step)
        if -slope <= _EXACT**2 * (1 + abs(current)):
            break
        size = 1.0
        while (trial := value(x + size * step)) > current + 1e-4 * size * slope and size > _EXACT:
            size /= 2
        x, current = x + size * step, trial
    return x if side == "primal" else start + (rows.T @ x) / scale


@dataclass(frozen=True, kw_only=True)
class GaussNewton(Minimizer):
    """Levenberg-Marquardt on linear margins, full batch or incremental.

    Each step minimizes the convex model plus (λ/2)|d|²_D. D is the running maximum of diag(JᵀHJ) (Marquardt
    1963; Moré 1978), λ follows the ratio of actual to predicted decrease (Nielsen 1999), and a step that
    raises the objective is taken back.

    With a batch size every example keeps its row and its margin from when it was last met, a step refreshes
    one mini-batch of them and solves the problem over all (incremental Gauss-Newton: Bertsekas 1996). The
    ratio is then that of the examples refreshed. Where ratios stay poor for two epochs the run goes on as
    mini-batch Adam.

    Attributes:
        batch_size: examples refreshed a step; `None` for all.
        damping: λ at the start, in units of the mean eigenvalue of D^-½ JᵀHJ D^-½.
        decay: of the running maximum, a step (full batch) or an epoch.
        floor: least entry of D, relative to its largest.
        side: "primal" (m unknowns), "dual" (one an example), or "auto": the smaller.
        seed: of the order of mini-batches.
        fallback: learning rate of Adam.
    """

    name = "gauss-newton"
    batch_size: int | None = None
    damping: float = 1.0
    decay: float = 0.9
    floor: float = 1e-2
    side: Literal["auto", "primal", "dual"] = "auto"
    seed: int = 0
    fallback: float = 0.01

    positive = ("batch_size", "damping", "decay", "floor", "fallback")

    def _descend(self, objective: Objective, run: SolverRun) -> tuple[Status, str]:
        count = objective.examples
        share = 1.0 if self.batch_size is None else min(1.0, self.batch_size / count)
        loss = objective.problem.loss_function
        model = _MarginModel(loss, run.value, count, self.decay**share, self.floor)
        side = self.side
        if side == "auto":
            side = "primal" if len(run.value) <= count else "dual"
        base = trial = run.value
        damping, growth, rejected = 0.0, 2.0, 0
        ratios: deque[float] = deque(maxlen=round(2 / share))
        for positions in batches(objective, self.batch_size, self.seed):
            chosen = torch.arange(count) if positions is None else torch.tensor(positions)
            outputs = objective.outputs(trial, positions)
            margins = outputs.values[:, 0]
            ratio = model.gain(chosen, margins, trial, objective.price(base) - objective.price(trial))
            if ratio is None or ratio > 0:
                base, rejected, growth = trial, 0, 2.0
                model.refresh(chosen, base, margins, outputs.rows()[:, 0], outputs.solved)
                damping = damping or self.damping * model.mean_eigenvalue()
                if ratio is not None:
                    damping *= max(1 / 3, 1 - (2 * ratio - 1) ** 3) ** share
            else:
                damping, growth, rejected = damping * growth, 2 * growth, rejected + 1
            cost, metric = model.scores()
            cost += objective.price(base)
            run.record(base, cost, exact=positions is None, metric=metric, damping=damping, ratio=ratio)
            if self.over(run):
                return Status.BUDGET, "raise the budget, or take fewer examples a step"
            if rejected > _REJECTED:
                return Status.STALLED, "no step lowers the objective: take float64, or an exact derivative"
            if positions is None:
                norm = model.gradient_norm(base, self.energy_weight)
                if end := self.settled(objective, run, norm):
                    return end
            elif not damping > 0:  # NaN where no margin of the batch moves
                return NO_GRADIENT
            elif ratio is not None:
                ratios.append(ratio)
                if len(ratios) == ratios.maxlen and max(ratios) < _POOR:
                    run.details["fallback"] = len(run.history)
                    delta = base.clone()
                    adam = torch.optim.Adam([delta], lr=self.fallback)
                    return descend(self, objective, run, adam, delta, self.batch_size, self.seed)
            trial = base + model.step(base, damping, self.energy_weight, side)
        raise AssertionError("batches never end")


class _MarginModel:
    """Each example's margin when it was last met, and its line m ≈ offset + row·δ; and the metric D."""

    def __init__(self, loss: Loss, delta: Tensor, count: int, decay: float, floor: float) -> None:
        like = {"dtype": torch.float64, "device": delta.device}
        self.rows = torch.zeros(count, len(delta), **like)
        self.margins, self.offsets = torch.zeros(count, **like), torch.zeros(count, **like)
        self.known, self.solved = (torch.zeros(count, dtype=torch.bool, device=delta.device) for _ in "ks")
        self.largest = torch.zeros(len(delta), **like)
        self.loss, self.decay, self.floor = loss, decay, floor

    def gain(self, chosen: Tensor, margins: Tensor, delta: Tensor, saved: float) -> float | None:
        """Return actual over predicted decrease on the chosen examples that were met before.

        Args:
            chosen: examples met now.
            margins: theirs now.
            delta: where.
            saved: by how much the price of the control fell.
        """
        met = self.known[chosen]
        if not met.any():
            return None
        chosen = chosen[met]
        before = float(self.loss.of_margin(self.margins[chosen])[0].mean()) + saved
        expected = self.offsets[chosen] + self.rows[chosen] @ delta.double()
        predicted = before - float(self.loss.of_margin(expected)[0].mean())
        actual = before - float(self.loss.of_margin(margins[met])[0].mean())
        return actual / predicted if predicted > 0 else None

    def refresh(self, chosen: Tensor, delta: Tensor, margins: Tensor, rows: Tensor, solved: Tensor) -> None:
        """Take in what was met at δ, and let D follow."""
        self.rows[chosen] = rows.double()
        self.margins[chosen], self.solved[chosen], self.known[chosen] = margins, solved, True
        self.offsets[chosen] = margins - self.rows[chosen] @ delta.double()
        diagonal = self._curvature() @ self.rows[self.known].square()
        self.largest = torch.maximum(self.decay * self.largest, diagonal)

    def _curvature(self) -> Tensor:
        """Return the diagonal of H: the second derivative of the mean loss in each known margin."""
        margins = self.margins[self.known]
        return self.loss.of_margin(margins)[2] / len(margins)

    def metric(self) -> Tensor:
        """Return D."""
        return self.largest.clamp(min=self.floor * float(self.largest.max()))

    def mean_eigenvalue(self) -> float:
        """Return tr(D^-½ JᵀHJ D^-½) over the number of examples, known or not."""
        lengths = (self.rows[self.known].square() / self.metric()).sum(1)
        return float(self._curvature() @ lengths) / len(self.margins)

    def scores(self) -> tuple[float, float]:
        """Return the loss and the share of right answers of the known, as last met."""
        known = self.known
        value = self.loss.of_margin(self.margins[known])[0].mean()
        return float(value), float(self.solved[known].double().mean())

    def gradient_norm(self, delta: Tensor, energy_weight: float) -> float:
        """Return |∇F(δ)|, if all rows are those at δ."""
        force = self.loss.of_margin(self.margins)[1] / len(self.margins)
        return float((energy_weight * delta.double() - force @ self.rows).norm())

    def step(
        self, base: Tensor, damping: float, energy_weight: float, side: Literal["primal", "dual"]
    ) -> Tensor:
        """Return the d that minimizes the model of F(δ + d) with the damping."""
        rows, pull = self.rows[self.known], energy_weight * base.double()
        margins = self.offsets[self.known] + rows @ base.double()
        scale = damping * self.metric() + energy_weight
        step = convex_step(self.loss, rows, margins, scale, pull, 1 / len(rows), side)
        return step.to(base)
