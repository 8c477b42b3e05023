"""The sharp reference of d90, and what the posterior says of it after some of its runs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltatheory.dimension import posterior
from deltatheory.dimension.posterior import AS_PREDICTED, CurveShape
from deltatheory.results import ResultLog
from experiments.runner import _missing
from experiments.scope import Scope, TaskInfo
from experiments.studies import reference, replay
from experiments.trial import Known

TASKS = tuple(TaskInfo(f"some/{i}", "c", "family 0") for i in range(6))
RULES = ("AS_PREDICTED", "of_the_loss")


def rising(d, lot=0.0):
    """A share of the gain, a half at d = 100."""
    return 1 / (1 + math.exp(-(math.log(d / 100) + lot)))


def test_a_replay_tells_each_run_once_and_comes_to_the_reference():
    rng = np.random.default_rng(0)
    d = reference.DIMENSIONS
    runs = [(x, rising(x, 0.3 * rng.standard_normal())) for x in d]
    shape = CurveShape.of_shares(d, [rising(x / 4) for x in d])  # foretold a factor of four too high
    curve = replay.MeasuredCurve("t", "held-out", shape, 0.02, runs, 0.75)
    found = replay.replayed(curve, AS_PREDICTED, (0, 2, 12, 16))
    first, some, last = found.found[0], found.found[1], found.found[-1]
    assert [one.runs for one in found.found] == [0, 2, 12, 16]
    assert first.said.middle > last.said.middle
    assert first.said.width > some.said.width > last.said.width
    assert abs(last.said.middle - math.log(300)) < 0.4
    assert (first.rest is None, last.rest is None) == (False, True)
    assert replay.summary([found], "calibration") == []
    (row,) = [row for row in replay.summary([found], "held-out") if row["runs"] == 2]
    assert row["tasks"] == row["unseen"] == 1


def test_predictions_run_after_all_trainings(tmp_path):
    """A prediction takes a processor longer than a training takes a GPU."""
    scope, log = Scope(("minilm",), TASKS, (0,)), ResultLog(tmp_path / "trials.jsonl")
    for trial in reference.trials(scope, Known([])):
        assert trial.kind == "subspace_runs"
        scores = {"calibrated_loss": trial.settings["learning_rate"]}
        log.append(trial.config, {"averaged": scores})
    kinds = [trial.kind for trial in _missing(reference, scope, log)]
    wanted = len(TASKS) * (len(reference.DIMENSIONS) - reference.DIMENSIONS.count(reference.MIDDLE))
    assert kinds == ["subspace_runs"] * wanted + ["linearized_runs"] * len(TASKS)


@pytest.fixture
def coarse(monkeypatch):
    """A coarser grid of the posterior: seven times as fast."""
    monkeypatch.setattr(posterior, "_POINTS", (61, 7, 5))


def scored(share):
    return {"accuracy": 0.5 + 0.5 * share, "loss": 1 + share, "calibrated_loss": 1 - share}


def known_of(scope, factor=1.0):
    """Rows by hand of tasks whose curves lie this factor below the predicted ones."""

    def result(trial):
        if trial.kind == "linearized_runs":
            losses = [[1 - rising(d / factor)] for d in reference.DIMENSIONS]
            rates = {"0.3": {"accuracy": losses, "calibrated_loss": losses}}
            return {"d": list(reference.DIMENSIONS), "frozen": scored(0.0), "rates": rates}
        share = 1.0 if trial.delta == "full" else rising(int(trial.delta.partition(":")[2]))
        return {"frozen": scored(0.0), "averaged": scored(share)}

    rows, known = [], Known([])
    while trials := [t for t in reference.trials(scope, known) if known.get(t) is None]:
        rows += [{"hash": t.hash, "result": result(t), "time": ""} for t in trials]
        known = Known(rows)
    return known


def test_a_whole_reference_is_judged_by_its_aims():
    scope = Scope(("minilm",), TASKS, (0,))
    known = known_of(scope)
    found = reference.findings(scope, known)
    assert found.verdict == "agrees"
    assert found.numbers["minilm"] == {"complete": 6}
    assert found.numbers["minilm, criterion"] == {"tasks": 6, "rose": 6, "fell": 6}
    for target in ("AS_PREDICTED", "d75", "d50"):
        assert found.numbers[f"minilm, held-out, {target}"]["after"][0]["near"] == 1
    fewer = replace(scope, tasks=TASKS[:5])
    assert reference.findings(fewer, known).verdict == "undecided"


@pytest.mark.usefixtures("coarse")
def test_the_calibration_half_moves_the_prediction_of_the_other():
    """Curves that all lie a factor of eight below the predicted ones."""
    of_half = [TaskInfo(f"other/{i}", "c", "family 1") for i in range(6)]
    assert {one.half for one in of_half} == {"calibration"}
    scope = Scope(("minilm",), (*TASKS, *of_half), (0,))
    found = reference.findings(scope, known_of(scope, factor=8.0))
    assert found.numbers["minilm"]["taken"] == "of_the_loss"
    mean, deviation = found.numbers["minilm"]["prior"]["shift"]
    assert abs(mean + math.log(8)) < 0.3
    assert deviation < 0.3
    near = {name: found.numbers[f"minilm, held-out, {name}"]["after"][0]["near"] for name in RULES}
    assert near == {"AS_PREDICTED": 0, "of_the_loss": 1}
    assert found.verdict == "agrees"


@pytest.mark.usefixtures("coarse")
def test_a_calibration_half_that_is_as_predicted_changes_nothing():
    of_half = tuple(TaskInfo(f"other/{i}", "c", "family 1") for i in range(6))
    scope = Scope(("minilm",), (*TASKS, *of_half), (0,))
    found = reference.findings(scope, known_of(scope))
    assert found.numbers["minilm"]["taken"] == "AS_PREDICTED"


def test_a_small_linearized_gain_misleads_as_far_as_is_said(monkeypatch):
    folder = Path(__file__).parents[2] / "experiments" / "results" / "reference"
    scope, known = Scope.read(folder / "scope.json"), Known(ResultLog(folder / "trials.jsonl").rows())
    (task,) = [one for one in scope.tasks if one.name == "more_tasks/ud_pos"]
    assert reference.curve(scope, "minilm", task, known).shape is None
    monkeypatch.setattr(reference, "LEAST_PART", 0.0)
    curve = reference.curve(scope, "minilm", task, known)
    shift = reference._shift(curve, curve.shape, AS_PREDICTED.lot, reference.NOISE)
    assert math.exp(shift) == pytest.approx(140, rel=0.05)
    assert "d75 140 times the predicted one" in reference.__doc__
