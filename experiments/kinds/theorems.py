"""Measure both sides of the theorems on a problem."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.kinds.frozen import SHORT
from experiments.trial import Trial

EXAMPLE = Trial("theorems", "", "", "lora:2", settings=SHORT)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return a row a theorem, vacuous ones first."""
    from deltatheory.testing.on_models import check_on_model

    checks = check_on_model(place.problem(trial), seed=trial.seed)
    return {"theorems": [row.to_dict() for row in checks.rows]}
