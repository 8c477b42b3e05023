"""Fit a delta to few examples with a solver, and note the training loss against passes."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.kinds.frozen import SHORT
from experiments.trial import Trial

EXAMPLE = Trial(
    "solve",
    "",
    "",
    "prefix:2",
    {"gate": "values"},
    settings={
        **SHORT,
        "solver": "adam",
        "options": {"learning_rate": 0.1, "batch_size": 4, "budget": 4.0},
        "until": {"loss": 0.01},
    },
)


class _LowEnough(Exception):
    """The loss is low enough: no need to go on."""


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return passes over the training set and its loss, row by row, and the scores of the last δ.

    Whether a loss is reached is measured on the whole training set, outside the solver's count: after each
    step with full batches, or two passes of mini-batches. `until` is the loss at which to stop, or the share
    of that at the start.
    """
    from deltatheory.control import solve
    from deltatheory.control.solvers.objective import Objective

    problem, settings = place.problem(trial), trial.settings
    solver, options = settings["solver"], settings["options"]
    objective, count = Objective(problem), len(problem.train)
    mini = options.get("batch_size", count) < count
    curve: list[tuple[float, float]] = []
    last: dict[str, Any] = {"start": problem.passes}

    def watch(delta: Any) -> dict[str, float]:
        last["delta"] = delta.clone()
        due = not curve or (problem.passes - last["start"]) / count >= curve[-1][0] + 2
        if not (mini and due):
            return {}
        loss = objective.value(delta)[0]
        last["start"] += count  # not the solver's pass
        return {"loss": loss}

    def on_step(row: dict[str, Any]) -> None:
        last["seconds"] = row["seconds"]
        if (loss := row.get("loss", None if mini else row["cost"])) is not None:
            curve.append((row["passes"] / count, loss))
            low = settings["until"].get("loss") or settings["until"]["share"] * curve[0][1]
            if loss <= low:
                raise _LowEnough

    status = "level reached"
    try:
        solution = solve(problem, solver, on_step=on_step, watch=watch, **options)
        status, last["delta"] = str(solution.status), solution.value
    except _LowEnough:
        pass
    found: dict[str, Any] = {"curve": [list(point) for point in curve], "status": status}
    scores = problem.evaluate(last["delta"], problem.test) if "delta" in last else {}
    found |= {"test": scores.get(problem.metric), "test_loss": scores.get("loss")}
    return found | {"seconds": last.get("seconds")}
