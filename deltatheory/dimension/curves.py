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
_HELD = 1 << 24  # numbers in the Jacobians of the runs that are made side by side


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
    batches_are_equal = training.batch_size <= min(len(kept) for kept, _ in parts)
    for i, d in enumerate(grid):
        at_once = max(1, _HELD // (square_root[..., 0].numel() * d)) if batches_are_equal else 1
        for first in range(0, len(parts), at_once):
            folds = range(first, min(first + at_once, len(parts)))
            seeds = [training.seed + 1000 * k + i for k in folds]
            draws = [random_subspaces(square_root, features.size, d, 1, seed=seed) for seed in seeds]
            found = train_linearized(
                start,
                torch.cat(draws),
                replace(training, seed=training.seed + first),
                train=[parts[k][0] for k in folds],
                rates=LEARNING_RATES,
            )
            for r, rate in enumerate(LEARNING_RATES):
                for run, k in enumerate(folds):
                    kept, held = parts[k]
                    logits = found.logits[r, run]
                    held_out[rate][i, held] = (logits + start.judging_offset)[held].float().cpu()
                    movement[rate][i] += float(found.delta[r, run].norm()) / len(parts)
                    right = start.solved(logits)[kept].double().mean()
                    fitted[rate].append((k, i, float(found.train_loss[r, run]), float(right)))
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
            for k, i, train_loss, train_metric in sorted(fitted[rate])
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
