from dataclasses import replace

import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.control import diagnosis
from deltatheory.control.diagnosis import diagnose
from deltatheory.linearization import LinearizationStart, TangentRows
from deltatheory.tasks import Examples
from deltatheory.training import Training, predict_learning_rate

FAULTS = [
    "masks or positions",
    "start off the cloud of real activations",
    "target out of reach",
    "ill-conditioned Jacobian",
    "step size",
]


def verdicts(result):
    return {one.fault: one.verdict for one in result.findings}


def prefix(family="bert", **options):
    return toy_problem("prefix", family=family, dtype=torch.float64, length=4, gate="values", **options)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_sound_problem_has_neither_masking_fault_nor_stray_start(family):
    result = diagnose(prefix(family), examples=8, learning_rate=None)
    assert [one.fault for one in result.findings] == FAULTS
    assert (
        verdicts(result)[FAULTS[0]]
        == verdicts(result)[FAULTS[1]]
        == verdicts(result)[FAULTS[4]]
        == "not found"
    )
    assert result.passes > 8
    assert all(bool(one.remedy) == (one in result.found) for one in result.findings)


def test_open_masks_are_found(monkeypatch):
    problem = prefix()
    batch = problem.batch

    def unmasked(split, indices):
        encoded, labels = batch(split, indices)
        return replace(encoded, attention_mask=torch.zeros_like(encoded.attention_mask)), labels

    monkeypatch.setattr(problem, "batch", unmasked)
    assert verdicts(diagnose(problem, examples=4))[FAULTS[0]] == "found"


def test_a_start_far_from_words_is_found():
    problem = prefix()
    far = 50 * torch.randn(
        problem.delta.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    assert verdicts(diagnose(problem, far, examples=4))[FAULTS[1]] == "found"


def test_other_deltas_have_no_cloud():
    result = diagnose(toy_problem("lora", dtype=torch.float64, r=2), examples=4)
    assert verdicts(result)[FAULTS[1]] == "not applicable"


def test_contradicting_labels_are_out_of_reach():
    task = toy_task()
    texts = ("a b c",) * 6 + ("c d e",) * 6
    clash = replace(task, train=Examples(texts, labels=(0, 1) * 6))
    assert verdicts(diagnose(prefix(task=clash), examples=12))[FAULTS[2]] == "found"
    agree = replace(task, train=Examples(texts, labels=(0,) * 6 + (1,) * 6))
    assert verdicts(diagnose(prefix(task=agree), examples=12))[FAULTS[2]] == "not found"


def test_steps_that_gradient_descent_needs_have_a_closed_form():
    small = 1e-2
    rows = torch.diag(torch.tensor([1.0, small])).double()[:, None]
    start = torch.zeros(2, 2).double()
    features = TangentRows(rows, LinearizationStart(start, torch.ones(2).long(), start), 2, 2, None, 0.0, 0.0)
    # Residuals are equal: the second alone makes a half, so (1 - s²)^{2k} = 0.2.
    k = float(torch.log(torch.tensor(0.2)) / (2 * torch.log1p(torch.tensor(-(small**2)))))
    finding = diagnosis._conditioning(features, steps=100)
    assert finding.number == pytest.approx(k / 100, rel=5e-3)
    assert finding.verdict == "found"
    assert diagnosis._conditioning(features, steps=10_000).verdict == "not found"


def test_a_learning_rate_out_of_scale_is_found_on_both_sides():
    problem = prefix()
    best = predict_learning_rate(problem, training=Training(steps=100, batch_size=24)).rate
    found = {
        rate: diagnose(problem, examples=4, learning_rate=rate).findings[-1]
        for rate in (1e-6, best, 100 * best)
    }
    assert [one.verdict for one in found.values()] == ["found", "not found", "found"]
    small, right, large = found.values()
    assert "too small" in small.says
    assert "Raise" in small.remedy
    assert "too large" in large.says
    assert "Lower" in large.remedy
    assert right.number == pytest.approx(1.0)
    assert f"{best:.2g};" in right.says


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"examples": 1}, {"examples": 10_000}, {"learning_rate": 0.0}, {"delta": torch.zeros(3)}],
)
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}"):
        diagnose(prefix(), **{"examples": 4, **bad})
