"""What is asked of two devices to be the same: on a GPU, and in its rehearsal on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem
from deltatheory.training import Training, predict_learning_rate


def problem_on(
    device: str, delta: str, options: dict[str, Any], family: str = "bert"
) -> ClassificationProblem:
    backbone = tiny(family, dtype=torch.float64).to(device)
    made = make_delta(delta, backbone, **options)
    return ClassificationProblem(backbone, toy_task(3), made, check=False)


def predicted_rate(device: str) -> float:
    problem = problem_on(device, "lora", {"r": 2})
    return predict_learning_rate(problem, training=Training(batch_size=8)).rate
