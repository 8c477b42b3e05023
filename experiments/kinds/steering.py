"""Run feedback policies on a trained delta under disturbances."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from experiments.environment import Environment
from experiments.kinds import policies
from experiments.trial import Trial

_TIMED = 4  # batches
EXAMPLE = replace(
    policies.EXAMPLE,
    kind="steering",
    settings={
        **{key: value for key, value in policies.EXAMPLE.settings.items() if key != "grids"},
        "policies": {"pid": {"setpoint": "class", "proportional": 0.3}},
    },
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return accuracy and energy of each policy under each disturbance of the test split, and their time."""
    from deltatheory.control import steer

    problem, delta, disturbances = policies.disturbed(trial, place, trial.seed)
    of = trial.settings["policies"]
    result = steer(problem, delta, list(of), disturbances, settings=of, timed=_TIMED, clock=time.process_time)
    return result.to_dict()
