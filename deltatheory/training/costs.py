"""What full fine-tuning of the same task costs and comes to, beside a delta's training."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from functools import partial

from deltatheory.deltas import WithHead
from deltatheory.deltas.subspace import FullFineTuning
from deltatheory.problems import Problem
from deltatheory.training.learning_rate import predict_learning_rate
from deltatheory.training.parallel import from_first
from deltatheory.training.result import TrainingCosts
from deltatheory.training.trainer import Training, train

__all__ = ["full_costs"]

_TIMED = 5  # steps that tell the costs


def full_costs(problem: Problem, training: Training, *, scored: bool = False) -> TrainingCosts:
    """Return the costs of full fine-tuning, from a few of its steps, or with its scores from all of them.

    Args:
        problem: what a delta was trained on; full fine-tuning moves the parameters that the delta may.
        training: how.
        scored: train to the end, at the learning rate that is predicted for it, and score the test split.

    Raises:
        ValueError: for `scored` with another optimizer than AdamW, or where no rate is found.
    """
    delta = problem.delta.delta if isinstance(problem.delta, WithHead) else problem.delta
    full = FullFineTuning(problem.backbone, scope=getattr(delta, "scope", "blocks"))
    if scored:
        whole = problem.with_delta(full)
        found = from_first(partial(predict_learning_rate, whole, training=training))
        if not found.found:
            raise ValueError(f"full fine-tuning: its learning rate is {found.status}.")
        if found.caution:
            warnings.warn(
                f"full fine-tuning at {found.rate:.2g}, as predicted: {found.caution}", stacklevel=2
            )
        run = train(whole, replace(training, learning_rate=found.rate))
    else:
        few = replace(training, steps=_TIMED, evaluate_every=None, patience=None, learning_rate=1e-5)
        run = train(problem.with_delta(full, problem.task.limited(None, 1, problem.seed)), few)
    costs = TrainingCosts(**{f.name: getattr(run, f.name) for f in fields(TrainingCosts)})
    return costs if scored else replace(costs, test=None)
