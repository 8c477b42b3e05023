"""The whole job on a tiny random encoder: prediction, search, resume, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem, toy_task

import deltatheory.dimension as dimension_module
from deltatheory.deltas import make_delta
from deltatheory.dimension import Criterion, intrinsic_dimension, predict_dimension
from deltatheory.dimension.predict import Prediction, predict
from deltatheory.problems import ClassificationProblem
from deltatheory.problems.heads import Head, make_head
from deltatheory.results import ResultLog
from deltatheory.tasks import Examples, Task
from deltatheory.training.trainer import Training

predict_module = sys.modules["deltatheory.dimension.predict"]  # the package has a function of that name
QUICK = {"steps": 12, "batch_size": 8, "head": "prototypes"}
FOLDS = 3


@pytest.fixture(autouse=True)
def few_folds(monkeypatch):
    """Eight folds cost most of what these tests would take."""
    monkeypatch.setattr(predict_module, "FOLDS", FOLDS)


def letters_task(train: int = 64, test: int = 60) -> Task:
    """Texts over two halves of the alphabet; which half is more frequent is the label."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Examples:
        labels = [i % 2 for i in range(count)]
        texts = []
        for label in labels:
            own, other = ("abcdefgh", "ijklmnop")[:: 1 - 2 * label]
            words = [*rng.choice(list(own), 5), *rng.choice(list(other), 3)]
            texts.append(" ".join(rng.permutation(words)))
        return Examples(tuple(texts), labels=tuple(labels))

    return Task("letters", "classification", ("first", "second"), split(train), split(20), split(test), {})


def test_both_views_give_an_answer_with_interval_cost_and_provenance(tmp_path):
    result = intrinsic_dimension(tiny("bert"), letters_task(), out=tmp_path, **QUICK)
    written = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "report.html").read_text().lower().startswith("<!doctype html")
    assert set(written["d90"]) == {"predicted", "measured"}
    for interval in written["d90"].values():
        assert set(interval) == {"value", "low", "high", "status"}
        if interval["value"] and interval["high"]:
            assert interval["low"] <= interval["value"] <= interval["high"]
    assert written["passes"]["predict"] == result.passes["predict"] > 0
    assert {p["method"] for p in written["curve"]} >= {"predict", "frozen", "baseline"}
    assert {"model", "task", "versions", "seed", "commit", "command"} <= set(written["provenance"])
    # The budget of six full runs holds, whatever the search met.
    assert result.full_runs <= 6.5


def test_same_seed_same_answer_and_the_backbone_is_untouched():
    backbone = tiny("bert")
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    first = predict_dimension(backbone, letters_task(), **QUICK)
    again = predict_dimension(tiny("bert"), letters_task(), **QUICK)
    assert first.to_dict()["d90"] == again.to_dict()["d90"]
    for name, p in backbone.model.named_parameters():
        assert torch.equal(p, before[name])


def test_a_second_call_repeats_nothing(tmp_path, monkeypatch):
    first = intrinsic_dimension(tiny("bert"), letters_task(), out=tmp_path, **QUICK)
    rows = ResultLog(tmp_path / "trials.jsonl").rows()

    def refuse(*_args, **_kwargs):
        raise AssertionError("a finished run was run again")

    # The package's names `measure` and `predict` are the functions, not the modules they come from.
    monkeypatch.setattr(sys.modules["deltatheory.dimension.measure"], "train", refuse)
    monkeypatch.setattr(dimension_module, "predict", refuse)
    second = intrinsic_dimension(tiny("bert"), letters_task(), out=tmp_path, **QUICK)
    assert ResultLog(tmp_path / "trials.jsonl").rows() == rows
    assert second.to_dict()["d90"] == first.to_dict()["d90"]
    assert second.to_dict()["curve"] == first.to_dict()["curve"]


def test_a_damaged_line_costs_that_line_only(tmp_path):
    first = intrinsic_dimension(tiny("bert"), letters_task(), out=tmp_path, **QUICK)
    path = tmp_path / "trials.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][: len(lines[2]) // 2], *lines[3:]]) + "\n")
    with pytest.warns(UserWarning, match="line 3"):
        second = intrinsic_dimension(tiny("bert"), letters_task(), out=tmp_path, **QUICK)
    assert second.to_dict()["d90"] == first.to_dict()["d90"]


_KILLED = """
import sys; sys.path[:0] = {paths!r}
import torch; torch.set_num_threads(1)
from test_intrinsic_dimension import FOLDS, QUICK, letters_task, predict_module
from tiny_models import tiny
from deltatheory.dimension import intrinsic_dimension
predict_module.FOLDS = FOLDS
intrinsic_dimension(tiny("bert"), letters_task(), out={out!r}, **QUICK)
"""


def test_a_kill_in_mid_search_loses_no_finished_run(tmp_path):
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), str(here.parents[1])]
    script = _KILLED.format(paths=paths, out=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    log = ResultLog(tmp_path / "killed" / "trials.jsonl")
    deadline = time.monotonic() + 120
    while len(log.rows()) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = log.rows()
    assert len(kept) >= 3
    torch.set_num_threads(1)
    resumed = intrinsic_dimension(tiny("bert"), letters_task(), out=tmp_path / "killed", **QUICK)
    whole = intrinsic_dimension(tiny("bert"), letters_task(), out=tmp_path / "whole", **QUICK)
    assert log.rows()[: len(kept)] == kept
    assert resumed.to_dict()["d90"] == whole.to_dict()["d90"]


def problem_with(head_change) -> ClassificationProblem:
    backbone, task = tiny("bert"), letters_task()
    head = make_head("random", backbone, task)
    changed = Head("random", head_change(head.weight), head.bias, head.centre, 0)
    return ClassificationProblem(backbone, task, make_delta("full", backbone), changed, check=False)


def predicted(
    problem: ClassificationProblem, steps: int = 12, burn_in: int = 0, examples: int = 64, **measure
) -> Prediction:
    def subspace(d: int, seed: int):
        return make_delta("subspace", problem.backbone, d=d, seed=seed)

    training = Training(steps=steps, batch_size=8)
    criterion = Criterion(**measure)
    return predict(problem, subspace, criterion, training, examples=examples, chance=0.5, burn_in=burn_in)


def missed(prediction: Prediction, *topics: str) -> bool:
    return any(sentence.startswith(topics) for sentence in prediction.diagnostics["missed"])


def test_prediction_refuses_a_head_that_says_nothing():
    refused = predicted(problem_with(lambda weight: 0 * weight))
    assert refused.d90.value is None
    assert "rank" in refused.d90.status
    assert "label-words" in refused.d90.status


@pytest.mark.parametrize(("error", "movement"), [(1.5, 0.1), (0.1, 1.5), (1.5, 1.5)])
def test_prediction_widens_its_interval_where_linearization_fails(monkeypatch, error, movement):
    problem = problem_with(lambda w: w)

    def diagnosed(error: float, movement: float) -> Prediction:
        monkeypatch.setattr(predict_module, "_linearization_error", lambda *_: error)
        monkeypatch.setattr(predict_module, "_origin_norm", lambda _: at_one / movement)
        return predicted(problem)

    monkeypatch.setattr(predict_module, "_origin_norm", lambda _: 1.0)
    at_one = predicted(problem).diagnostics["movement"]
    sound, doubtful = diagnosed(0.1, 0.1), diagnosed(error, movement)
    factor = max(1, error / 0.5) * max(1, movement / 0.5)
    assert doubtful.diagnostics["model_spread"] == pytest.approx(factor * sound.diagnostics["model_spread"])
    assert doubtful.d90.high > sound.d90.high
    assert not missed(sound, "Linearization", "Movement")
    assert missed(doubtful, "Linearization") == (error > 0.5)
    assert missed(doubtful, "Movement") == (movement > 0.5)


def test_prediction_counts_its_passes():
    problem = problem_with(lambda w: w)
    got = predicted(problem)
    # One forward, one backward with weight gradients an example; one fold through the network at the end.
    assert got.passes in (64 * 3, 64 * 3 + 22)
    assert Prediction.from_dict(json.loads(json.dumps(got.to_dict()))) == got


@pytest.mark.parametrize(
    ("outputs", "head", "honest"),
    [("logits", "random", True), ("logits", "probe", True), ("margin", "random", False)],
)
def test_labels_by_lot_are_foretold_at_chance(monkeypatch, outputs, head, honest):
    """Texts say nothing of eight classes: the rows of held-out margins know them, those of logits do not."""
    examples, classes = 96, 8
    task = toy_task(classes, train=examples)
    lot = np.random.default_rng(1).permutation(task.train.labels)
    task = replace(task, train=Examples(task.train.texts, labels=tuple(lot.tolist())))
    original = predict_module.tangent_rows
    monkeypatch.setattr(predict_module, "tangent_rows", lambda *a, **k: original(*a, **k, outputs=outputs))
    monkeypatch.setattr(predict_module, "_linearization_error", lambda *_: 0.0)  # is of logits
    problem = toy_problem("full", task=task, head=head)
    found = predicted(problem, steps=60, examples=examples)
    error = (1 / classes * (1 - 1 / classes) / examples) ** 0.5
    assert (found.baseline < 1 / classes + 3 * error) == honest


def test_classes_are_paid_for_with_examples(monkeypatch):
    """A row for each class but one: 30 rows are 10 examples of 4 classes, or as many as there are of 2."""
    monkeypatch.setattr(dimension_module, "_KERNEL_ROWS", 30)
    for classes, examples in ((4, 10), (2, 24)):
        task = toy_task(classes, train=24, test=60)
        result = predict_dimension(tiny("bert"), task, **QUICK | {"head": "random"})
        assert result.diagnostics["examples"] == examples
        assert result.diagnostics["logit_differences"] == examples * (classes - 1)
        assert result.passes["predict"] >= examples * (1 + 2 * (classes - 1))


def test_a_lower_fraction_needs_no_more_dimensions():
    problem = problem_with(lambda w: w)
    values = [predicted(problem, steps=60, fraction=f).d90.value for f in (0.99, 0.9, 0.7)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_d90_is_where_a_monotone_fit_crosses_the_level():
    solved = np.repeat([[0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]], 5, axis=1)  # .5 and .25 pool to .375
    crossing, level, baseline = predict_module.level_crossing(solved, [1, 2, 4], Criterion(fraction=0.6), 0.5)
    assert (level, baseline) == (pytest.approx(0.6), 1.0)
    assert crossing == pytest.approx(np.log(2) * (1 + (0.6 - 0.375) / (1 - 0.375)))
    assert (
        predict_module.level_crossing(solved, [1, 2, 4], Criterion(baseline=1.0, fraction=0.3), 0.5)[0] == 0
    )


def test_burn_in_moves_the_kernel_not_the_start(monkeypatch):
    problem, seen = problem_with(lambda w: w), []
    original = predict_module._cross_fit
    monkeypatch.setattr(predict_module, "_cross_fit", lambda f, *rest: seen.append(f) or original(f, *rest))
    predicted(problem)
    burnt = predicted(problem, burn_in=2)
    at_origin, after = seen[0], seen[-1]
    for name in ("logits", "judging_offset"):
        moved, kept = getattr(after.start, name), getattr(at_origin.start, name)
        torch.testing.assert_close(moved, kept, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.rows, at_origin.rows, rtol=1e-3)
    assert burnt.passes >= 64 * 3 + 2 * 8 * 3 + 64
    with pytest.raises(ValueError, match=r"burn_in=9.*at most 8 steps"):
        predicted(problem, burn_in=9)


def test_a_prediction_of_zero_says_what_it_does_not_know():
    got = predicted(problem_with(lambda w: w), fraction=0.3)
    assert got.d90.value == 0
    assert got.d90.high > 1
    assert missed(got, "Gain")


def test_a_given_level_that_linearized_training_does_not_reach_is_said():
    got = predicted(problem_with(lambda w: w), steps=1, baseline=1.0, fraction=1.0)
    assert got.d90.high is None
    assert got.d90.status.startswith("at least")
    assert missed(got, "Level")


def test_a_level_the_frozen_model_reaches_gives_zero(tmp_path):
    result = intrinsic_dimension(
        tiny("bert"),
        letters_task(),
        method="measure",
        criterion=Criterion(baseline=0.5, fraction=0.5),
        **QUICK,
    )
    assert result.measured.value == 0
    assert "frozen" in result.measured.status


def test_a_level_out_of_reach_is_said_not_guessed():
    result = intrinsic_dimension(
        tiny("bert"),
        letters_task(),
        method="measure",
        criterion=Criterion(baseline=1.0, fraction=1.0),
        **QUICK,
    )
    assert result.measured.value is None or "extrapolated" in result.measured.status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"projection": "hased"}, "hashed"),
        ({"head": "label-word"}, "label-words"),
        ({"scope": "block"}, r"scope='block'.*blocks"),
        ({"runs": 2.0}, r"runs=2.0.*at least 5"),
        ({"steps": 0}, "steps=0"),
        ({"seed": -1}, "seed=-1"),
        ({"max_length": 0}, "max_length=0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        intrinsic_dimension(tiny("bert"), letters_task(), **QUICK | {"method": "measure"} | arguments)


def test_a_test_split_too_small_for_an_interval_is_refused():
    with pytest.raises(ValueError, match=r"10 test examples.*at least 50"):
        intrinsic_dimension(tiny("bert"), letters_task(test=10), **QUICK)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises((ValueError, FileNotFoundError), match="stdlib-topics"):
        intrinsic_dimension(tiny("bert"), "stdlib-topic")
    with pytest.raises(ValueError, match="minilm"):
        intrinsic_dimension("minilmm", letters_task())
