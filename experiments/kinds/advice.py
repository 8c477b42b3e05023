"""Advise on a task before any training."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.kinds.train import training
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

    given = trial.settings
    candidates = [Candidate(*one) for one in given["candidates"]]
    result = advise(place.setup(trial), candidates=candidates, training=training(trial))
    found = result.to_dict()
    kept = {key: found[key] for key in ("ranked", "frozen", "winner", "findings", "passes", "seconds")}
    return kept | {"model_spread": found["provenance"]["settings"]["model_spread"]}
