"""Rank the places where a delta could act, before any training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from experiments.environment import Environment
from experiments.kinds.frozen import SHORT
from experiments.trial import Trial

EXAMPLE = Trial("places", "", "", "lora:2", settings={**SHORT, "places": "layer", "examples": 8})


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return what the Gramian says of each place, and the accuracy of the frozen model.

    `places` among the trial's settings are "layer", "module", or names with the modules that each has.
    """
    import torch

    from deltatheory.control import rank_actuators
    from deltatheory.control.reach.parts import coordinate_groups

    problem, groups = place.problem(trial), trial.settings["places"]
    if not isinstance(groups, str):
        of = coordinate_groups(problem, "module")
        groups = {name: torch.cat([of[module] for module in modules]) for name, modules in groups.items()}
    ranking = rank_actuators(problem, groups, examples=trial.settings["examples"])
    return {
        "frozen": problem.evaluate(problem.delta.initial(), problem.test)["accuracy"],
        "places": [asdict(one) for one in ranking.places],
        "greedy": ranking.selection.chosen,
        "passes": ranking.passes,
        "seconds": ranking.seconds,
    }
