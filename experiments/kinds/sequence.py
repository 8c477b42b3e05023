"""Train the parts of a combination one after the other, each for its share of the steps."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.kinds.train import BUDGET, row, training
from experiments.trial import Trial

EXAMPLE = Trial(
    "sequence",
    "",
    "",
    "combined",
    {"deltas": [["adapter", {"bottleneck": 2}], ["bitfit", {}]]},
    settings={**BUDGET, "learning_rates": [1e-2, 1e-3]},
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Train each part with the parts before it fixed."""
    from deltatheory.training.trainer import train

    combined = place.problem(trial).delta
    parts, fixed, passes, seconds = len(combined.deltas), [], 0.0, 0.0
    steps = trial.settings["steps"] // parts
    for i, rate in enumerate(trial.settings["learning_rates"]):
        problem = place.problem(trial, combined.stage(i, fixed))
        outcome = train(problem, training(trial, steps=steps, learning_rate=rate))
        passes, seconds = passes + outcome.passes, seconds + outcome.seconds
        if outcome.test is None:
            break
        fixed.append(outcome.delta)
    return row(problem, outcome) | {"passes": passes, "seconds": seconds}
