"""Evaluate the frozen backbone."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.environment import Environment
from experiments.trial import Trial

SHORT = {"max_length": 12, "max_new_tokens": 3}  # of the examples of kinds
EXAMPLE = Trial("frozen", "", "", settings=SHORT)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return the scores of δ = 0; for classification also the share of the commonest class."""
    problem = place.problem(trial, "layernorm")
    task, splits = problem.task, {"test": problem.test, "dev": problem.dev}
    scores = {name: problem.evaluate(problem.delta.initial(), part) for name, part in splits.items()}
    found = {name: score[problem.metric] for name, score in scores.items()}
    if task.kind == "classification":
        majority = max(np.bincount(task.test.labels)) / len(task.test)
        found |= {"majority": float(majority), "classes": task.num_classes}
    return found | {"examples_sha256": task.provenance.get("examples_sha256")}
