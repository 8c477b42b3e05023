"""The race of the study `smallest`, replayed from trainings that are there."""

import json
from pathlib import Path

import numpy as np
import pytest

from deltatheory.advice import posterior
from deltatheory.advice.posterior import TrainedScores
from experiments.scope import TaskInfo
from experiments.studies import smallest

PAGE = Path(__file__).parents[2] / "experiments" / "results" / "rates" / "smallest" / "result.json"


def row(scores, predicted, mean):
    keys = [("ia3", False), ("lora:8", False), ("full", False)]
    return {
        "task": TaskInfo("some/a", "c", "f"),
        "scores": dict(zip(keys, scores, strict=True)),
        "sizes": dict(zip(keys, (10, 100, 1000), strict=True)),
        "best": max(scores),
        "prior": TrainedScores(np.array(mean), 0.3 * np.eye(3) + 0.5),
        "candidates": keys,
        "predicted": predicted,
    }


def test_runs_that_show_the_smallest_to_suffice_lead_to_it():
    """By the prior the largest is ahead; all come to the same."""
    found = smallest._replayed(row([0.9] * 3, [0.9, 0.9, 0.1], [1.0, 1.2, 1.6]), None, 0)
    assert found["the race", 0] == found["by lot", 0]
    assert found["the race", 0][0] == ("full", False)
    assert found["the race", 4][0] == ("ia3", False)
    assert {k for _, k in found} == set(smallest.RUNS)


def test_losses_are_counted_against_the_best_within_the_budget_and_where_the_advice_is_followed():
    given = row([0.80, 0.90, 0.95], [0.78, 0.90, 0.95], [-9.0, 2.0, 9.0])
    free, tight = smallest._raced([given], None)[0], smallest._raced([given], 100)[0]
    assert (free["within"], free["size"]) == (1, 10)
    assert free["promised"] == pytest.approx(1, abs=0.01)  # the largest is far ahead by the prior
    assert smallest._raced([row([0.9] * 3, [0.9] * 3, [2.0, 2.0, 2.0])], None)[0]["promised"] < 0.9
    assert (tight["short"], tight["size"], tight["followed"]) == (0, 1, 0)
    assert smallest._smallest(given, 50) == ("ia3", False)
    assert smallest._raced([given], 5) == []  # nothing is within it
    unknown = {**given, "predicted": [0.7, None, 0.9]}
    assert smallest._raced([unknown], None) == []


def test_the_noise_of_a_run_is_what_the_calibration_half_says():
    numbers = json.loads(PAGE.read_text())["numbers"]["minilm"]
    assert numbers["run"] == pytest.approx(posterior._RUN, abs=0.005)
