"""Predict d90 without measuring it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.environment import Environment
from experiments.kinds import dimension
from experiments.trial import Trial

EXAMPLE = replace(dimension.EXAMPLE, kind="prediction", settings={**dimension.EXAMPLE.settings, "burn_in": 2})


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Predict d90 of the task."""
    return dimension.search(trial, place, "predict")
