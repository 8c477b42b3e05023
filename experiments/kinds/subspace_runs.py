"""Train once in a random subspace, or all parameters: the last δ, and the mean of the last ones."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.kinds.train import BUDGET, training
from experiments.trial import Trial

EXAMPLE = Trial(
    "subspace_runs",
    "",
    "",
    "subspace:8",
    settings={**BUDGET, "evaluate_every": None, "learning_rate": 0.3, "average": 0.5},
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return accuracy, loss and loss at the best scale on the test split: frozen, last and averaged δ.

    The trial's delta is `subspace:d` or `full`; a run that diverged has no scores.
    """
    from deltatheory.training.trainer import train

    problem = place.problem(trial)
    frozen = problem.evaluate(problem.delta.initial(), problem.test)
    outcome = train(problem, training(trial, average=trial.settings["average"]))
    last = problem.evaluate(outcome.last, problem.test) if outcome.test else None
    problem.restore()
    kept = ("status", "train_loss", "movement", "passes", "seconds") if outcome.test else ("status",)
    return {
        **{key: getattr(outcome, key) for key in kept},
        "parameters": outcome.tuned_parameters,
        "frozen": frozen,
        "last": last,
        "averaged": outcome.test,
    }
