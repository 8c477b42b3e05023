"""Measure d90 without a prediction to begin from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.environment import Environment
from experiments.kinds import dimension
from experiments.trial import Trial

EXAMPLE = replace(dimension.EXAMPLE, kind="measurement")


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Search from the middle of all d."""
    return dimension.search(trial, place, "measure")
