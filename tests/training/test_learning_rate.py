from __future__ import annotations

import json
import math
import weakref
from dataclasses import fields, replace

import pytest
import torch
from tiny_models import tiny
from tiny_problems import copy_task, origin, toy_problem, toy_task

from deltatheory.control.faults import step_size
from deltatheory.deltas import Delta, make_delta
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem, GenerationProblem, Setup
from deltatheory.training import Training, full_costs, predict_learning_rate
from deltatheory.training.learning_rate import _ceiling, _crossing, _search

TRAINING = Training(steps=60, batch_size=16)


class InOtherUnits(Delta):
    """The same change, written in units of which it takes more."""

    name, family, formula, acts, affine = "units", "specification", "ψ(δ/u)", "as the other", True

    def __init__(self, delta: Delta, units: float) -> None:
        super().__init__(delta.backbone)
        self.delta, self.units, self.size = delta, units, delta.size

    def edit(self, delta):
        return self.delta.edit(delta / self.units)

    def specification(self):
        return {"units": self.units, **self.delta.specification()}


@pytest.mark.parametrize(("name", "options"), [("bitfit", {}), ("lora", {"r": 8}), ("ia3", {})])
def test_the_rate_has_the_units_of_delta(name, options):
    """In units of which a change takes u times as many, the rate is uη: Adam's steps are ±η."""
    problem = toy_problem(name, task=toy_task(train=64), **options)
    one = predict_learning_rate(problem, training=TRAINING)
    other = predict_learning_rate(problem, InOtherUnits(problem.delta, 64.0), TRAINING)
    assert one.status == other.status == "found"
    assert other.rate / one.rate == pytest.approx(64.0, rel=0.5)


@pytest.mark.parametrize("first", [1e-5, 1e-3, 1.0])
def test_the_search_finds_the_rate_of_a_movement_that_is_known(first):
    """M = aη + bη² = M* has the root (√(a² + 4bM*) - a)/2b; a step of a linear map moves by aη alone."""
    a, b, wanted = 30.0, 4e4, 0.65
    root = (math.sqrt(a * a + 4 * b * wanted) - a) / (2 * b)
    moved = _search(lambda rate: a * rate + b * rate**2, wanted, first, looks=8)
    assert _crossing(moved, wanted) == pytest.approx(root, rel=0.03)


def test_a_collapsed_network_that_moves_as_much_as_wanted_is_not_taken():
    """Beyond η = 0.01 it moves less and less, and passes M* once more at 0.1."""
    moved = _search(lambda rate: 200 * rate if rate < 0.01 else 0.065 / rate, 0.65, 1e-3, looks=8)
    assert _crossing(moved, 0.65) == pytest.approx(0.65 / 200, rel=0.05)


def test_a_network_that_overflows_is_too_large_a_rate():
    moved = _search(lambda rate: math.inf if rate > 1e-5 else 1e4 * rate, 0.05, 1e-3, looks=8)
    assert _crossing(moved, 0.05) == pytest.approx(5e-6, rel=0.2)


def test_it_costs_a_tenth_of_the_run_and_leaves_the_backbone_as_it_was():
    for delta in ("full", "lora"):
        problem = toy_problem(delta, task=toy_task(train=64))
        before = origin(problem.backbone)
        found = predict_learning_rate(problem, training=TRAINING)
        assert problem.passes == 0
        assert 0 < found.passes <= 0.1 * TRAINING.steps * TRAINING.batch_size * (FORWARD + BACKWARD)
        assert found.low < found.rate < found.high
        for name, p in problem.backbone.model.named_parameters():
            assert torch.equal(p, before[name])
        assert found.settings["training"]["learning_rate"] == found.rate


def test_a_short_training_pays_for_four_looks():
    problem = toy_problem("lora", r=2)
    found = predict_learning_rate(problem, training=Training(steps=1, batch_size=2))
    assert found.found
    assert len(found.moved) <= 4


def test_a_training_that_starts_elsewhere_has_the_rate_of_there():
    """Where both factors of a LoRA are large, a step of either moves more."""
    problem = toy_problem("lora", task=toy_task(train=64), r=2)
    far = torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0))
    near, there = (predict_learning_rate(problem, training=TRAINING, start=x) for x in (None, far))
    assert there.rate < near.rate


def test_transformers_trains_alike():
    training_args = pytest.importorskip("transformers.training_args")
    given = Training(steps=7, batch_size=3, learning_rate=0.25, warmup=0.5, seed=5).to_transformers()
    known = {field.name for field in fields(training_args.TrainingArguments)}
    assert given.keys() <= known
    assert (given["learning_rate"], given["max_steps"], given["warmup_steps"]) == (0.25, 7, 4)
    with pytest.raises(ValueError, match="optimizer='sgd'"):
        Training(optimizer="sgd").to_transformers()


def test_the_same_seed_predicts_the_same_rate():
    setup = Setup(tiny("bert"), toy_task())
    rates = {predict_learning_rate(setup, "lora:2", TRAINING).rate for _ in range(2)}
    assert len(rates) == 1


def copying(train: int) -> GenerationProblem:
    backbone = tiny("llama")
    delta, lengths = make_delta("lora", backbone, r=2), {"max_length": 20, "max_new_tokens": 3}
    return GenerationProblem(backbone, copy_task(train), delta, check=False, **lengths)


def test_where_delta_is_as_long_as_theta_few_texts_are_looked_at_at_once(monkeypatch):
    setup, taken, batch = Setup(tiny("bert"), toy_task(2, train=32)), [], ClassificationProblem.batch
    monkeypatch.setattr(
        ClassificationProblem, "batch", lambda *given: taken.append(len(given[2])) or batch(*given)
    )
    found = predict_learning_rate(setup, "full", Training(batch_size=8))
    assert 2 in taken
    monkeypatch.setattr("deltatheory.problems.base._FEW", 8)
    taken.clear()
    assert predict_learning_rate(setup, "full", Training(batch_size=8)).rate == pytest.approx(
        found.rate, rel=1e-3
    )
    assert 2 not in taken


def test_memory_is_saved_where_the_training_saves_it(monkeypatch):
    """Gradients are taken of as few texts at once, and with activations recomputed; the rate is the same."""
    seen = []
    gradient = ClassificationProblem.sum_with_gradient

    def watched(problem, delta, batches):
        batches = list(batches)
        seen.append((problem.gradient_checkpointing, {len(labels) for _, labels in batches}))
        return gradient(problem, delta, batches)

    monkeypatch.setattr(ClassificationProblem, "sum_with_gradient", watched)
    problem, plain = toy_problem("lora", task=toy_task(2, train=32)), Training(steps=60, batch_size=8)
    saving = replace(plain, micro_batch=2, gradient_checkpointing=True)
    whole, saved = (predict_learning_rate(problem, training=training) for training in (plain, saving))
    assert seen[0] == (False, {8})
    assert seen[-1] == (True, {2})
    assert saved.moved[0] == pytest.approx(whole.moved[0], rel=1e-3)
    assert not problem.gradient_checkpointing


def test_where_delta_is_as_long_as_theta_one_is_there_at_a_time(monkeypatch):
    """The model kept the last one until the next was written: a copy of θ too many."""
    seen: list[weakref.ref] = []
    left: list[int] = []
    gradient = ClassificationProblem.sum_with_gradient

    def watched(problem, delta, batches):
        left.append(sum(one() is not None for one in seen))
        seen.append(weakref.ref(delta))
        return gradient(problem, delta, batches)

    monkeypatch.setattr(ClassificationProblem, "sum_with_gradient", watched)
    monkeypatch.setattr("deltatheory.training.learning_rate._FIRST", 1e-3)  # more than one look
    predict_learning_rate(toy_problem("full", task=toy_task(2, train=32)), training=TRAINING)
    assert len(left) > 1
    assert not any(left)


def test_generation_has_a_rate_too():
    found = predict_learning_rate(copying(48), training=TRAINING)
    assert found.status == "found"


def test_a_deep_backbone_is_moved_less_and_the_prediction_says_what_that_rests_on():
    deep = Setup(tiny("bert", num_hidden_layers=12), toy_task(2, train=32))
    found = predict_learning_rate(deep, "bitfit", TRAINING)
    assert found.wanted == pytest.approx(0.2)
    assert any(0.2 / 1.2 < m < 0.2 * 1.2 for _, m in found.moved)
    assert str(found).endswith(f"; {found.caution}")
    assert "SmolLM2" in found.caution
    assert found.caution in step_size(found, 1e-9).says


def test_full_fine_tuning_that_is_scored_at_a_rate_that_rests_on_little_says_so():
    deep = Setup(tiny("bert", num_hidden_layers=8), toy_task(2, train=32))
    with pytest.warns(UserWarning, match="full fine-tuning at .*SmolLM2"):
        full_costs(deep.problem("bitfit"), Training(steps=4, batch_size=4), scored=True)


def test_a_delta_that_does_nothing_has_no_rate():
    problem = toy_problem("bitfit")
    still = InOtherUnits(problem.delta, math.inf)
    found = predict_learning_rate(problem, still, TRAINING)
    assert found.status.startswith("not found")


def test_a_prediction_is_plain_numbers_and_says_itself():
    found = predict_learning_rate(toy_problem("bitfit"), training=TRAINING)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rate"] == found.rate
    assert f"{found.rate:.2g}" in str(found)
    assert (found.wanted, found.caution) == (0.4, "")  # two blocks
    assert replace(found, moved=[(1.0, math.inf)]).to_dict()["moved"] == [(1.0, None)]


@pytest.mark.parametrize(
    ("delta", "training", "says"),
    [
        (None, TRAINING, "delta=None"),
        ("lora:2", Training(optimizer="sgd"), "optimizer='sgd'"),
        ("lora:2", Training(autocast=True), "autocast"),
        ("no-such-delta", TRAINING, "no-such-delta"),
    ],
)
def test_bad_input_is_refused(delta, training, says):
    with pytest.raises(ValueError, match=says):
        predict_learning_rate(Setup(tiny("bert"), toy_task()), delta, training)


def test_a_start_of_another_length_or_without_a_finite_loss_is_refused():
    problem = toy_problem("bitfit")
    with pytest.raises(ValueError, match=r"start.shape=\(3,\)"):
        predict_learning_rate(problem, start=torch.zeros(3))
    with pytest.raises(FloatingPointError, match="loss is nan"):
        predict_learning_rate(problem, start=torch.full((problem.delta.size,), math.nan))


def test_a_delta_that_saturates_has_a_rate_behind_its_ceiling():
    """No rate moves the features by M*: its movement stops growing at a hundredth."""
    moved = _search(lambda rate: 0.15 * min(1.0, 100 * rate), 0.4, 1e-3, looks=6)
    assert 0.01 / 1.3 < _ceiling(moved, 0.4) < 0.03
    assert len(moved) < 6


def test_with_a_built_problem_a_name_is_refused_and_one_example_is_too_few():
    with pytest.raises(ValueError, match="delta='lora'"):
        predict_learning_rate(toy_problem("bitfit"), "lora")
    with pytest.raises(ValueError, match="train: 1 example"):
        predict_learning_rate(copying(1))
