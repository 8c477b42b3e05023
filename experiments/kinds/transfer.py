"""Train δ on one task, and evaluate it on others with their own heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.environment import Environment
from experiments.kinds.train import EXAMPLE as TRAINED
from experiments.kinds.train import row, training
from experiments.trial import Trial

EXAMPLE = replace(TRAINED, kind="transfer", settings={**TRAINED.settings, "targets": ["a", "b"]})


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Train as `train` does, and add the accuracy on each target."""
    from deltatheory.training.trainer import train

    problem = place.problem(trial)
    outcome = train(problem, training(trial))
    found, scores = row(problem, outcome), {}
    for name in trial.settings["targets"] if outcome.test else ():
        other = place.problem(replace(trial, task=name), problem.delta)
        scores[name] = other.evaluate(outcome.delta, other.test)["accuracy"]
        other.restore()
    return found | {"targets": scores}
