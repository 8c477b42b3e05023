"""Tiny problems: their gradients are right, the seed decides, and strategies draw them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from deltatheory.testing.tiny import tiny_backbone, tiny_problem, tiny_problems


@settings(max_examples=4, deadline=None, database=None, derandomize=True)
@given(tiny_problems())
def test_gradients_agree_with_differences(problem) -> None:
    batch, labels = problem.batch(problem.train, [0, 1])
    origin = problem.delta.initial()
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(len(origin), generator=generator, dtype=origin.dtype)
    v, h = v / v.norm(), 1e-5
    with torch.no_grad():
        high, low = (problem.loss(origin + s * h * v, batch, labels) for s in (1, -1))
    gradient = problem.loss_and_gradient(origin, batch, labels)[2]
    assert float(gradient @ v) == pytest.approx(float(high - low) / (2 * h), rel=1e-5, abs=1e-9)


def test_the_seed_decides_and_leaves_no_trace() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, same, other = (tiny_problem(seed=s, options={"r": 1}) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    batch, _ = first.batch(first.train, [0])
    outputs = [p.logits(p.delta.initial(), batch) for p in (first, same, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_other_families_are_told() -> None:
    with pytest.raises(ValueError, match="family='t5'"):
        tiny_backbone("t5")
