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
    from deltatheory.control.feedback import SteeringProtocol, steer

    problem, delta, disturbances = policies.disturbed(trial, place, trial.seed)
    of = trial.settings["policies"]
    known = policies.rehearsed(trial, problem, delta)
    protocol = SteeringProtocol(timed=_TIMED, clock=time.process_time, rehearsed=known)
    found = steer(problem, delta, list(of), disturbances, settings=of, protocol=protocol).to_dict()
    return {name: value for name, value in found.items() if name != "provenance"}  # the row has its own
