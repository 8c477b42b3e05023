"""What full fine-tuning of the same task costs, beside a delta's training."""

from __future__ import annotations

from dataclasses import fields, replace

from deltatheory.deltas import WithHead
from deltatheory.deltas.subspace import FullFineTuning
from deltatheory.problems import Problem
from deltatheory.training.result import TrainingCosts
from deltatheory.training.trainer import Training, train

__all__ = ["full_costs"]

_TIMED = 5  # steps that tell the costs


def full_costs(problem: Problem, training: Training) -> TrainingCosts:
    """Return the costs of full fine-tuning, from a few of its steps.

    Args:
        problem: what a delta was trained on; full fine-tuning moves the parameters that the delta may.
        training: how.
    """
    delta = problem.delta.delta if isinstance(problem.delta, WithHead) else problem.delta
    full = FullFineTuning(problem.backbone, scope=getattr(delta, "scope", "blocks"))
    short = replace(training, steps=_TIMED, evaluate_every=None, patience=None, learning_rate=1e-5)
    run = train(problem.with_delta(full, problem.task.limited(None, 1, problem.seed)), short)
    return TrainingCosts(**{f.name: getattr(run, f.name) for f in fields(TrainingCosts)})
