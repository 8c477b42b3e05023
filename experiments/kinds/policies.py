"""Choose the settings of feedback policies on the dev split of a trained delta under disturbances."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.kinds.train import BUDGET, training
from experiments.trial import Trial

_DRAW = 1000  # of the disturbances on the dev split: others than those that are judged
_REHEARSED = 2000  # the first draw of those that a setpoint knows
_BATCH = 32
EXAMPLE = Trial(
    "policies",
    "",
    "",
    "prefix:2",
    {"gate": "values"},
    settings={
        **BUDGET,
        "learning_rate": 1e-2,
        "strengths": {"noise": {"scale": 0.7}},
        "grids": {"pid": [{"setpoint": "class", "proportional": 0.3}]},
    },
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return the settings of each policy with the best mean accuracy over conditions, and what was tried."""
    from deltatheory.control.feedback.disturbances import Disturbance, disturbed_batches
    from deltatheory.control.feedback.setpoints import nominal_states
    from deltatheory.control.feedback.steering import tune_policy

    problem, delta, disturbances = disturbed(trial, place, _DRAW)
    nominal = nominal_states(problem, delta, rehearsed=rehearsed(trial, problem, delta))
    conditions = [Disturbance(), *disturbances]
    batches = {d.name: (d, disturbed_batches(problem, problem.dev, d, _BATCH)) for d in conditions}
    grids = trial.settings["grids"]
    chosen = {name: tune_policy(name, problem, delta, nominal, batches, grid) for name, grid in grids.items()}
    return {
        "settings": {name: one.best for name, one in chosen.items()},
        "tried": {name: one.tried for name, one in chosen.items()},
    }


def disturbed(trial: Trial, place: Environment, draw: int) -> tuple[Any, Any, list[Any]]:
    """Return the problem of a trial, its δ after training, and the disturbances of a draw against it.

    Raises:
        FloatingPointError: if the training diverges.
    """
    from deltatheory.training.trainer import train

    problem = place.problem(trial)
    outcome = train(problem, training(trial))
    if outcome.test is None:
        raise FloatingPointError(outcome.status)
    return problem, outcome.delta, _drawn(trial.settings["strengths"], problem, outcome.delta, draw)


def rehearsed(trial: Trial, problem: Any, delta: Any) -> tuple[Any, ...]:
    """Return the disturbances that the setpoints of a trial know: of kinds it names, draws of their own."""
    given = trial.settings.get("rehearsed", {"kinds": [], "draws": 0})
    strengths = {name: trial.settings["strengths"][name] for name in given["kinds"]}
    draws = range(_REHEARSED, _REHEARSED + given["draws"])
    return tuple(one for draw in draws for one in _drawn(strengths, problem, delta, draw))


def _drawn(strengths: dict[str, dict[str, Any]], problem: Any, delta: Any, draw: int) -> list[Any]:
    from deltatheory.control.feedback.disturbances import make_disturbance

    return [make_disturbance(name, problem, delta, seed=draw, **of) for name, of in strengths.items()]
