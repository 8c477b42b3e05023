from __future__ import annotations

from dataclasses import replace
from itertools import combinations, islice, pairwise

import numpy as np
import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem, toy_task

from deltatheory import autodiff
from deltatheory.deltas import LoRA
from deltatheory.problems import ClassificationProblem, epochs, like_lengths


@pytest.mark.parametrize(("delta", "options"), [("full", {}), ("lora", {"r": 2})])
def test_passes_are_counted_by_example(delta, options):
    problem = toy_problem(delta, task=toy_task(train=70), **options)
    assert problem.passes == 0
    zero = problem.delta.initial()
    batch, labels = problem.batch(problem.train, range(5))
    problem.loss_and_gradient(zero, batch, labels)
    assert problem.passes == 3 * 5
    problem.predict(zero, problem.train)
    assert problem.passes == 3 * 5 + 70
    problem.jvp(zero, torch.ones_like(zero), batch)
    assert problem.passes == 3 * 5 + 70 + 3 * 5
    problem.vjp(zero, batch)
    assert problem.passes == 3 * 5 + 70 + 3 * 5 + 5


@pytest.mark.parametrize(("delta", "options"), [("full", {}), ("lora", {"r": 2})])
def test_predictions_come_in_the_order_of_the_split(delta, options):
    problem = toy_problem(delta, **options)
    point = torch.full((problem.delta.size,), 0.01)
    outputs = problem.predict(point, problem.test, chunk=5)
    for i in range(len(problem.test)):
        batch, _ = problem.batch(problem.test, [i])
        torch.testing.assert_close(outputs[i], problem.logits(point, batch)[0], rtol=0, atol=1e-4)
    score = problem.evaluate(point, problem.test)
    assert score["accuracy"] == pytest.approx(
        np.mean(outputs.argmax(1).numpy() == problem.test.labels.numpy())
    )
    everything, labels = problem.batch(problem.test, range(len(problem.test)))
    assert score["loss"] == pytest.approx(float(problem.loss(point, everything, labels)), abs=1e-5)


@pytest.mark.parametrize(("delta", "options"), [("full", {}), ("lora", {"r": 2})])
def test_nan_weights_are_refused_with_a_remedy(delta, options):
    problem = toy_problem(delta, **options)
    with torch.no_grad():
        problem.backbone.model.get_parameter("embeddings.word_embeddings.weight").fill_(float("nan"))
    batch, labels = problem.batch(problem.train, range(4))
    zero = problem.delta.initial()
    with pytest.raises(
        FloatingPointError, match=r"loss became nan: lower the learning rate, or look for NaN"
    ):
        problem.loss_and_gradient(zero, batch, labels)
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        problem.evaluate(zero, problem.test)


def test_the_self_check_runs_when_a_problem_is_built(monkeypatch):
    backbone = tiny("bert")
    delta = LoRA(backbone, r=1)
    ClassificationProblem(backbone, toy_task(), delta)
    kept = LoRA.edit
    # a detached δ has the derivative 0
    monkeypatch.setattr(LoRA, "edit", lambda self, x: kept(self, x.detach() + 0 * x))
    with pytest.raises(autodiff.DerivativeError, match="finite difference"):
        ClassificationProblem(backbone, toy_task(), delta)
    ClassificationProblem(backbone, toy_task(), delta, check=False)


def test_the_self_check_holds_where_a_head_fits_its_examples(monkeypatch):
    """The loss of their labels is flat there: its differences are rounding, and derivatives look wrong."""
    problem = toy_problem("lora", r=2)
    margins = problem.predict(problem.delta.initial(), problem.train).diff(dim=1)[:, 0]
    head = problem.head
    scale = 10 / float(margins.abs().min())
    problem.head = replace(head, weight=scale * head.weight, bias=scale * head.bias)
    problem.train.labels[:] = (margins > 0).long()
    assert problem.evaluate(problem.delta.initial(), problem.train)["loss"] < 1e-4
    assert problem.check().passed
    kept = LoRA.edit
    monkeypatch.setattr(LoRA, "edit", lambda self, x: kept(self, x.detach() + 0 * x))
    with pytest.raises(autodiff.DerivativeError, match="finite difference"):
        problem.check()


def test_texts_are_cut_at_the_limit():
    backbone = tiny("bert")
    problem = ClassificationProblem(backbone, toy_task(), LoRA(backbone, r=1), max_length=5, check=False)
    batch, labels = problem.batch(problem.train, [3, 0])
    assert problem.train.lengths.max() == batch.input_ids.shape[1] == 5
    assert labels.tolist() == [1, 0]
    wide = ClassificationProblem(backbone, toy_task(), LoRA(backbone, r=1), max_length=10**6, check=False)
    assert wide.max_length == backbone.max_length


@pytest.mark.parametrize(("n", "size"), [(1, 4), (7, 3), (24, 24), (24, 100), (50, 8), (33, 8), (100, 1)])
def test_an_epoch_uses_no_example_twice_in_batches_of_one_size(n, size):
    lengths = np.random.default_rng(0).integers(3, 9, n)
    size, count = min(size, n), n // min(size, n)
    stream = epochs(lengths, size, seed=1)
    for _ in range(3):
        batches = list(islice(stream, count))
        assert {len(b) for b in batches} == {size}
        used = [i for b in batches for i in b]
        assert len(set(used)) == count * size
        assert set(used) <= set(range(n))


def test_data_order_is_a_function_of_the_seed():
    lengths = np.random.default_rng(0).integers(3, 9, 64)
    first, again, other = (list(islice(epochs(lengths, 8, seed), 20)) for seed in (0, 0, 1))
    assert first == again
    assert first[0] != other[0]
    assert first[:8] != first[8:16]  # and every epoch has its own


def test_what_an_epoch_leaves_out_changes():
    left = set()
    stream = epochs(np.ones(10), 4, seed=0)
    for _ in range(20):
        used = {i for b in islice(stream, 2) for i in b}
        left |= set(range(10)) - used
    assert left == set(range(10))


def test_batches_have_texts_of_like_length():
    lengths = np.random.default_rng(0).integers(3, 60, 256)
    spread = np.mean([np.ptp(lengths[b]) for b in islice(epochs(lengths, 8, 0), 32)])
    mixed = np.mean([np.ptp(x) for x in np.random.default_rng(1).permutation(lengths).reshape(32, 8)])
    assert spread < 0.6 * mixed


def test_passes_of_like_length_hold_every_text_once_and_the_least_padding():
    """At the least cost of all ways to cut the sorted texts, 64 tokens a pass."""
    rng = np.random.default_rng(0)
    for lengths in (rng.integers(3, 200, 7), np.array([5] * 8), np.array([9]), rng.integers(3, 60, 32)):
        passes = like_lengths(lengths)
        assert sorted(i for one in passes for i in one) == list(range(len(lengths)))
        cost = sum(64 + len(one) * max(lengths[one]) for one in passes)
        assert cost <= 64 + len(lengths) * max(lengths)
        if len(lengths) == 7:
            ordered = np.sort(lengths)
            cuts = ([0, *c, 7] for n in range(7) for c in combinations(range(1, 7), n))
            every = (sum(64 + (b - a) * ordered[b - 1] for a, b in pairwise(cut)) for cut in cuts)
            assert cost == min(every)
