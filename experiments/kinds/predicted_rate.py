"""Predict the learning rate of a delta before it is trained."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.kinds.train import BUDGET, training
from experiments.trial import Trial

EXAMPLE = Trial("predicted_rate", "", "", "lora:2", settings=BUDGET)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return the rate, its interval, what it rests on, and what it cost."""
    from deltatheory.training import predict_learning_rate

    found = predict_learning_rate(place.problem(trial), training=training(trial))
    kept = ("rate", "low", "high", "wanted", "status", "passes", "seconds")
    return {**{key: getattr(found, key) for key in kept}, "moved": [list(pair) for pair in found.moved]}
