"""Control of a network with weights in half precision is that of the same weights in float32."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.control import LayeredSystem, maximum_principle, output_gramian, solve, steer
from deltatheory.problems import Setup


def problem(dtype, delta="lora:2", head="random"):
    backbone = tiny("bert", dtype=torch.bfloat16).to(dtype=dtype)
    return Setup(backbone, toy_task(), head=head, max_length=12).problem(delta, check=False)


def test_costates_gramian_and_solution_are_those_of_the_weights_in_float32():
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        tuned = problem(dtype)
        system = LayeredSystem(tuned)
        residual = maximum_principle(system, system.zero_controls()).residual
        share = output_gramian(tuned, examples=8, outputs="margin").shares()
        value = solve(tuned, "gauss-newton", budget=8.0).value
        loss = float(tuned.loss(value, *tuned.batch(tuned.train, range(24))))
        found.append((residual, share, loss))
    (residual, share, loss), (expected_residual, expected_share, expected_loss) = found
    assert residual == pytest.approx(expected_residual, rel=0.02)
    assert share == pytest.approx(expected_share, abs=0.02)
    assert loss == pytest.approx(expected_loss, rel=0.1)


def test_feedback_runs_on_states_in_float32():
    tuned = problem(torch.bfloat16, "prefix:2", "prototypes")
    rows = steer(tuned, tuned.delta.initial(), disturbances=["typos"]).rows
    assert {row.controller for row in rows} >= {"pid", "lqr", "robust-prefix"}
