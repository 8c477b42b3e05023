"""Train the linearized network in random subspaces of every dimension: the predicted curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.environment import Environment
from experiments.kinds.train import BUDGET, after, training
from experiments.trial import Trial

if TYPE_CHECKING:
    from torch import Tensor

    from deltatheory.problems import ClassificationProblem, Setup
    from deltatheory.training.trainer import Training

EXAMPLE = Trial(
    "linearized_runs",
    "",
    "",
    "subspace:8",
    settings={**BUDGET, "evaluate_every": None, "average": 0.5, "burn_in": 2, "learning_rate": 0.3},
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return held-out accuracy and loss at the best scale, by rate, dimension and fold, and at δ = 0.

    With a `burn_in` among the settings, 0 included, the kernel is of half of its examples; the trial's
    subspace is trained in for so many steps on those that are left, and the network is linearized there.
    """
    from deltatheory.dimension.curves import cross_fit, scaled_losses
    from deltatheory.dimension.predict import FOLDS, kernel_examples, kernel_grid, kernel_rows
    from deltatheory.problems import folds

    setup = place.setup(trial)
    problem = setup.classification("full", {"scope": "blocks"}, check=False)
    schedule = training(trial, average=trial.settings["average"])
    steps, examples, at = trial.settings.get("burn_in"), None, None
    if steps is not None:
        examples = max(2, kernel_examples(problem.task) // 2)
        if steps:
            short = training(trial, steps=steps)
            at = _burnt_in(setup, problem, trial.delta, short, first=examples)
    features = kernel_rows(problem, schedule, examples=examples, at=at)
    start, parts = features.start, folds(len(features.start), FOLDS)
    grid = kernel_grid(features)
    runs = cross_fit(features, parts, grid, schedule)
    judged = start.logits + start.judging_offset

    def by_fold(values: np.ndarray) -> list[list[float]]:
        return [[float(f"{row[held].mean():.5g}") for _, held in parts] for row in values]

    return {
        "d": grid,
        "frozen": {
            "accuracy": float(start.solved(start.logits).double().mean()),
            "calibrated_loss": float(scaled_losses(start.loss, judged.cpu(), start.labels.cpu()).mean()),
        },
        "rates": {
            f"{rate:g}": {"accuracy": by_fold(found.solved), "calibrated_loss": by_fold(found.losses)}
            for rate, found in runs.items()
        },
        "examples": len(start),
        "rank": features.rank(),
        "passes": problem.passes,
    }


def _burnt_in(
    setup: Setup, problem: ClassificationProblem, delta: str, short: Training, first: int
) -> Tensor:
    """Return Pδ of a short run in a subspace that sees the examples from `first` on alone."""
    tuned = setup.classification(delta, check=False)
    values = after(tuned, short, first)
    tuned.restore()
    problem.passes += tuned.passes
    subspace: Any = tuned.delta
    return subspace.change(values)
