"""Train one delta."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from experiments.environment import Environment
from experiments.kinds.frozen import SHORT
from experiments.trial import Trial

if TYPE_CHECKING:
    from torch import Tensor

    from deltatheory.training.trainer import Training

BUDGET = {**SHORT, "steps": 10, "batch_size": 4, "evaluate_every": 5}  # of the examples of kinds
EXAMPLE = Trial("train", "", "", "lora:2", settings={**BUDGET, "learning_rate": 1e-2})


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Train the delta of the trial."""
    from deltatheory.training.trainer import train

    problem = place.problem(trial)
    return row(problem, train(problem, training(trial)))


def training(trial: Trial, **changed: Any) -> Training:
    """Return how a trial trains."""
    from deltatheory.training.trainer import Training

    keys = ("steps", "batch_size", "learning_rate", "evaluate_every")
    given = {key: trial.settings[key] for key in keys if key in trial.settings}
    unsaid = {"steps": 60, "learning_rate": 1e-4}  # what trials that do not say it ran with
    return Training(**{"seed": trial.seed, **unsaid, **given, **changed})


def after(problem: Any, short: Training, first: int) -> Tensor:
    """Return δ after a short run that sees the training examples from `first` on alone."""
    from deltatheory.problems import epochs

    unseen, values = problem.train.subset(range(first, len(problem.train))), problem.delta.initial()
    optimizer, order = short.make_optimizer(values), epochs(unseen.lengths, short.batch_size, short.seed)
    for step in range(short.steps):
        batch, labels = problem.batch(unseen, next(order))
        *_, gradient = problem.loss_and_gradient(values, batch, labels)
        optimizer.step(gradient, short.rate(step))
    return values


def row(problem: Any, outcome: Any) -> dict[str, Any]:
    """Return what a training run came to, with the score of its δ on training examples."""
    metric = problem.metric
    fitted = problem.evaluate(outcome.delta, problem.train) if outcome.test else {}
    problem.restore()
    return {
        "status": outcome.status,
        "test": outcome.test and outcome.test[metric],
        "test_loss": outcome.test and outcome.test["loss"],
        "train": fitted.get(metric),
        "train_loss": fitted.get("loss"),
        "dev": [[row["step"], round(row[metric], 4), round(row["loss"], 4)] for row in outcome.dev],
        "losses": [round(loss, 4) for loss in outcome.losses if math.isfinite(loss)],
        "parameters": outcome.tuned_parameters,
        "optimizer_bytes": outcome.optimizer_state_bytes,
        "seconds_per_step": outcome.seconds_per_step,
        "movement": outcome.movement if math.isfinite(outcome.movement) else None,
        "passes": outcome.passes,
        "seconds": outcome.seconds,
    }
