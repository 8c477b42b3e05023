"""Train the linearized network in random subspaces of every dimension: the predicted curve."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.environment import Environment
from experiments.kinds.train import BUDGET, training
from experiments.trial import Trial

EXAMPLE = Trial("linearized_runs", "", "", settings={**BUDGET, "evaluate_every": None, "average": 0.5})


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return held-out accuracy and loss at the best scale, by rate, dimension and fold, and at δ = 0."""
    from deltatheory.dimension.curves import cross_fit, scaled_losses
    from deltatheory.dimension.predict import FOLDS, kernel_grid, kernel_rows
    from deltatheory.problems import folds

    setup = place.setup(trial)
    problem = setup.classification("full", {"scope": "blocks"}, check=False)
    schedule = training(trial, average=trial.settings["average"])
    features = kernel_rows(problem, schedule)
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
