"""Train in a random subspace, and look at the test split as training goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.environment import Environment
from experiments.kinds.train import BUDGET, training
from experiments.trial import Trial

EXAMPLE = Trial(
    "looks", "", "", "subspace:8", settings={**BUDGET, "learning_rate": 1.0, "every": 2, "part": 4}
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return the score at the end, and on the way the accuracies on the test split and its first examples."""
    from deltatheory.training.trainer import train

    problem, looks = place.problem(trial), []

    def look(step: int, delta: Any) -> None:
        if step and step % trial.settings["every"] == 0:
            right = (problem.predict(delta, problem.test).argmax(1) == problem.test.labels).double()
            part = right[: trial.settings["part"]]
            looks.append({"step": step, "test": float(right.mean()), "part": float(part.mean())})

    watch(problem, look)
    outcome = train(problem, training(trial))
    look(trial.settings["steps"], outcome.delta)
    problem.restore()
    test = outcome.test or {}
    found = {"test": test.get("accuracy"), "test_loss": test.get("loss"), "seconds": outcome.seconds}
    return found | {"looks": looks, "examples": len(problem.test.labels)}


def watch(problem: Any, on_delta: Callable[[int, Any], None]) -> None:
    """Call `on_delta` with the steps done and δ before each gradient of a problem."""
    own, steps = problem.loss_and_gradient, 0

    def watched(delta: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal steps
        on_delta(steps, delta)
        steps += 1
        return own(delta, *arguments, **options)

    problem.loss_and_gradient = watched
