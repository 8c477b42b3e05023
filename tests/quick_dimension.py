"""A search for d90 of a tiny random encoder that takes seconds: for tests, and for processes they kill."""

from __future__ import annotations

from pathlib import Path

from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.dimension import DimensionSettings, measure, predict
from deltatheory.dimension.posterior import log_grid
from deltatheory.problems import Setup
from deltatheory.results import ResultLog

QUICK = DimensionSettings(steps=12, batch_size=8)
FOLDS, BASELINE_RATES = 3, (3e-3, 1e-2)


def quicken(patch) -> None:
    """Fewer folds, and dimensions a factor of 8 apart; at these rates twelve steps teach something."""
    patch(predict, "FOLDS", FOLDS)
    patch(predict, "log_grid", lambda low, high, ratio: log_grid(low, high, ratio**3))
    patch(predict, "_BOOTSTRAP", 200)
    patch(measure, "BASELINE_RATES", BASELINE_RATES)


def quick_setup(**changes) -> Setup:
    """Return one whose frozen model is at chance, and in which training helps."""
    task = toy_task(2, train=64, test=60)
    return Setup(**{"model": tiny("bert"), "task": task, "head": "random"} | changes)


def log_in(folder: Path) -> ResultLog:
    return ResultLog(folder / "trials.jsonl")
