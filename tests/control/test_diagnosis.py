import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sample_results import ONE_OF_EACH
from tiny_problems import toy_problem, toy_task

from deltatheory.control import faults
from deltatheory.control.diagnosis import HELPED, REMEDIES, UNNOTICED, Attempt, diagnose
from deltatheory.control.faults import Finding
from deltatheory.linearization import LinearizationStart, TangentRows
from deltatheory.results import ResultLog
from deltatheory.tasks import Examples
from deltatheory.training import Training, predict_learning_rate
from experiments.runner import LOG
from experiments.scope import Scope
from experiments.studies import remedies
from experiments.trial import Known

FAULTS = [
    "masks or positions",
    "start off the cloud of real activations",
    "target out of reach",
    "ill-conditioned Jacobian",
    "step size",
]


def verdicts(result):
    return {one.fault: one.verdict for one in result.findings}


def verdicts_found(result):
    return [one.fault for one in result.found]


def prefix(family="bert", **options):
    return toy_problem("prefix", family=family, dtype=torch.float64, length=4, gate="values", **options)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_a_sound_problem_has_neither_masking_fault_nor_stray_start(family):
    result = diagnose(prefix(family), examples=8, learning_rate=None, steps=8)
    assert [one.fault for one in result.findings] == FAULTS
    assert (
        verdicts(result)[FAULTS[0]]
        == verdicts(result)[FAULTS[1]]
        == verdicts(result)[FAULTS[4]]
        == "not found"
    )
    assert result.passes > 8
    assert [one.fault for one in result.attempts] == [
        "",
        *(f for f in verdicts_found(result) if f in REMEDIES),
    ]
    assert {one.steps for one in result.attempts} == {4}
    assert all(bool(one.remedy) == (one in result.found) for one in result.findings)


def test_open_masks_are_found(monkeypatch):
    problem = prefix()
    batch = problem.batch

    def unmasked(split, indices):
        encoded, labels = batch(split, indices)
        return replace(encoded, attention_mask=torch.zeros_like(encoded.attention_mask)), labels

    monkeypatch.setattr(problem, "batch", unmasked)
    result = diagnose(problem, examples=4, steps=2)
    assert result.named.fault == FAULTS[0]
    assert result.remedied is None
    assert result.verdict.startswith("Outputs depend on padding or on later tokens, which no remedy")


def test_a_start_far_from_words_is_found():
    problem = prefix()
    far = 50 * torch.randn(
        problem.delta.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    result = diagnose(problem, far, examples=4, steps=2)
    assert verdicts(result)[FAULTS[1]] == "found"
    words = next(one for one in result.attempts if one.fault == FAULTS[1])
    sound = diagnose(problem, examples=4, steps=2).attempts[0]
    assert (words.before, words.after) == (sound.before, sound.after)
    assert words.before != result.attempts[0].before


def test_other_deltas_have_no_cloud():
    result = diagnose(toy_problem("lora", dtype=torch.float64, r=2), examples=4, steps=2)
    assert verdicts(result)[FAULTS[1]] == "not applicable"


def test_contradicting_labels_are_out_of_reach():
    task = toy_task()
    texts = ("a b c",) * 6 + ("c d e",) * 6
    clash = replace(task, train=Examples(texts, labels=(0, 1) * 6))
    assert verdicts(diagnose(prefix(task=clash), examples=12, steps=2))[FAULTS[2]] == "found"
    agree = replace(task, train=Examples(texts, labels=(0,) * 6 + (1,) * 6))
    assert verdicts(diagnose(prefix(task=agree), examples=12, steps=2))[FAULTS[2]] == "not found"


def test_steps_that_gradient_descent_needs_have_a_closed_form():
    small = 1e-2
    rows = torch.diag(torch.tensor([1.0, small])).double()[:, None]
    start = torch.zeros(2, 2).double()
    features = TangentRows(rows, LinearizationStart(start, torch.ones(2).long(), start), 2, 2, None, 0.0, 0.0)
    # Residuals are equal: the second alone makes a half, so (1 - s²)^{2k} = 0.2.
    k = float(torch.log(torch.tensor(0.2)) / (2 * torch.log1p(torch.tensor(-(small**2)))))
    finding = faults.conditioning(features, steps=50)
    assert finding.number == pytest.approx(k / 50, rel=5e-3)
    assert finding.verdict == "found"
    assert faults.conditioning(features, steps=10_000).verdict == "not found"


def test_a_learning_rate_out_of_scale_is_found_on_both_sides():
    problem, run = prefix(), {"examples": 8, "batch_size": 8}
    best = predict_learning_rate(problem, training=Training(steps=100, batch_size=8)).rate
    results = [diagnose(problem, learning_rate=rate, **run) for rate in (1e-6, best, 1e4 * best)]
    small, right, large = (result.findings[-1] for result in results)
    assert [one.verdict for one in (small, right, large)] == ["found", "not found", "found"]
    assert "too small" in small.says
    assert "Raise" in small.remedy
    assert "too large" in large.says
    assert "Lower" in large.remedy
    assert right.number == pytest.approx(1.0)
    assert f"{best:.2g};" in right.says
    for result, size in ((results[0], "small"), (results[2], "large")):
        assert result.predicted_rate == best
        as_it_is, *_ = result.attempts
        mended = next(one for one in result.attempts if one.fault == FAULTS[4])
        assert mended.after == results[1].attempts[0].after  # the same steps as at that rate from the start
        assert mended.helps(as_it_is)
        assert (
            f"times too {size}: in 20 steps the loss falls from " in result.verdict
            or result.named != (result.findings[-1])
        )


def said(*attempts, found=()):
    sample = ONE_OF_EACH["diagnose"]
    findings = [
        replace(one, verdict="found" if one.fault in found else "not found", clause="it is so")
        for one in (*sample.findings[:2], Finding(FAULTS[3], "", 1, 2, ""), sample.findings[-1])
    ]
    return replace(sample, findings=findings, attempts=[Attempt("", "", 9, 0.7, None), *attempts])


def test_the_verdict_names_the_remedy_that_lowers_the_loss_most():
    rate, gauss = (Attempt(FAULTS[4], "a rate", 9, 0.7, 0.4), Attempt(FAULTS[3], "steps", 9, 0.7, 0.3))
    both = said(rate, gauss, found=(FAULTS[4], FAULTS[3]))
    assert both.named.fault == FAULTS[3]
    start = "It is so: in 9 steps the loss falls from 0.7 to 0.3 with steps, as it is it leaves 0.7 for no"
    assert both.verdict.startswith(start)
    right, runs = HELPED[FAULTS[3]]
    assert f"the remedy helped {right} of {runs} (" in both.verdict
    assert both.to_dict()["remedy_helped"] == {"runs_helped": right, "runs": runs}
    none = said(replace(rate, after=None), found=(FAULTS[4],))
    assert none.verdict.startswith("It is so, but its remedy does not help: in 9 steps")
    sound = said()
    assert sound.verdict.startswith("Nothing was found of masks or positions, start off")
    assert "either in {} of {} (".format(*UNNOTICED) in sound.verdict
    assert sound.to_dict()["remedy_helped"] is None
    assert said(found=(FAULTS[0], FAULTS[4])).named.fault == FAULTS[0]


def test_the_shares_are_those_of_the_page():
    page = Path(__file__).parents[2] / "experiments/results/remedies/remedies/result.json"
    numbers = json.loads(page.read_text())["numbers"]["calibration"]
    assert {fault: tuple(pair) for fault, pair in numbers["counts"].items()} == HELPED
    assert tuple(numbers["unnoticed"]) == UNNOTICED


def test_the_limit_of_conditioning_lies_between_sound_and_planted_runs_of_the_calibration_tasks():
    folder = Path(__file__).parents[2] / "experiments/results/remedies"
    scope, known = Scope.read(folder / "scope.json"), Known.read(ResultLog(folder / LOG))
    runs = [run for run in remedies.rows(scope, known, remedies.FIRST_LIMIT) if run["half"] == "calibration"]

    def times(fault):
        found = [run["findings"] for run in runs if run["fault"] == fault]
        return [one["number"] for findings in found for one in findings if one["fault"] == FAULTS[3]]

    worst, mildest = max(times("")), min(times("a direction 1000 times as long"))
    assert faults.SLOW == remedies.LIMIT == pytest.approx((worst * mildest) ** 0.5, rel=0.1)
    assert len(times("")) == 6


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"examples": 1},
        {"examples": 10_000},
        {"learning_rate": 0.0},
        {"delta": torch.zeros(3)},
    ],
)
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}"):
        diagnose(prefix(), **{"examples": 4, **bad})
