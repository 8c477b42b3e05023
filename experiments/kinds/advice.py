"""Advise on a task before any training."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.trial import Trial

EXAMPLE = Trial(
    "advice",
    "",
    "",
    settings={
        "max_length": 12,
        "steps": 4,
        "batch_size": 4,
        "candidates": [["bitfit", {}], ["lora", {"r": 1}]],
    },
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return what `advise` says of the trial's candidates, and with which spread its intervals are made."""
    from deltatheory.advice import Candidate, advise

    settings = trial.settings
    result = advise(
        place.backbone(trial.model),
        place.task(trial),
        candidates=[Candidate(*one) for one in settings["candidates"]],
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        head=settings.get("head", "label-words"),
        max_length=settings["max_length"],
        seed=trial.seed,
    )
    found = result.to_dict()
    kept = {key: found[key] for key in ("ranked", "frozen", "winner", "findings", "passes", "seconds")}
    return kept | {"model_spread": found["provenance"]["settings"]["model_spread"]}
