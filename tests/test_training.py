from __future__ import annotations

import math

import pytest
import torch
from tiny_problems import origin, toy_problem, toy_task

from deltatheory.training import Training, train

KINDS = [("full", {}), ("subspace", {"d": 40}), ("layerwise-subspace", {"d": 40}), ("lora", {"r": 4})]
RATE = {"full": 3e-3, "subspace": 0.5, "layerwise-subspace": 0.5, "lora": 0.02}


def test_the_rate_rises_and_falls_linearly():
    training = Training(steps=10, learning_rate=2.0, warmup=0.2)
    rates = [training.rate(step) for step in range(10)]
    assert rates == pytest.approx([1, 2, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25])
    assert max(rates) == 2.0
    assert [Training(steps=4, learning_rate=1.0, warmup=0.0).rate(s) for s in range(4)] == [
        1,
        0.75,
        0.5,
        0.25,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup": 1.0},
        {"warmup": -0.1},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)


@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_the_loss_falls_and_the_backbone_is_itself_again(delta, options):
    problem = toy_problem(delta, task=toy_task(train=32), **options)
    before = origin(problem.backbone)
    losses: list[tuple[int, float]] = []
    training = Training(steps=30, batch_size=16, learning_rate=RATE[delta])
    frozen = problem.evaluate(problem.delta.initial(), problem.test)
    spent = problem.passes
    result = train(problem, training, on_step=lambda *x: losses.append(x))
    assert result.status == "finished"
    assert [step for step, _ in losses] == list(range(30))
    assert result.train_loss is not None
    assert result.train_loss == pytest.approx(sum(loss for _, loss in losses[-3:]) / 3)
    assert result.train_loss < 0.5 * losses[0][1]
    assert result.test is not None
    assert result.test["loss"] < frozen["loss"]
    assert result.movement == pytest.approx(float(result.delta.norm()))
    assert result.passes == problem.passes - spent == 30 * 16 * 3 + len(problem.test)
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())
    assert problem.evaluate(result.delta, problem.test) == result.test


@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_one_seed_is_one_result_bit_by_bit(delta, options):
    training = Training(steps=4, batch_size=8, learning_rate=0.01, seed=3)
    first, again = (train(toy_problem(delta, **options), training) for _ in range(2))
    assert torch.equal(first.delta, again.delta)
    assert first.test == again.test
    other = train(toy_problem(delta, **options), Training(steps=4, batch_size=8, learning_rate=0.01, seed=4))
    assert not torch.equal(first.delta, other.delta)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_divergence_is_a_status_not_an_exception(delta, options, steps):
    """With one step it is the evaluation that meets the broken weights."""
    problem = toy_problem(delta, **options)
    before = origin(problem.backbone)
    result = train(problem, Training(steps=steps, batch_size=8, learning_rate=1e30))
    assert result.status.startswith("diverged: ")
    assert "lower the learning rate" in result.status
    assert result.test is None
    assert result.train_loss is None
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())


def test_an_interrupted_run_leaves_the_frozen_backbone():
    problem = toy_problem("subspace", d=8)
    before = origin(problem.backbone)

    def stop(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(problem, Training(steps=3, batch_size=8, learning_rate=0.1), on_step=stop)
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())


def test_a_start_is_where_it_starts_and_stays_what_it_was():
    problem = toy_problem("subspace", d=8)
    start = torch.full((8,), 0.3)
    seen: list[float] = []
    training = Training(steps=1, batch_size=24, learning_rate=1e-6)
    result = train(problem, training, start=start, on_step=lambda _, loss: seen.append(loss))
    batch, labels = problem.batch(problem.train, range(24))
    assert seen[0] == pytest.approx(float(problem.loss(start, batch, labels)), abs=1e-5)
    assert torch.equal(start, torch.full((8,), 0.3))
    assert (result.delta - start).abs().max() < 1e-5
