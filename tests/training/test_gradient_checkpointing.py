"""Blocks that keep their inputs alone have the gradients of blocks that keep all, and take less memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny
from tiny_problems import origin, toy_problem, toy_task
from torch.autograd.graph import saved_tensors_hooks

from deltatheory.deltas import DELTAS, make_delta
from deltatheory.deltas import moved as moving
from deltatheory.problems import ClassificationProblem
from deltatheory.training import Training, train

# Deltas that act in every way: parameters in and outside blocks, in place, inputs, terms, outputs, attention,
# a prompt, shifted positions, what one module keeps for another, blocks as a whole.
EVERY = {
    "subspace": {"d": 16},
    "lora": {"r": 2},
    "bitfit": {},
    "layernorm": {},
    "ia3": {},
    "parallel-adapter": {"bottleneck": 3, "placement": "both"},
    "prefix": {"length": 2, "gate": "none", "shift": True},
    "prompt": {"length": 2},
    "ladder": {"width": 8},
}
CASES = [("bert", name) for name in EVERY]
CASES += [(family, name) for family in ("gpt2", "t5", "bart") for name in ("subspace", "lora", "prefix")]


class Kept:
    """Counts the numbers that autograd keeps, beside what blocks get."""

    def __init__(self) -> None:
        self.numbers = 0

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        self.numbers += x.numel()
        return x


def gradients(problem: ClassificationProblem):
    """Return what a step gives without and with checkpointing, and the numbers that autograd keeps."""
    batch, labels = problem.batch(problem.train, [0, 1, 2])
    start = 0.1 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0))
    for problem.gradient_checkpointing in (False, True):
        kept = Kept()
        with saved_tensors_hooks(kept.pack, lambda x: x):
            loss, accuracy, gradient = problem.loss_and_gradient(start, batch, labels)
        problem.restore()
        assert not problem.backbone.gradient_checkpointing
        yield loss, accuracy, gradient, kept.numbers


@pytest.mark.parametrize(("family", "name"), CASES)
def test_gradients_are_the_same_and_less_is_kept(family, name):
    backbone = tiny(family)
    delta = make_delta(name, backbone, **EVERY[name])
    problem = ClassificationProblem(backbone, toy_task(), delta, check=False)
    (*expected, whole), (*found, less) = gradients(problem)
    assert found[:2] == pytest.approx(expected[:2], rel=1e-6)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-9)
    assert float(expected[2].abs().max()) > 0
    inputs = len(backbone.layers) * 3 * 9 * backbone.hidden_size  # three texts, of nine tokens at most
    if name != "ladder":  # whose gradients pass through no block
        assert less + inputs < 0.6 * whole


@pytest.mark.parametrize("kept", [1 << 26, 0])
@pytest.mark.parametrize("name", ["full", "layerwise-subspace"])
def test_what_moves_while_modules_run_moves_when_they_run_again(monkeypatch, name, kept):
    monkeypatch.setattr(moving, "KEPT", kept)
    problem = toy_problem(name, **DELTAS[name].examples[0])
    (*expected, whole), (*found, less) = gradients(problem)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-9)
    assert less < 0.4 * whole


def test_training_ends_at_the_same_delta_for_a_forward_pass_more_a_step():
    problem = toy_problem("lora", r=2)
    before, training = origin(problem.backbone), Training(steps=2, batch_size=4)
    plain, saving = (
        train(problem, one) for one in (training, replace(training, gradient_checkpointing=True))
    )
    torch.testing.assert_close(saving.delta, plain.delta, rtol=1e-6, atol=1e-9)
    assert saving.passes - plain.passes == 2 * 4
    assert not problem.gradient_checkpointing
    assert all(torch.equal(p, before[name]) for name, p in problem.backbone.model.named_parameters())
    assert all("forward" not in vars(layer) for layer in problem.backbone.layers)


def test_it_is_named_as_in_transformers_and_in_settings_only_where_it_is_on():
    assert "gradient_checkpointing" not in {**Training().to_dict(), **Training().to_transformers()}
    on = Training(gradient_checkpointing=True)
    assert on.to_dict()["gradient_checkpointing"] is on.to_transformers()["gradient_checkpointing"] is True
