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
from types import SimpleNamespace

import pytest
import torch
from quick_dimension import BASELINE_RATES, QUICK, log_in, quick_setup, quicken
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.dimension import Criterion, intrinsic, intrinsic_dimension, measure, predict, trials
from deltatheory.problems import Setup


class Watching:
    """What a search calls while it runs."""

    def __init__(self):
        self.examples, self.titles, self.steps, self.points = [], [], [], []

    def calls(self):
        def on_run(title):
            self.titles.append(title)
            return lambda step, loss: self.steps.append(step)

        on_example = lambda *x: self.examples.append(x)  # noqa: E731
        return {"on_example": on_example, "on_run": on_run, "on_point": self.points.append}


def test_fine_tuning_that_gains_nothing_where_chance_is_above_is_said_not_divided_by(monkeypatch):
    """Counted from chance the level then lies above the frozen model, and the gain is 0, or less."""
    for frozen in (0.4, 0.405):
        monkeypatch.setattr(trials.Trials, "frozen", lambda *_, frozen=frozen: frozen)
        criterion = Criterion(baseline=0.4, corrected=True)
        found = intrinsic_dimension(quick_setup(), method="measure", criterion=criterion, settings=QUICK)
        d90 = found.measured
        assert (d90.value, d90.high) == (None, None)
        assert d90.status.startswith("no gain: full fine-tuning is no better")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A search that has ended, the log it left, and what it called."""
    log, watching = log_in(tmp_path_factory.mktemp("finished")), Watching()
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        return intrinsic_dimension(quick_setup(), settings=QUICK, log=log, **watching.calls()), log, watching


@pytest.fixture(scope="module")
def finished(watched):
    return watched[:2]


def test_a_suffix_counts_in_the_name_of_a_trial_and_names_without_one_stay():
    setup = Setup(tiny("gpt2"), toy_task(), head="verbalizer")
    plain, suffixed = (trials.identity(setup.replace(suffix=suffix)) for suffix in ("", " p"))
    assert plain.keys() == {"model", "task", "head", "max_length"}
    assert suffixed == {**plain, "suffix": setup.backbone.tokenizer("p")["input_ids"]}


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
    # The budget of six full runs holds, whatever the search met; beside it four looks at a learning rate.
    assert result.full_runs <= 6.7


def test_what_is_written_has_the_names_it_always_had(finished):
    """Folders of older runs are read by name: `result.json` keeps its keys and their order."""
    result, _ = finished
    written = result.to_dict()
    assert " ".join(written) == (
        "d90 level baseline chance frozen D curve passes full_runs seconds diagnostics settings provenance "
        "fractions"
    )
    assert " ".join(written["settings"]) == (
        "method criterion training projection head scope max_length train_examples test_examples runs "
        "precision burn_in seed device learning_rate"
    )
    assert written["D"] == result.size
    assert " ".join(written["curve"][0]) == "d method seed train_loss train_metric test_metric test_loss"
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
    first = rows[3].pop("predicted_rate")
    assert rows.pop(3) == {**shared, "training": training}
    assert first == {"delta": "subspace", "d": 185, "projection": "hashed", "scope": "blocks", "seed": 0}
    for row in rows[3:]:
        subspace = {"delta": "subspace", "d": row["d"], "projection": "hashed", "scope": "blocks"}
        seed, rate = row["training"]["seed"], row["training"]["learning_rate"]
        expected = {**shared, **subspace, "seed": seed}
        assert row == {**expected, "training": training | {"learning_rate": rate, "seed": seed}}
    assert len(rows) == 1 + QUICK.runs


def test_same_seed_same_answer_and_the_backbone_is_untouched(finished):
    backbone = tiny("bert")
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    again = intrinsic_dimension(quick_setup(model=backbone), method="predict", settings=QUICK)
    assert again.predicted == finished[0].predicted
    for name, p in backbone.model.named_parameters():
        assert torch.equal(p, before[name])


def test_a_built_problem_is_a_setup_too(finished):
    """What it is bound to is taken, its delta is not."""
    again = intrinsic_dimension(
        quick_setup().problem("lora:2", check=False), method="predict", settings=QUICK
    )
    assert again.predicted == finished[0].predicted


def test_another_seed_draws_other_subspaces_and_orders(finished):
    other = intrinsic_dimension(quick_setup(seed=1), method="predict", settings=QUICK)
    assert [p.test_metric for p in other.curve] != [
        p.test_metric for p in finished[0].curve if p.method == "predict"
    ]
    assert {p.seed for p in other.curve} == {1, 2, 3}  # one a fold


def test_who_watches_sees_examples_runs_and_points(watched):
    result, _, seen = watched
    assert seen.examples == [(i + 1, 64) for i in range(64)]
    assert seen.points == [p for p in result.curve if p.method != "predict"]
    assert seen.points[0].method == "frozen"
    assert seen.titles[0].startswith("baseline d=")
    runs = [title for title in seen.titles if title != "learning rate d=185"]
    assert len(runs) == len(seen.titles) - 1 == len(seen.points) - 1
    assert len(seen.steps) == len(runs) * QUICK.steps


def test_a_second_call_repeats_nothing(finished, monkeypatch):
    first, log = finished
    rows = log.rows()

    def refuse(*_args, **_kwargs):
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr(trials, "train", refuse)
    monkeypatch.setattr(predict, "tangent_rows", refuse)
    second = intrinsic_dimension(quick_setup(), settings=QUICK, log=log)
    assert log.rows() == rows
    assert second.to_dict()["d90"] == first.to_dict()["d90"]
    assert second.to_dict()["curve"] == first.to_dict()["curve"]


def test_a_damaged_line_costs_that_line_only(finished, tmp_path):
    first, log = finished
    lines = log.path.read_text().splitlines()
    damaged = log_in(tmp_path)
    damaged.path.write_text("\n".join([*lines[:2], lines[2][: len(lines[2]) // 2], *lines[3:]]) + "\n")
    with pytest.warns(UserWarning, match="line 3"):
        second = intrinsic_dimension(quick_setup(), settings=QUICK, log=damaged)
    assert second.to_dict()["d90"] == first.to_dict()["d90"]
    assert len(damaged.path.read_text().splitlines()) == len(lines) + 1


def test_a_folder_of_another_version_goes_on(finished, tmp_path):
    """Rows with a key more are reused, and one that lacks what is needed is run again."""
    first, log = finished
    rows = log.rows()
    other = log_in(tmp_path)
    for row in rows:
        other.append(row["config"], {**row["result"], "new": {"x": 1}})
    lines = other.path.read_text().splitlines()
    odd = json.loads(lines[2])
    odd["result"]["passes"] = "many"
    other.path.write_text("\n".join([*lines[:2], json.dumps(odd), *lines[3:]]) + "\n")
    with pytest.warns(UserWarning, match=r"passed over, result\['passes'\] is 'many'"):
        second = intrinsic_dimension(quick_setup(), settings=QUICK, log=other)
    assert second.to_dict()["d90"] == first.to_dict()["d90"]
    assert [row["hash"] for row in other.rows()[len(rows) :]] == [odd["hash"]]


_KILLED = """
import sys; sys.path[:0] = {paths!r}
from pathlib import Path
from types import SimpleNamespace
import torch; torch.set_num_threads(1)
from quick_dimension import QUICK, log_in, quick_setup, quicken
from deltatheory.dimension import intrinsic_dimension
quicken(setattr)
intrinsic_dimension(quick_setup(), settings=QUICK, log=log_in(Path({out!r})))
"""


def test_a_kill_in_mid_search_loses_no_finished_run(finished, tmp_path):
    tests = Path(__file__).resolve().parents[1]
    paths = [str(tests), str(tests.parent)]
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
    resumed = intrinsic_dimension(quick_setup(), settings=QUICK, log=log)
    assert log.rows()[: len(kept)] == kept
    assert [row["hash"] for row in log.rows()] == [row["hash"] for row in finished[1].rows()]
    for found, whole in zip(
        (resumed.predicted, resumed.measured), (finished[0].predicted, finished[0].measured), strict=True
    ):  # the whole run has as many threads as the tests have
        assert found.status == whole.status
        for part in ("value", "low", "high"):
            before, after = getattr(whole, part), getattr(found, part)
            assert after == before or after == pytest.approx(before, rel=1e-5), part


def test_a_level_the_frozen_model_reaches_gives_zero(tmp_path):
    result = intrinsic_dimension(
        quick_setup(), method="measure", criterion=Criterion(baseline=0.5, fraction=0.5), settings=QUICK
    )
    assert result.measured.value == 0
    assert "frozen" in result.measured.status


def test_a_level_out_of_reach_is_said_not_guessed():
    result = intrinsic_dimension(
        quick_setup(), method="measure", criterion=Criterion(baseline=1.0, fraction=1.0), settings=QUICK
    )
    assert result.measured.value is None or "extrapolated" in result.measured.status


def test_without_runs_there_is_the_prediction_alone(monkeypatch, finished):
    monkeypatch.setattr(trials, "train", None)
    result = intrinsic_dimension(quick_setup(), settings=replace(QUICK, runs=0))
    assert result.measured is None
    assert result.predicted == finished[0].predicted
    with pytest.raises(ValueError, match=r"runs=0.*at least 3"):
        intrinsic_dimension(quick_setup(), method="measure", settings=replace(QUICK, runs=0))


def test_the_measurement_is_the_prediction_and_its_runs(finished):
    """One posterior: of the rows that the search has written it can be made again."""
    result, log = finished
    predicted = log.result(log.rows()[0]["config"], predict.Prediction)
    level, baseline, frozen = result.level["measured"], result.baseline["measured"], result.frozen
    noise = measure._PAIRED * (max(level * (1 - level), 0.01) / 60) ** 0.5 / (baseline - frozen)
    posterior = predicted.posterior(noise)
    runs = [p for p in result.curve if p.method == "measure"]
    first = [p for p in runs if p.seed == 0]  # at one rate, or more
    for point in (max(first, key=lambda p: p.test_metric), *runs[len(first) :]):
        posterior.tell(point.d, (point.test_metric - frozen) / (baseline - frozen))
    share = (level - frozen) / (baseline - frozen)
    again = posterior.estimate(share, result.size, noise * share)
    assert (again.low, again.value, again.high) == (
        result.measured.low,
        result.measured.value,
        result.measured.high,
    )
    assert result.fractions["measured"]["d90"].value == result.measured.value
    assert [p.test_loss is not None for p in result.curve] == [True] * len(result.curve)


@pytest.mark.parametrize(
    ("predicted", "sure", "runs", "tried"),
    [
        (0.5, True, 2.0, [0.3]),
        (0.6, True, 2.0, [1.0]),
        (9.0, True, 2.0, [9.0]),
        (0.5, False, 2.0, [0.3, 1.0]),
        (9.0, False, 3.0, [1.0, 0.3]),
        (0.5, False, 1.0, [0.3]),
    ],
)
def test_the_first_subspace_is_trained_at_a_predicted_rate(monkeypatch, predicted, sure, runs, tried):
    """At the nearest that is known to work; itself, far from them; at both, in the budget, if unsure."""
    said = trials.PredictedRate(predicted, predicted / 3, predicted * 3, sure, 7.0, 0.0)
    result, first = searched(monkeypatch, said, runs, lambda _: 0.7)
    assert first == pytest.approx(tried)
    assert result.settings["learning_rate"]["measure"] in tried


@pytest.mark.parametrize("collapsed", [0.4, 0.45])
def test_where_the_predicted_rate_gains_nothing_the_other_is_tried(monkeypatch, collapsed):
    """A run that gives all one class, which is half of them, would be told as of too small a dimension."""
    said = trials.PredictedRate(0.9, 0.3, 2.7, True, 7.0, 0.0)
    result, first = searched(monkeypatch, said, 3.0, lambda rate: 0.7 if rate < 0.9 else collapsed)
    assert first == pytest.approx([1.0, 0.3])
    assert result.settings["learning_rate"]["measure"] == 0.3


@pytest.mark.parametrize(
    ("found", "caution", "sure"), [(True, "", True), (True, "deep", False), (False, "", False)]
)
def test_a_rate_that_is_not_found_or_has_a_caution_is_not_sure_and_is_predicted_once(
    monkeypatch, tmp_path, found, caution, sure
):
    said = SimpleNamespace(rate=0.5, low=0.1, high=2.0, found=found, caution=caution, passes=7.0, seconds=1.0)
    calls = []
    monkeypatch.setattr(trials, "predict_learning_rate", lambda *_, **__: calls.append(1) or said)
    for _ in range(2):
        search = trials.Trials(quick_setup(), QUICK.training(0), Criterion(), log=log_in(tmp_path))
        rate = search.predicted_rate(search.setup.delta("subspace", d=4), 0)
        assert (rate.rate, rate.sure, search.passes, search.count) == (0.5, sure, 7.0, 0)
    assert len(calls) == 1


def searched(monkeypatch, said, runs, score_at):
    """Return the result of a search whose scores are given, and the rates tried at its first dimension."""
    tried = []

    def score(self, delta, method, seed, rate):
        self.count += 1
        rate /= min(1.0, (185 / delta.size) ** 0.5)
        tried.append((delta.size, rate))
        return score_at(rate)

    monkeypatch.setattr(trials.Trials, "predicted_rate", lambda *_: said)
    monkeypatch.setattr(trials.Trials, "frozen", lambda *_: 0.42)
    monkeypatch.setattr(trials.Trials, "score", score)
    settings, criterion = replace(QUICK, runs=runs, precision=0.01), Criterion(baseline=0.8)
    found = intrinsic_dimension(quick_setup(), method="measure", criterion=criterion, settings=settings)
    assert len(tried) == runs
    return found, [rate for d, rate in tried if d == tried[0][0]]


def test_the_loss_is_a_criterion_too_and_larger_dimensions_take_shorter_steps(tmp_path):
    criterion = Criterion(metric="loss", fraction=0.75)
    settings = replace(QUICK, average=0.5, runs=7.0, precision=0.01)
    log = log_in(tmp_path)
    result = intrinsic_dimension(quick_setup(), criterion=criterion, settings=settings, log=log)
    base = [p.test_loss for p in result.curve if p.method == "baseline"]
    assert result.baseline["measured"] == min(base)
    assert result.level["measured"] == pytest.approx(result.frozen - 0.75 * (result.frozen - min(base)))
    assert set(result.fractions["measured"]) == {"d50", "d75", "d90"}
    runs = [row["config"] for row in log.rows() if row["config"].get("delta") == "subspace"]
    rate = result.settings["learning_rate"]["measure"]
    assert min(run["d"] for run in runs) < 185 < max(run["d"] for run in runs)
    for run in runs:
        assert run["training"]["average"] == 0.5
        if run["seed"]:
            kept = run["training"]["learning_rate"]
            assert kept == pytest.approx(rate * min(1.0, (185 / run["d"]) ** 0.5))


def test_a_row_of_an_older_version_serves_accuracy_and_not_the_loss(finished, tmp_path, monkeypatch):
    old, log = log_in(tmp_path), finished[1]
    for row in log.rows():
        kept = {key: value for key, value in row["result"].items() if key != "calibrated_loss"}
        old.append(row["config"], kept)
    again = []
    original = trials.train
    monkeypatch.setattr(trials, "train", lambda *a, **k: again.append(a) or original(*a, **k))
    same = intrinsic_dimension(quick_setup(), method="measure", settings=QUICK, log=old)
    assert same.baseline["measured"] == finished[0].baseline["measured"]
    before = len(again)
    loss = replace(QUICK, runs=3.0)
    intrinsic_dimension(
        quick_setup(), method="measure", criterion=Criterion(metric="loss"), settings=loss, log=old
    )
    assert len(again) - before >= len(BASELINE_RATES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "label-word"}, "label-words"),
        ({"seed": -1}, "seed=-1"),
        ({"max_length": 0}, "max_length=0"),
        ({"task": toy_task(test=10)}, r"10 test examples.*at least 50"),
        ({"task": "stdlib-topic"}, "stdlib-topics"),
        ({"model": "minilmm"}, "minilm"),
    ],
)
def test_bad_setups_are_named(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        intrinsic_dimension(quick_setup(**arguments), settings=QUICK)


def test_a_prediction_needs_no_test_examples(monkeypatch):
    monkeypatch.setattr(intrinsic, "_predicted", lambda *_: 1 / 0)  # up to the kernel
    with pytest.raises(ZeroDivisionError):
        intrinsic_dimension(quick_setup(task=toy_task(test=10)), settings=replace(QUICK, runs=0.0))


def test_a_budget_too_small_is_refused_before_the_prediction(monkeypatch):
    monkeypatch.setattr(predict, "tangent_rows", None)
    with pytest.raises(ValueError, match=r"runs=2.0.*at least 3"):
        intrinsic_dimension(quick_setup(), settings=replace(QUICK, runs=2.0))
    measure.check_budget(replace(QUICK, runs=1.0), Criterion(baseline=0.8))
