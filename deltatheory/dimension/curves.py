"""Held-out scores of linearized runs against the dimension of their subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.dimension.result import CurvePoint
from deltatheory.linearization.subspace_training import kernel_root, random_subspaces, train_linearized
from deltatheory.linearization.tangent import TangentRows
from deltatheory.problems import Loss
from deltatheory.training.trainer import Training

__all__ = ["LEARNING_RATES", "CrossFittedRuns", "cross_fit", "scaled_losses"]

# Rates for δ under an isometric P: with unit-norm columns one serves all d near d90.
LEARNING_RATES = (0.3, 1.0)


@dataclass(frozen=True, eq=False)
class CrossFittedRuns:
    """Runs at one learning rate, in which every example is held out once.

    Attributes:
        solved: shape (dimensions, n): whether each example was solved by the run that it was held out of.
        losses: the same shape: its loss in that run, at the scale of the logits that is best for all of them.
        movement: shape (dimensions,), ‖δ‖ at the end, mean over the folds.
        points: one row a run.
    """

    solved: np.ndarray
    losses: np.ndarray
    movement: np.ndarray
    points: list[CurvePoint]


def cross_fit(
    features: TangentRows,
    parts: Sequence[tuple[list[int], list[int]]],
    grid: Sequence[int],
    training: Training,
) -> dict[float, CrossFittedRuns]:
    """Return the cross-fitted runs of each of `LEARNING_RATES`, in the same subspaces.

    Args:
        features: rows of J and where the runs start.
        parts: (kept, held out) for each fold; every fold has a subspace of its own for each dimension.
        grid: dimensions.
        training: the budget of a run; its seed is that of the first fold.
    """
    square_root, start = kernel_root(features), features.start
    held_out = {rate: torch.zeros(len(grid), *start.logits.shape) for rate in LEARNING_RATES}
    movement = {rate: np.zeros(len(grid)) for rate in LEARNING_RATES}
    fitted: dict[float, list[tuple[int, int, float, float]]] = {rate: [] for rate in LEARNING_RATES}
    for k, (kept, held) in enumerate(parts):
        order = kept + held
        part = start.subset(order)
        for i, d in enumerate(grid):
            seed = training.seed + 1000 * k + i
            jacobian = random_subspaces(square_root[order], features.size, d, 1, seed=seed)
            for rate in LEARNING_RATES:
                schedule = replace(training, seed=training.seed + k, learning_rate=rate)
                run = train_linearized(part, jacobian, schedule, train=len(kept))
                right = part.solved(run.logits)[0].double().cpu().numpy()
                held_out[rate][i, held] = (run.logits[0] + part.judging_offset)[len(kept) :].float().cpu()
                movement[rate][i] += float(run.delta.norm()) / len(parts)
                fitted[rate].append((k, i, float(run.train_loss[0]), float(right[: len(kept)].mean())))
    labels, runs = start.labels.cpu(), {}
    for rate, logits in held_out.items():
        solved = (logits.argmax(-1) == labels).double().numpy()
        losses = np.stack([scaled_losses(start.loss, part, labels) for part in logits])
        points = [
            CurvePoint(
                d=grid[i],
                method="predict",
                seed=training.seed + k,
                train_loss=train_loss,
                train_metric=train_metric,
                test_metric=float(solved[i, parts[k][1]].mean()),
                test_loss=float(losses[i, parts[k][1]].mean()),
            )
            for k, i, train_loss, train_metric in fitted[rate]
        ]
        runs[rate] = CrossFittedRuns(solved, losses, movement[rate], points)
    return runs


def scaled_losses(loss: Loss, logits: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> np.ndarray:
    """Return the loss of each example at the scale of the logits that is best for all (`Loss.best_scale`).

    >>> from deltatheory.problems import CrossEntropy
    >>> scaled_losses(CrossEntropy(), torch.tensor([[0.0, 9.0], [0.0, 9.0]]), torch.tensor([0, 1])).round(3)
    array([0.693, 0.693])
    """
    scale = loss.best_scale(logits, labels)
    return loss.values(scale * logits.double(), labels).cpu().numpy()
