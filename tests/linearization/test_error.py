from __future__ import annotations

import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.linearization.error import linearization_error, relative_error


def test_both_routes_give_the_same_error():
    """By forward mode, and from logits and a Jacobian that are there."""
    problem = toy_problem("lora", dtype=torch.float64, task=toy_task(3), r=2)
    delta = torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch, _ = problem.batch(problem.train, range(24))
    before, after = (problem.logits(x, batch) for x in (0 * delta, delta))
    J = torch.autograd.functional.jacobian(lambda x: problem.logits(x, batch), 0 * delta)
    assert isinstance(J, torch.Tensor)
    linear = J @ delta
    expected = relative_error(after - before - linear, linear)
    assert linearization_error(problem, delta, range(24)) == pytest.approx(expected, rel=1e-9)
    assert expected > 0.1


def test_a_delta_that_moves_all_classes_alike_is_counted_as_no_change():
    linear = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    assert relative_error(linear, linear + 5) == pytest.approx(1.0)
    assert relative_error(0 * linear, 0 * linear) == 0
