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
    from deltatheory.dimension import Criterion, DimensionSettings, intrinsic_dimension

    given = trial.settings
    names = ("steps", "batch_size", "runs", "burn_in")
    result = intrinsic_dimension(
        place.setup(trial),
        method=method,
        criterion=Criterion(baseline=given.get("baseline")),
        settings=DimensionSettings(**{name: given[name] for name in names if name in given}),
    )
    folds: dict[int, list[float]] = {}
    for point in result.curve:
        if point.method == "predict" and point.test_metric is not None:
            folds.setdefault(point.d, []).append(float(f"{point.test_metric:.5g}"))
    kept = {key: value for key, value in result.to_dict().items() if key not in ("settings", "provenance")}
    kept["curve"] = [vars(point) for point in result.curve if point.method != "predict"]
    return kept | {"linearized": {"d": list(folds), "scores": list(folds.values())}}
