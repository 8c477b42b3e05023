"""The study that asks whether `dimension` could spare a run by predicted rates."""

import pytest

from experiments.scope import Scope, TaskInfo
from experiments.studies import dimension_rates, reference
from experiments.trial import Known

TASKS = tuple(TaskInfo(f"some/{i}", "c", "family 1") for i in range(6))
SCOPE = Scope(("minilm",), TASKS)


def rows_of(subspace_rate, full_rate=1.9e-4):
    """The higher rate is better by a tenth of the fall, for fine-tuning and for the subspace."""
    rows = []

    def add(trial, result):
        rows.append({"hash": trial.hash, "result": result, "time": ""})

    for task in TASKS:
        losses = {"0.3": [[0.9], [0.7]], "1.0": [[0.9], [0.8]]}  # the linearized network has it wrong
        rates = {rate: {"calibrated_loss": some} for rate, some in losses.items()}
        add(reference.prediction(SCOPE, "minilm", task), {"d": [1, 370], "rates": rates})
        for delta, rates in dimension_rates.PAIRS.items():
            said = full_rate if delta == "full" else subspace_rate
            add(dimension_rates.prediction(SCOPE, "minilm", task, delta), {"rate": said})
            for trial, loss in zip(
                dimension_rates._trained(SCOPE, "minilm", task, delta), (0.6, 0.5), strict=True
            ):
                assert trial.settings["learning_rate"] in rates
                scores = {"calibrated_loss": loss}
                add(trial, {"averaged": scores, "frozen": {"calibrated_loss": 1.5}})
    return rows


@pytest.mark.parametrize(("rate", "lost", "verdict"), [(0.9, 0.0, "agrees"), (0.2, 0.1, "disagrees")])
def test_the_rate_of_the_pair_nearest_to_the_predicted_one_is_judged(rate, lost, verdict):
    found = dimension_rates.findings(SCOPE, Known(rows_of(rate)))
    judged = found.numbers[f"minilm, subspace:{reference.MIDDLE}, calibration"]
    assert judged["nearest to the predicted"]["lost"] == pytest.approx(lost)
    assert judged["the lower"] == pytest.approx({"within": 0.0, "lost": 0.1})
    assert judged["the higher"] == {"within": 1.0, "lost": 0.0}
    assert judged[dimension_rates.LINEARIZED] == judged["the lower"]
    assert dimension_rates.LINEARIZED not in found.numbers["minilm, full, calibration"]
    assert found.verdict == verdict


def test_a_task_without_its_linearized_runs_is_left_out():
    """They are the last that `reference` runs."""
    rows = [row for row in rows_of(0.9) if "rates" not in row["result"]]
    assert dimension_rates.findings(SCOPE, Known(rows)).verdict == "undecided"
