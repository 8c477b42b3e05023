"""On a GPU everything is what it is on the CPU: gradients, kernels, training, the verbs."""

from __future__ import annotations

import pytest
import torch
from delta_cases import CASES, FIRST
from device_cases import MAPS, predicted_rate, problem_on, spread
from tiny_models import TINY, tiny
from tiny_problems import copy_task, toy_task

from deltatheory.deltas import make_delta
from deltatheory.linearization.factors import tangent_kernels
from deltatheory.problems import ClassificationProblem, GenerationProblem, Setup
from deltatheory.training import Training, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = "cuda"
COUNTS = {"train": 5, "test": 3, "sketch": 1 << 30}


def agree(found, expected, tolerance=1e-9):
    scale = max(float(expected.abs().max()), 1.0)
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", CASES)
def test_gradient_and_kernel_of_every_delta(case):
    delta, options = CASES[case]
    here, there = (problem_on(device, delta, options) for device in ("cpu", DEVICE))
    torch.manual_seed(0)
    at = here.delta.initial() + 0.05 * torch.randn(here.delta.size, dtype=torch.float64)
    gradients = [
        p.loss_and_gradient(at.to(p.backbone.device), *p.batch(p.train, range(8)))[2] for p in (here, there)
    ]
    agree(gradients[1], gradients[0])
    kernels = [tangent_kernels(p, [p.delta], **COUNTS)[0].kernel() for p in (here, there)]
    agree(kernels[1], kernels[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("family", MAPS)
def test_each_of_two_gpus_forms_its_part_of_a_kernel(family):
    kernels = []
    for backbone in (tiny(family), spread(family, DEVICE)):
        problem = ClassificationProblem(backbone, toy_task(3), make_delta("lora", backbone, r=2), check=False)
        made = [make_delta(name, backbone) for name in ("full", "lora", "adapter", "layernorm", "ia3")]
        kernels.append([found.kernel() for found in tangent_kernels(problem, made, **COUNTS)])
    for found, expected in zip(*kernels, strict=True):
        agree(found, expected, 1e-4)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("delta", ["full", "lora", "prefix"])
def test_every_family_trains(family, delta):
    ended = [
        train(
            problem_on(device, delta, FIRST[delta], family),
            Training(steps=5, batch_size=8, learning_rate=1e-3),
        )
        for device in ("cpu", DEVICE)
    ]
    agree(torch.tensor(ended[1].losses), torch.tensor(ended[0].losses), 1e-6)
    assert ended[1].peak_memory > 0


def test_generation_answers_the_same():
    answers = []
    for device in ("cpu", DEVICE):
        backbone = tiny("gpt2", dtype=torch.float64).to(device)
        delta = make_delta("lora", backbone, r=2)
        problem = GenerationProblem(backbone, copy_task(), delta, max_new_tokens=3, check=False)
        answers.append(problem.evaluate(delta.initial(), problem.test))
    assert answers[0] == pytest.approx(answers[1])


def test_the_learning_rate_is_the_same():
    here, there = (predicted_rate(device) for device in ("cpu", DEVICE))
    assert there == pytest.approx(here, rel=1e-6)


def test_the_verbs_end_in_a_result():
    from deltatheory import advise, intrinsic_dimension
    from deltatheory.dimension import DimensionSettings

    setup = Setup(tiny("bert").to(DEVICE), toy_task(2, train=40, test=60), max_length=12)
    settings = DimensionSettings(steps=10, batch_size=8)
    assert intrinsic_dimension(setup, method="predict", settings=settings).curve
    assert advise(setup).ranked


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_learn(dtype):
    backbone = tiny("llama").to(DEVICE, dtype)
    problem = ClassificationProblem(
        backbone, toy_task(train=32), make_delta("lora", backbone, r=2), check=False
    )
    result = train(problem, Training(steps=30, batch_size=16, learning_rate=0.03))
    assert result.losses[-1] < 0.7 * result.losses[0]
    assert result.delta.dtype == torch.float32
