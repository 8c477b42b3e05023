"""Advice before training: its fits, its intervals and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from markupsafe import escape
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.advice import CANDIDATES, Advice, Candidate, advise, posterior, ranking
from deltatheory.advice.fits import kernel_fits
from deltatheory.advice.race import judging_examples
from deltatheory.deltas import make_delta
from deltatheory.problems import Setup, epochs
from deltatheory.training import Training, predict_learning_rate

QUICK = (
    Candidate("bitfit"),
    Candidate("lora", {"r": 2}),
    Candidate("lora", {"r": 4, "targets": ["all-linear"]}),
    Candidate("prefix", {"length": 2, "gate": "none"}),
)


def setup(examples: int) -> Setup:
    return Setup(tiny("bert"), toy_task(2, train=examples))


@pytest.fixture(scope="module")
def result() -> Advice:
    return advise(setup(32), candidates=QUICK)


def test_candidates_are_ranked_by_what_they_promise(result):
    scores = [e.score for e in result.ranked]
    assert scores == sorted(scores, reverse=True)
    assert {e.label for e in result.ranked} == {c.label for c in QUICK}
    assert result.winner == result.decision.label
    for estimate in result.ranked:
        assert estimate.low < estimate.high
        assert estimate.parameters == make_delta(estimate.method, tiny("bert"), **estimate.options).size
        assert estimate.optimizer_bytes == 12 * estimate.parameters
        assert estimate.seconds_per_step > 0
    # One pass for the three that are the frozen model at 0, one for the raw prefix, and the fit's own check.
    assert result.passes >= 2 * 32 * 3


def test_the_step_that_is_timed_is_one_of_the_training(monkeypatch):
    """Not of the first examples in whatever order, padded to their longest."""
    problem, taken = setup(32).classification("bitfit", check=False), []
    monkeypatch.setattr(problem, "loss_and_gradient", lambda _, batch, __: taken.append(batch.mask.shape[1]))
    plan = Training(batch_size=4, seed=1)
    assert ranking._seconds_per_step(problem, plan) > 0
    order = epochs(problem.train.lengths, 4, seed=1)
    widths = sorted(problem.train.lengths[next(order)].max() for _ in range(4))
    assert widths[0] < widths[-1]
    assert taken == [taken[0], widths[2]]


def test_every_candidate_has_a_learning_rate_and_the_winner_ready_arguments(result, tmp_path):
    for one in result.ranked:
        assert 0 < one.lowest_rate < one.learning_rate < one.highest_rate
    (delta,) = [one for one in result.ranked if one.label == result.winner]
    problem = setup(32).problem(delta.method, delta.options)
    planned = predict_learning_rate(problem, training=Training(steps=120, batch_size=32))
    assert planned.rate == pytest.approx(delta.learning_rate, rel=0.5)  # of a draw of the same examples
    result.save(tmp_path)
    written = json.loads((tmp_path / "training_arguments.json").read_text())
    assert written == result.training_arguments
    assert (written["learning_rate"], written["max_steps"]) == (delta.learning_rate, 120)
    assert written["run_name"] == result.winner


def test_one_output_that_stands_for_several_is_said(result):
    assert not any(
        finding.startswith("Outputs:") for finding in result.findings
    )  # of two classes it is exact
    three = advise(Setup(tiny("bert"), toy_task(3, train=24)), candidates=QUICK[:1])
    assert any("one contrast of the 3 logits" in finding for finding in three.findings)


def test_what_is_known_against_rates_of_a_deep_backbone_is_said_once(result):
    found = advise(Setup(tiny("llama", num_hidden_layers=8), toy_task(2, train=16)), candidates=QUICK[:2])
    assert sum(finding.startswith("Rates: ") for finding in found.findings) == 1
    assert not any(finding.startswith("Rates: ") for finding in result.findings)


class Seen(Exception):
    """Ends an advice where its kernels are known."""


def test_another_seed_draws_another_lora_and_the_same_seed_the_same(monkeypatch):
    """At δ = 0 a LoRA's kernel is that of its random factor: the seed must reach it."""
    kernels = []

    def watched(setup, deltas, on_example):
        fits, _ = kernel_fits(setup, deltas, on_example)
        order = np.argsort(setup.task.train.texts)  # the seed draws an order of the examples too
        kernels.append(fits[0].kernel.numpy()[np.ix_(order, order)])
        raise Seen

    monkeypatch.setattr(ranking, "kernel_fits", watched)
    for seed in (0, 1, 1):
        with pytest.raises(Seen):
            advise(setup(16).replace(seed=seed), candidates=QUICK[1:2])
    np.testing.assert_allclose(kernels[1], kernels[2], rtol=1e-6)
    assert not np.allclose(kernels[0], kernels[1], rtol=0.1)


def test_a_training_that_no_rate_is_predicted_for_is_refused_before_the_kernels(monkeypatch):
    monkeypatch.setattr(ranking, "kernel_fits", None)
    with pytest.raises(ValueError, match=r"training\.optimizer='sgd'"):
        advise(setup(12), training=Training(optimizer="sgd"))


def test_a_budget_sorts_out_what_it_does_not_pay():
    given = setup(12)
    sizes = sorted(given.delta(c.method, **c.options).size for c in QUICK)
    small = advise(given, candidates=QUICK, max_parameters=sizes[0])
    assert [e.within_budget for e in small.ranked] == [True, False, False, False]
    assert small.ranked[0].parameters == sizes[0]
    assert small.decision.probability == 1  # there is no other
    memory = 12e-6 * sizes[1]  # MB: a gradient and two moments, 4 bytes each
    two = advise(given, candidates=QUICK, max_memory=memory)
    assert sorted(e.parameters for e in two.ranked if e.within_budget) == sizes[:2]
    none = advise(given, candidates=QUICK[:1], max_minutes=1e-9)
    assert none.decision is None
    assert none.winner is None
    assert none.adapter_config is None
    assert none.findings[0].startswith("Budget")


def test_a_lora_winner_comes_with_a_configuration_that_peft_loads(tmp_path):
    peft = pytest.importorskip("peft")
    lora = (Candidate("lora", {"r": 4, "targets": ["all-linear"]}),)
    got = advise(setup(24), candidates=lora)
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
        ({"candidates": (Candidate("lorra"),)}, "nearest: lora"),
        ({"candidates": (Candidate("lora", {"r": 99}),)}, "r=99: must lie in"),
        ({"max_parameters": 0}, "max_parameters=0: must be above 0"),
        ({"max_minutes": -1.0}, "max_minutes=-1.0: must be above 0"),
        ({"max_memory": 0}, "max_memory=0: must be above 0"),
        ({"examples": 0}, "examples=0: must be above 0"),
        ({"train_runs": -1}, "train_runs=-1: must be at least 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        advise(setup(16), **{"candidates": QUICK} | options)


def test_the_page_says_the_decision_first(result, tmp_path):
    page = result.save(tmp_path).read_text()
    sentence = str(escape(result.decision))
    assert page.index(sentence) < page.index("<svg")
    saved = json.loads((tmp_path / "advice.json").read_text())
    assert saved["decision"]["label"] == result.winner
    assert all(label in page for label in (e.label for e in result.ranked))


def test_where_peft_has_no_form_of_what_is_taken_its_best_is_written(monkeypatch):
    monkeypatch.setattr(posterior, "_LEVEL", 1.0)  # the smallest is taken
    got = advise(setup(16), candidates=(Candidate("bitfit"), Candidate("lora", {"r": 16})))
    assert got.winner == "bitfit"
    assert got.adapter_config["peft_type"] == "LORA"
    assert got.adapter_config["task_type"] == "SEQ_CLS"
    assert got.adapter_config["modules_to_save"] == ["classifier"]
    assert any("is of lora r=16" in finding for finding in got.findings)
    rates = {one.label: one.learning_rate for one in got.ranked}
    assert rates["bitfit"] != rates["lora r=16"]
    for arguments, label in (
        (got.training_arguments, "bitfit"),
        (got.adapter_training_arguments, "lora r=16"),
    ):
        assert (arguments["learning_rate"], arguments["run_name"]) == (rates[label], label)


def test_runs_are_judged_on_training_and_dev_examples_that_they_have_not_seen(monkeypatch):
    monkeypatch.setattr(posterior, "_OWN", 2.0)  # so little is known that a run may change what is taken
    given = setup(40)
    got = advise(
        given,
        candidates=(Candidate("bitfit"), Candidate("lora", {"r": 2})),
        training=Training(steps=3, batch_size=4),
        examples=24,
        train_runs=2,
    )
    assert 1 <= len(got.runs) <= 2
    assert {run.examples for run in got.runs} == {16 + len(given.task.dev)}
    trained = given.replace(train_examples=24)
    judging = judging_examples(trained.task, given.task)
    assert not {*judging.input_keys()} & {*trained.task.train.input_keys()}
    assert not {*judging.input_keys()} & {*given.task.test.input_keys()}


def test_a_usual_candidate_without_a_place_is_left_out_and_said():
    """A model without biases, whose window is shorter than the longer prefix."""
    norm, bitfit, long = (
        c for c in CANDIDATES if c.method in ("bitfit", "layernorm") or 16 in c.options.values()
    )
    setup = Setup(tiny("mistral"), toy_task(2, train=16))
    found = advise(setup, candidates=[bitfit, norm, long])
    assert [e.label for e in found.ranked] == ["layernorm"]
    said = [finding for finding in found.findings if finding.startswith("Left out: ")]
    assert len(said) == 2
    assert said[0].startswith("Left out: bitfit has no place here: backbone='tiny-mistral': has no bias;")
    with pytest.raises(
        ValueError, match=r"candidates: none has a place in 'tiny-mistral'\. Left out: bitfit"
    ):
        advise(setup, candidates=[bitfit])
    with pytest.raises(ValueError, match="r=99: must lie in"):  # one that somebody chose is refused
        advise(setup, candidates=[norm, Candidate("lora", {"r": 99})])


def test_a_candidate_with_a_bad_option_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="option r='x': the delta 'lora' takes int"):
        advise({"model": "nothing/here"}, candidates=[Candidate("lora", {"r": "x"})])


@pytest.mark.parametrize("field", ["adapter_config", "training_arguments", "adapter_training_arguments"])
def test_the_configuration_of_older_advice_goes_with_it(field, tmp_path, result, monkeypatch):
    monkeypatch.setattr("deltatheory.report.page.svg", lambda *_: "<svg></svg>")
    one, other = replace(result, **{field: {"r": 2}}), replace(result, **{field: None})
    path = tmp_path / f"{field}.json"
    one.save(tmp_path)
    other.save(tmp_path)
    assert not path.exists()
    one.save(tmp_path)
    path.write_text('{"r": 3}')  # somebody's own
    other.save(tmp_path)
    assert path.exists()
