"""Train in a random subspace, then go on in one of twice the dimension that contains it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.environment import Environment
from experiments.kinds.looks import watch
from experiments.kinds.train import BUDGET, training
from experiments.trial import Trial

_SECOND = 1000  # added to the seed of the data order where a run goes on
EXAMPLE = Trial(
    "warm_start", "", "", "subspace:8", settings={**BUDGET, "learning_rate": 1.0, "after": 2, "more": 2}
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return the score after `more` steps from the δ that half the dimension has `after` so many steps."""
    from deltatheory.training.trainer import train

    settings, larger = trial.settings, place.problem(trial)
    small = place.problem(replace(trial, delta=f"subspace:{larger.delta.size // 2}"))
    kept: dict[int, Any] = {}
    watch(
        small, lambda step, delta: kept.setdefault(step, delta.clone()) if step == settings["after"] else None
    )
    solved = train(small, training(trial))
    found = kept.get(settings["after"], solved.delta)  # at the end of the steps there is no further gradient
    start = small.delta.projection.lift(found, larger.delta.projection)
    second = training(trial, steps=settings["more"], seed=trial.seed + _SECOND)
    outcome = train(larger, second, start=start)
    test = outcome.test or {}
    return {"test": test.get("accuracy"), "test_loss": test.get("loss"), "seconds": outcome.seconds}
