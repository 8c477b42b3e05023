"""Advice before training: its fits, its intervals and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.advice import ranking as advice
from deltatheory.deltas import make_delta
from deltatheory.linearization import linearization_error, ridge
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import ClassificationProblem, folds
from deltatheory.problems.heads import make_head

QUICK = (
    advice.Candidate("bitfit"),
    advice.Candidate("lora", {"r": 2}),
    advice.Candidate("lora", {"r": 4, "targets": ["all-linear"]}),
    advice.Candidate("prefix", {"length": 2, "gate": "none"}),
)


@pytest.fixture(scope="module")
def result() -> advice.Advice:
    return advice.advise(tiny("bert"), toy_task(2, train=64), candidates=QUICK)


def test_candidates_are_ranked_by_what_they_promise(result):
    scores = [e.score for e in result.ranked]
    assert scores == sorted(scores, reverse=True)
    assert {e.label for e in result.ranked} == {c.label for c in QUICK}
    assert result.winner == result.ranked[0].label
    for estimate in result.ranked:
        assert estimate.low < estimate.high
        assert estimate.parameters == make_delta(estimate.method, tiny("bert"), **estimate.options).size
        assert estimate.optimizer_bytes == 12 * estimate.parameters
        assert estimate.seconds_per_step > 0
    # One pass for the three that are the frozen model at 0, one for the raw prefix, and the fit's own check.
    assert result.passes >= 2 * 64 * 3


def test_one_pass_for_all_gives_each_its_own_kernel():
    backbone, task = tiny("bert"), toy_task(2, train=16)
    head = make_head("label-words", backbone, task)
    deltas = [make_delta(c.method, backbone, **c.options) for c in QUICK]

    def problem_of(delta):
        return ClassificationProblem(backbone, task, delta, head, check=False)

    fits, passes = advice._fits(problem_of, deltas, 16, 0, None)
    assert passes == 2 * 16 * 3
    for fit, delta in zip(fits, deltas, strict=True):
        alone = tangent_rows(problem_of(delta), train=16, test=0, outputs="contrast")
        np.testing.assert_allclose(fit.kernel, alone.kernel().numpy(), rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(fit.start.logits, alone.start.logits.numpy(), rtol=1e-4, atol=1e-5)
    assert len(fits[1].modules) == 4  # query and value of two blocks
    assert not np.allclose(fits[0].kernel, fits[1].kernel, rtol=0.1)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fit_is_judged_by_the_network_too(monkeypatch, classes):
    """At a small δ linearized and true logits agree, whatever the number of classes; at a large one not."""
    backbone, task = tiny("bert", dtype=torch.float64), toy_task(classes, train=32)
    problem = ClassificationProblem(
        backbone, task, make_delta("bitfit", backbone), "label-words", check=False
    )
    (fit,), _ = advice._fits(lambda _: problem, [problem.delta], 32, 0, None)
    _, held = folds(32, ridge.FOLDS)[0]
    monkeypatch.setattr(ridge, "RIDGES", np.array([1e4]))
    small = advice._fitted(problem, fit)
    assert linearization_error(problem, small, held) < 0.05
    assert linearization_error(problem, 1e6 * small, held) > 0.5


def test_the_fitted_delta_is_that_of_the_kernel(monkeypatch):
    """J δ = ½Kα on the fold that was left out, where the contrast's kernel is that of all logits."""
    monkeypatch.setattr(ridge, "RIDGES", np.array([1.0]))
    backbone, task = tiny("bert", dtype=torch.float64), toy_task(2, train=32)
    problem = ClassificationProblem(
        backbone, task, make_delta("bitfit", backbone), "label-words", check=False
    )
    (fit,), _ = advice._fits(lambda _: problem, [problem.delta], 32, 0, None)
    kept, held = folds(32, ridge.FOLDS)[0]
    (alpha,) = ridge.fit_path(fit.kernel[kept][:, kept], fit.start.subset(kept))
    batch, _ = problem.batch(problem.train, held)
    _, moved = problem.jvp(problem.delta.initial(), advice._fitted(problem, fit), batch)
    expected = fit.kernel[held][:, kept] @ alpha / 2
    np.testing.assert_allclose(moved - moved.mean(1, keepdim=True), expected, rtol=1e-6, atol=1e-9)


def test_a_budget_sorts_out_what_it_does_not_pay():
    backbone, task = tiny("bert"), toy_task(2, train=32)
    sizes = sorted(make_delta(c.method, backbone, **c.options).size for c in QUICK)
    small = advice.advise(backbone, task, candidates=QUICK, max_parameters=sizes[0])
    assert [e.within_budget for e in small.ranked] == [True, False, False, False]
    assert small.ranked[0].parameters == sizes[0]
    none = advice.advise(backbone, task, candidates=QUICK, max_minutes=1e-9)
    assert none.winner is None
    assert none.adapter_config is None
    assert none.findings[0].startswith("Budget")


def test_a_lora_winner_comes_with_a_configuration_that_peft_loads(tmp_path):
    peft = pytest.importorskip("peft")
    backbone = tiny("bert")
    lora = (advice.Candidate("lora", {"r": 4, "targets": ["all-linear"]}),)
    got = advice.advise(backbone, toy_task(2, train=64), candidates=lora)
    got.save(tmp_path)
    assert json.loads((tmp_path / "advice.json").read_text())["winner"] == lora[0].label
    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    model = peft.get_peft_model(tiny("bert").model, config)
    ranks = {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(ranks) == set(config.target_modules)
    assert {n: r for n, r in ranks.items() if r != 4} == got.adapter_config["rank_pattern"]
    assert sum(ranks.values()) <= 4 * 12 + 6  # the total is that of equal ranks, but for rounding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": ()}, "give at least one"),
        ({"candidates": (advice.Candidate("lorra"),)}, "nearest: lora"),
        ({"candidates": (advice.Candidate("lora", {"r": 99}),)}, "r=99: must lie in"),
        ({"max_parameters": 0}, "max_parameters=0: must be above 0"),
        ({"max_minutes": -1.0}, "max_minutes=-1.0: must be above 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        advice.advise(tiny("bert"), toy_task(2, train=16), **{"candidates": QUICK} | options)
