"""Gauss-Newton where an example has many outputs, the tokens of a language-model loss: sampled curvature.

The Gauss-Newton matrix of cross-entropy is the Fisher matrix E[∇log p(ŷ) ∇log p(ŷ)ᵀ] with answers ŷ drawn
from the model (Schraudolph 2002; Martens 2020). One draw for every token of a text, summed over the text,
gives one row of an unbiased estimate for one backward pass, whatever the length and the vocabulary.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from deltatheory import autodiff
from deltatheory._shapes import Float
from deltatheory.backbones import Batch
from deltatheory.control.solvers.base import SolverRun, Status
from deltatheory.control.solvers.objective import Minimizer, Objective
from deltatheory.problems import GenerationProblem

__all__ = ["SampledGaussNewton"]

_REJECTED = 30  # in a row: the damping has grown beyond any float


@dataclass(frozen=True, kw_only=True)
class SampledGaussNewton(Minimizer):
    """Levenberg-Marquardt with the exact gradient and sampled Fisher rows of the last steps, full batch.

    An iteration costs one forward and two backward passes. The step solves (λD + w I + RᵀR) d = -∇F
    through the small matrix of the rows R, D the running maximum of diag(RᵀR); λ follows the ratio of actual
    to predicted decrease (Nielsen 1999), and a step that raises F is taken back.

    Attributes:
        keep: steps whose rows are used.
        damping: λ at the start, in units of the mean eigenvalue of D^-½ RᵀR D^-½.
        decay: of the running maximum, a step.
        floor: least entry of D, relative to its largest.
        seed: of the draws.
    """

    name = "sampled-gauss-newton"
    takes = (GenerationProblem,)
    keep: int = 4
    damping: float = 1.0
    decay: float = 0.9
    floor: float = 1e-2
    seed: int = 0
    positive = ("keep", "damping", "decay", "floor")

    def _descend(self, objective: Objective, run: SolverRun) -> tuple[Status, str]:
        generator = torch.Generator().manual_seed(self.seed)
        kept: deque[Tensor] = deque(maxlen=self.keep)
        base = trial = run.value
        largest = torch.zeros_like(base, dtype=torch.float64)
        gradient, cost, metric, predicted = largest, float("inf"), 0.0, 0.0
        damping, growth, rejected = 0.0, 2.0, 0
        while True:
            loss, right, finish = fisher_rows(objective, trial, generator)
            new = loss + objective.price(trial)
            ratio = (cost - new) / predicted if predicted > 0 else None
            if ratio is None or ratio > 0:
                base, cost, metric, rejected, growth = trial, new, right, 0, 2.0
                slope, rows = finish()
                gradient = slope + self.energy_weight * base.double()
                kept.append(rows)
                diagonal = torch.cat(list(kept)).square().sum(0) / len(kept)
                largest = torch.maximum(self.decay * largest, diagonal)
                if ratio is not None:
                    damping *= max(1 / 3, 1 - (2 * ratio - 1) ** 3)
            else:
                damping, growth, rejected = damping * growth, 2 * growth, rejected + 1
            run.record(base, cost, metric=metric, damping=damping, ratio=ratio)
            if end := self.settled(objective, run, float(gradient.norm())):
                return end
            if self.over(run):
                return Status.BUDGET, "raise the budget, or take another solver"
            if rejected > _REJECTED:
                return Status.STALLED, "no step lowers the objective: take float64, or an exact derivative"
            rows = torch.cat(list(kept)) / len(kept) ** 0.5
            scale = largest.clamp(min=self.floor * float(largest.max()))
            if not damping:
                damping = self.damping * float((rows.square() / scale).sum()) / len(rows)
            step = _woodbury(rows, damping * scale + self.energy_weight, -gradient)
            predicted = float(
                -gradient @ step - 0.5 * ((rows @ step).square().sum() + self.energy_weight * step @ step)
            )
            trial = base + step.to(base)


def _woodbury(rows: Float[Tensor, "n m"], scale: Float[Tensor, " m"], b: Float[Tensor, " m"]) -> Tensor:
    """Return (diag(scale) + rowsᵀ rows)⁻¹ b through the n × n matrix of the rows."""
    thin = rows / scale
    inner = torch.eye(len(rows), dtype=rows.dtype, device=rows.device) + thin @ rows.T
    return b / scale - thin.T @ torch.linalg.solve(inner, thin @ b)


def fisher_rows(objective: Objective, delta: Tensor, generator: torch.Generator) -> tuple:
    """Return the mean loss of a token, the share of right ones, and a function for gradient and Fisher rows.

    Args:
        objective: of a generation problem.
        delta: where.
        generator: of the draws.
    """
    problem = objective.problem
    assert isinstance(problem, GenerationProblem)
    pullbacks, total, right, count = [], 0.0, 0.0, 0

    def one(batch: Batch, x: Tensor, labels: Tensor, noise: Tensor, *row: Tensor) -> tuple[Tensor, Tensor]:
        edit = problem.delta.edit(x)
        hidden = problem.backbone.hidden_states(batch.alone(row), edit)[0]
        logp = problem.backbone.vocabulary_logits(hidden, edit.parameters).log_softmax(-1)
        asked = (labels >= 0).to(logp)
        drawn = (logp.detach() + noise).argmax(-1)  # Gumbel: a draw from the softmax
        chosen = torch.stack([labels.clamp(min=0), drawn], -1)
        hit = ((logp.argmax(-1) == labels).to(logp) * asked).sum()
        return (logp.gather(-1, chosen) * asked[:, None]).sum(0), hit

    for part, batch, labels in objective.chunks():
        uniform = torch.rand(*labels.shape, _vocabulary(problem), generator=generator)
        noise = -(-uniform.clamp(min=1e-30).log()).log()
        data = [labels, noise.to(delta), *batch.tensors()]
        values, hits, rows = autodiff.per_example(partial(one, batch), delta, data)
        problem.count(len(part), forward=1.0)
        total -= float(values[:, 0].sum())
        right, count = right + float(hits.sum()), count + int((labels >= 0).sum())
        pullbacks.append(rows)

    def finish() -> tuple[Tensor, Tensor]:
        rows = torch.cat([pull() for pull in pullbacks]).double()
        problem.count(objective.examples, backward=2 * objective.backward)
        return -rows[:, 0].sum(0) / count, rows[:, 1] / count**0.5

    return total / count, right / count, finish


def _vocabulary(problem: GenerationProblem) -> int:
    head: torch.nn.Module | None = problem.backbone.lm_head
    assert head is not None  # a generation problem has one
    return next(head.parameters()).shape[0]
