"""What the page of learning rates says of the first version of the prediction."""

from pathlib import Path

import pytest

from deltatheory.results import ResultLog
from deltatheory.training.learning_rate import _CAUTION
from experiments.scope import Scope, TaskInfo
from experiments.studies import learning_rate
from experiments.studies.methods import Method
from experiments.trial import Known

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
RATES = RESULTS / "rates"


def test_a_rate_is_that_of_the_nearest_on_the_grid():
    grid = learning_rate.GRID
    assert [grid[learning_rate.nearest(x, grid)] for x in (2e-4, 9.0, 1e-9)] == [3e-4, 0.3, 1e-5]


def test_a_sweep_of_the_language_model_ends_where_two_rates_in_a_row_have_collapsed():
    scores = iter((0.5, 0.8, 0.69, 0.75, 0.6, 0.5))
    task, method = TaskInfo("t", "c", "f", "classification"), Method("LoRA", "lora:8")
    rows, results = [], []
    while len(results) < 8:
        _, asked = learning_rate.sweep("smollm2", task, method, 0, Known(rows))
        assert len(asked) == len(rows) + 1
        rows.append({"hash": asked[-1].hash, "config": asked[-1].config, "result": {"test": next(scores)}})
        results, _ = learning_rate.sweep("smollm2", task, method, 0, Known(rows))
    assert [one["test"] for one in results] == [0.5, 0.8, 0.69, 0.75, 0.6, 0.5, 0.5, 0.5]
    assert next(scores, None) is None
    assert len(learning_rate.sweep("minilm", task, method, 0, Known(rows))[1]) == len(learning_rate.GRID)


def test_the_first_version_was_as_good_as_is_said():
    rows = [row for row in ResultLog(RATES / "trials.jsonl").rows() if row["config"]["kind"] == "train"]
    known = Known([*rows, *ResultLog(RATES / "first-predictions.jsonl").rows()])
    scope = Scope.read(RATES / "scope.json")
    sweeps = learning_rate._sweeps(scope, "minilm", known)
    rates = learning_rate._rates(scope, "minilm", sweeps, known)
    found = learning_rate._judged("predicted", sweeps, rates, lambda s: s.half == "held-out")
    assert found["pairs"] == 75
    assert found["within"] == pytest.approx(0.69, abs=0.005)
    assert (round(found["regret"], 3), found["collapsed"]) == (0.007, 0)
    assert "69 % of 75 held-out pairs (0.007 short, none collapsed;" in learning_rate.ABOUT


def test_a_deep_backbone_was_as_hard_to_predict_as_is_said():
    folder = RESULTS / "language-rates"
    scope, rows = Scope.read(folder / "scope.json"), list(ResultLog(folder / "trials.jsonl").rows())
    first = [row for row in rows if row["config"]["kind"] == "train"]
    first += ResultLog(folder / "first-predictions.jsonl").rows()

    def held_out(rows, half="held-out", **how):
        known = Known(rows)
        sweeps = learning_rate._sweeps(scope, "smollm2", known)
        rates = learning_rate._rates(scope, "smollm2", sweeps, known)
        return learning_rate._judged("predicted", sweeps, rates, lambda s: s.half == half, **how)

    now, three = held_out(rows), held_out(rows, factors=(1 / 3, 1.0, 3.0))
    assert (now["pairs"], 12 * now["within"], 12 * three["within"]) == (12, 4, 9)
    assert "the best on 4 of 12 held-out pairs" in _CAUTION
    assert "three times of it on 9:" in _CAUTION
    lost = held_out(first, "calibration")["regret"], held_out(first)["regret"]
    assert (
        "lost {:.3f} on its calibration task and {:.3f} on the held-out".format(*lost) in learning_rate.ABOUT
    )
