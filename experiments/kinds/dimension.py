"""Predict d90 and measure it."""

from __future__ import annotations

from typing import Any, Literal

from experiments.environment import Environment
from experiments.kinds.train import BUDGET
from experiments.trial import Trial

EXAMPLE = Trial("dimension", "", "", settings={**BUDGET, "runs": 5.0})


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Predict d90, and begin the search there."""
    return search(trial, place, "both")


def search(trial: Trial, place: Environment, method: Literal["both", "predict", "measure"]) -> dict[str, Any]:
    """Return what `intrinsic_dimension` finds, with the curve of each fold instead of its points.

    Without a `baseline` among the trial's settings full fine-tuning within the search sets the level.
    """
    from deltatheory.dimension import Criterion, intrinsic_dimension

    settings = trial.settings
    result = intrinsic_dimension(
        place.backbone(trial.model),
        place.task(trial),
        method=method,
        criterion=Criterion(baseline=settings.get("baseline")),
        head=settings.get("head", "label-words"),
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        train_examples=None,
        max_length=settings["max_length"],
        runs=settings["runs"],
        burn_in=settings.get("burn_in", 0),
        seed=trial.seed,
        device=place.device,
    )
    folds: dict[int, list[float]] = {}
    for point in result.curve:
        if point.method == "predict" and point.test_metric is not None:
            folds.setdefault(point.d, []).append(float(f"{point.test_metric:.5g}"))
    kept = {key: value for key, value in result.to_dict().items() if key not in ("settings", "provenance")}
    kept["curve"] = [vars(point) for point in result.curve if point.method != "predict"]
    return kept | {"linearized": {"d": list(folds), "scores": list(folds.values())}}
