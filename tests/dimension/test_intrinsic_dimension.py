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
from tiny_problems import toy_task

from deltatheory.dimension import Criterion, DimensionSettings, intrinsic_dimension, measure, predict, trials
from deltatheory.dimension.predict import Prediction
from deltatheory.problems import Head, Setup, make_head
from deltatheory.results import ResultLog
from deltatheory.tasks import Examples, Task

QUICK = DimensionSettings(steps=12, batch_size=8)
FOLDS, BASELINE_RATES = 3, (3e-3, 1e-2)


def quicken(patch) -> None:
    """Eight folds cost most of what these tests would take; at these rates twelve steps teach something."""
    patch(predict, "FOLDS", FOLDS)
    patch(measure, "BASELINE_RATES", BASELINE_RATES)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch.setattr)


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


def setup(**changes) -> Setup:
    """One whose frozen model is at chance, and in which training helps."""
    task = toy_task(2, train=64, test=60)
    return Setup(**{"model": tiny("bert"), "task": task, "head": "random"} | changes)


def log_in(folder: Path) -> ResultLog:
    return ResultLog(folder / "trials.jsonl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search that has ended, and the log it left."""
    log = log_in(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        return intrinsic_dimension(setup(), settings=QUICK, log=log), log


def test_both_views_give_an_answer_with_interval_cost_and_provenance(finished, tmp_path):
    result, _ = finished
    assert result.save(tmp_path) == tmp_path / "report.html"
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
    assert result.measured.value > 1
    # The budget of six full runs holds, whatever the search met.
    assert result.full_runs <= 6.5


def test_what_is_written_has_the_names_it_always_had(finished):
    """Folders of older runs are read by name: `result.json` keeps its keys and their order."""
    result, _ = finished
    written = result.to_dict()
    assert " ".join(written) == (
        "d90 level baseline chance frozen D curve passes full_runs seconds diagnostics settings provenance"
    )
    assert " ".join(written["settings"]) == (
        "method criterion training projection head scope max_length train_examples test_examples runs "
        "precision burn_in seed device learning_rate"
    )
    assert written["D"] == result.size
    assert " ".join(written["curve"][0]) == "d method seed train_loss train_metric test_metric"
    only = replace(result, measured=None).to_dict()
    assert list(only["d90"]) == ["predicted"]


def test_runs_are_named_as_they_always_were(finished):
    """A folder of an older run goes on: what its hashes are made of is spelled out here."""
    backbone = tiny("bert")
    shared = {
        "model": backbone.provenance,
        "task": {"name": "toy", "limited": {"train": 64, "test": 60, "seed": 0}},
        "head": "random",
        "max_length": min(64, backbone.max_length),
    }
    training = {"steps": 12, "batch_size": 8, "learning_rate": 1e-4, "warmup": 0.1, "seed": 0}
    prediction = {
        "outputs": "logits",
        "examples": 64,
        "scope": "blocks",
        "criterion": {"fraction": 0.9, "baseline": None, "corrected": False},
        "burn_in": 0,
    }
    rows = [row["config"] for row in finished[1].rows()]
    assert rows[0] == {**shared, "prediction": prediction, "training": training}
    for i, rate in enumerate(BASELINE_RATES):
        full = {"delta": "full", "scope": "blocks"}
        assert rows[1 + i] == {**shared, **full, "training": training | {"learning_rate": rate, "seed": i}}
    for row in rows[3:]:
        subspace = {"delta": "subspace", "d": row["d"], "projection": "hashed", "scope": "blocks"}
        seed, rate = row["training"]["seed"], row["training"]["learning_rate"]
        expected = {**shared, **subspace, "seed": seed}
        assert row == {**expected, "training": training | {"learning_rate": rate, "seed": seed}}
    assert len(rows) == 1 + QUICK.runs


def test_same_seed_same_answer_and_the_backbone_is_untouched():
    backbone = tiny("bert")
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    first = intrinsic_dimension(setup(model=backbone), method="predict", settings=QUICK)
    again = intrinsic_dimension(setup(), method="predict", settings=QUICK)
    assert first.to_dict()["d90"] == again.to_dict()["d90"]
    for name, p in backbone.model.named_parameters():
        assert torch.equal(p, before[name])


def test_a_built_problem_is_a_setup_too(finished):
    """What it is bound to is taken, its delta is not."""
    again = intrinsic_dimension(setup().problem("lora:2", check=False), method="predict", settings=QUICK)
    assert again.predicted == finished[0].predicted


def test_another_seed_draws_other_subspaces_and_orders(finished):
    other = intrinsic_dimension(setup(seed=1), method="predict", settings=QUICK)
    assert [p.test_metric for p in other.curve] != [
        p.test_metric for p in finished[0].curve if p.method == "predict"
    ]
    assert {p.seed for p in other.curve} == {1, 2, 3}  # one a fold


def test_who_watches_sees_examples_runs_and_points():
    examples, titles, steps, points = [], [], [], []

    def on_run(title):
        titles.append(title)
        return lambda step, loss: steps.append(step)

    result = intrinsic_dimension(
        setup(),
        settings=QUICK,
        on_example=lambda *x: examples.append(x),
        on_run=on_run,
        on_point=points.append,
    )
    assert examples == [(i + 1, 64) for i in range(64)]
    assert points == [p for p in result.curve if p.method != "predict"]
    assert points[0].method == "frozen"
    assert titles[0].startswith("baseline d=")
    assert len(titles) == len(points) - 1
    assert len(steps) == len(titles) * QUICK.steps


def test_a_second_call_repeats_nothing(finished, monkeypatch):
    first, log = finished
    rows = log.rows()

    def refuse(*_args, **_kwargs):
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr(trials, "train", refuse)
    monkeypatch.setattr(predict, "tangent_rows", refuse)
    second = intrinsic_dimension(setup(), settings=QUICK, log=log)
    assert log.rows() == rows
    assert second.to_dict()["d90"] == first.to_dict()["d90"]
    assert second.to_dict()["curve"] == first.to_dict()["curve"]


def test_a_damaged_line_costs_that_line_only(finished, tmp_path):
    first, log = finished
    lines = log.path.read_text().splitlines()
    damaged = log_in(tmp_path)
    damaged.path.write_text("\n".join([*lines[:2], lines[2][: len(lines[2]) // 2], *lines[3:]]) + "\n")
    with pytest.warns(UserWarning, match="line 3"):
        second = intrinsic_dimension(setup(), settings=QUICK, log=damaged)
    assert second.to_dict()["d90"] == first.to_dict()["d90"]
    assert len(damaged.path.read_text().splitlines()) == len(lines) + 1


_KILLED = """
import sys; sys.path[:0] = {paths!r}
import torch; torch.set_num_threads(1)
from test_intrinsic_dimension import QUICK, intrinsic_dimension, log_in, quicken, setup
quicken(setattr)
from pathlib import Path
intrinsic_dimension(setup(), settings=QUICK, log=log_in(Path({out!r})))
"""


def test_a_kill_in_mid_search_loses_no_finished_run(finished, tmp_path):
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), str(here.parents[1])]
    script = _KILLED.format(paths=paths, out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    log = log_in(tmp_path)
    deadline = time.monotonic() + 120
    while len(log.rows()) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = log.rows()
    assert 3 <= len(kept) < len(finished[1].rows())
    torch.set_num_threads(1)
    resumed = intrinsic_dimension(setup(), settings=QUICK, log=log)
    assert log.rows()[: len(kept)] == kept
    assert [row["hash"] for row in log.rows()] == [row["hash"] for row in finished[1].rows()]
    assert resumed.to_dict()["d90"] == finished[0].to_dict()["d90"]


def setup_with(head_change) -> Setup:
    backbone, task = tiny("bert"), letters_task()
    head = make_head("random", backbone, task)
    return setup(
        model=backbone, task=task, head=Head("random", head_change(head.weight), head.bias, head.centre, 0)
    )


def predicted(given: Setup, steps: int = 12, burn_in: int = 0, **criterion) -> Prediction:
    settings = DimensionSettings(steps=steps, batch_size=8, burn_in=burn_in)
    return predict.predict(given, Criterion(**criterion), settings)


def missed(prediction: Prediction, *topics: str) -> bool:
    return any(sentence.startswith(topics) for sentence in prediction.diagnostics["missed"])


def test_prediction_refuses_a_head_that_says_nothing():
    refused = predicted(setup_with(lambda weight: 0 * weight))
    assert refused.d90.value is None
    assert "rank" in refused.d90.status
    assert "label-words" in refused.d90.status


@pytest.mark.parametrize(("error", "movement"), [(1.5, 0.1), (0.1, 1.5), (1.5, 1.5)])
def test_prediction_widens_its_interval_where_linearization_fails(monkeypatch, error, movement):
    given = setup_with(lambda w: w)

    def diagnosed(error: float, movement: float) -> Prediction:
        monkeypatch.setattr(predict, "_linearization_error", lambda *_: error)
        monkeypatch.setattr(predict, "_origin_norm", lambda _: at_one / movement)
        return predicted(given)

    monkeypatch.setattr(predict, "_origin_norm", lambda _: 1.0)
    at_one = predicted(given).diagnostics["movement"]
    sound, doubtful = diagnosed(0.1, 0.1), diagnosed(error, movement)
    factor = max(1, error / 0.5) * max(1, movement / 0.5)
    assert doubtful.diagnostics["model_spread"] == pytest.approx(factor * sound.diagnostics["model_spread"])
    assert doubtful.d90.high > sound.d90.high
    assert not missed(sound, "Linearization", "Movement")
    assert missed(doubtful, "Linearization") == (error > 0.5)
    assert missed(doubtful, "Movement") == (movement > 0.5)


def test_prediction_counts_its_passes():
    given = setup_with(lambda w: w)
    got = predicted(given)
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
    original = predict.tangent_rows
    monkeypatch.setattr(predict, "tangent_rows", lambda *a, **k: original(*a, **k, outputs=outputs))
    monkeypatch.setattr(predict, "_linearization_error", lambda *_: 0.0)  # is of logits
    found = predicted(Setup(tiny("bert"), task, head=head), steps=60)
    error = (1 / classes * (1 - 1 / classes) / examples) ** 0.5
    assert (found.baseline < 1 / classes + 3 * error) == honest


def test_classes_are_paid_for_with_examples(monkeypatch):
    """A row for each class but one: 30 rows are 10 examples of 4 classes, or as many as there are of 2."""
    monkeypatch.setattr(predict, "_KERNEL_ROWS", 30)
    for classes, examples in ((4, 10), (2, 24)):
        task = toy_task(classes, train=24, test=60)
        result = intrinsic_dimension(setup(task=task, head="random"), method="predict", settings=QUICK)
        assert result.diagnostics["examples"] == examples
        assert result.diagnostics["logit_differences"] == examples * (classes - 1)
        assert result.passes["predict"] >= examples * (1 + 2 * (classes - 1))


def test_a_lower_fraction_needs_no_more_dimensions():
    given = setup_with(lambda w: w)
    values = [predicted(given, steps=60, fraction=f).d90.value for f in (0.99, 0.9, 0.7)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_d90_is_where_a_monotone_fit_crosses_the_level():
    solved = np.repeat([[0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]], 5, axis=1)  # .5 and .25 pool to .375
    crossing, level, baseline = predict.level_crossing(solved, [1, 2, 4], Criterion(fraction=0.6), 0.5)
    assert (level, baseline) == (pytest.approx(0.6), 1.0)
    assert crossing == pytest.approx(np.log(2) * (1 + (0.6 - 0.375) / (1 - 0.375)))
    assert predict.level_crossing(solved, [1, 2, 4], Criterion(baseline=1.0, fraction=0.3), 0.5)[0] == 0


def test_burn_in_moves_the_kernel_not_the_start(monkeypatch):
    given, seen = setup_with(lambda w: w), []
    original = predict.cross_fit
    monkeypatch.setattr(predict, "cross_fit", lambda f, *rest: seen.append(f) or original(f, *rest))
    predicted(given)
    burnt = predicted(given, burn_in=2)
    at_origin, after = seen[0], seen[-1]
    for name in ("logits", "judging_offset"):
        moved, kept = getattr(after.start, name), getattr(at_origin.start, name)
        torch.testing.assert_close(moved, kept, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.rows, at_origin.rows, rtol=1e-3)
    assert burnt.passes >= 64 * 3 + 2 * 8 * 3 + 64
    with pytest.raises(ValueError, match=r"burn_in=9.*at most 8 steps"):
        predicted(given, burn_in=9)


def test_a_prediction_of_zero_says_what_it_does_not_know():
    got = predicted(setup_with(lambda w: w), fraction=0.3)
    assert got.d90.value == 0
    assert got.d90.high > 1
    assert missed(got, "Gain")


def test_a_given_level_that_linearized_training_does_not_reach_is_said():
    got = predicted(setup_with(lambda w: w), steps=1, baseline=1.0, fraction=1.0)
    assert got.d90.high is None
    assert got.d90.status.startswith("at least")
    assert missed(got, "Level")


def test_a_level_the_frozen_model_reaches_gives_zero(tmp_path):
    result = intrinsic_dimension(
        setup(), method="measure", criterion=Criterion(baseline=0.5, fraction=0.5), settings=QUICK
    )
    assert result.measured.value == 0
    assert "frozen" in result.measured.status


def test_a_level_out_of_reach_is_said_not_guessed():
    result = intrinsic_dimension(
        setup(), method="measure", criterion=Criterion(baseline=1.0, fraction=1.0), settings=QUICK
    )
    assert result.measured.value is None or "extrapolated" in result.measured.status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"projection": "hased"}, "hashed"),
        ({"scope": "block"}, r"scope='block'.*blocks"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": 0.0}, "precision=0.0: must be above 0"),
        ({"burn_in": -1}, "burn_in=-1: must be at least 0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DimensionSettings(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "label-word"}, "label-words"),
        ({"seed": -1}, "seed=-1"),
        ({"max_length": 0}, "max_length=0"),
        ({"task": letters_task(test=10)}, r"10 test examples.*at least 50"),
        ({"task": "stdlib-topic"}, "stdlib-topics"),
        ({"model": "minilmm"}, "minilm"),
    ],
)
def test_bad_setups_are_named(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        intrinsic_dimension(setup(**arguments), settings=QUICK)


def test_a_budget_too_small_is_refused_before_the_prediction(monkeypatch):
    monkeypatch.setattr(predict, "tangent_rows", None)
    with pytest.raises(ValueError, match=r"runs=2.0.*at least 5"):
        intrinsic_dimension(setup(), settings=replace(QUICK, runs=2.0))
    measure.check_budget(replace(QUICK, runs=3.0), Criterion(baseline=0.8))
