"""Kernels by factors are those of the rows of J, for every delta and family."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from delta_cases import CASES, FIRST
from tiny_models import TINY, tiny
from tiny_problems import toy_problem, toy_task

from deltatheory.deltas import make_delta
from deltatheory.linearization import factors
from deltatheory.linearization.factors import tangent_kernels
from deltatheory.linearization.tangent import joint_tangent_rows, tangent_rows
from deltatheory.problems import ClassificationProblem

CLASSES, COUNTS = 3, {"train": 5, "test": 3, "sketch": 1 << 30}


def agree(problem, outputs="logits"):
    rows = tangent_rows(problem, outputs=outputs, **COUNTS)
    (found,) = tangent_kernels(problem, [problem.delta], outputs=outputs, **COUNTS)
    K = rows.kernel()
    assert float((found.kernel() - K).norm() / K.norm()) < 1e-5
    torch.testing.assert_close(found.start.logits, rows.start.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.start.judging_offset, rows.start.judging_offset, rtol=0, atol=1e-6)
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_delta(case):
    name, options = CASES[case]
    problem = toy_problem(name, dtype=torch.float64, task=toy_task(CLASSES), **options)
    agree(problem)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("delta", ["full scope=all", "prefix", "ia3", "bitfit"])
def test_every_family(family, delta):
    name, options = CASES[delta]
    if delta == "bitfit" and not any(n.endswith("bias") for n, _ in tiny(family).model.named_parameters()):
        pytest.skip("no bias")
    agree(toy_problem(name, family=family, dtype=torch.float64, task=toy_task(CLASSES), **options))


@pytest.mark.parametrize("outputs", ["margin", "contrast"])
def test_every_output(outputs):
    agree(toy_problem("lora", dtype=torch.float64, task=toy_task(CLASSES), r=2), outputs)


@pytest.mark.parametrize("family", ["gemma", "gpt2", "opt"])
def test_a_head_of_its_own_beside_tuned_embeddings(family):
    backbone = tiny(family, dtype=torch.float64)
    backbone.lm_head = copy.deepcopy(backbone.lm_head)
    problem = ClassificationProblem(
        backbone, toy_task(CLASSES), make_delta("full", backbone, scope="all"), "label-words", check=False
    )
    assert factors.places_of(problem, problem.delta) is not None
    agree(problem)


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("slices", [1 << 26, 50])
def test_both_ways_to_a_gram_are_the_same(monkeypatch, pairs, slices):
    monkeypatch.setattr(factors._WeightGram, "_by_pairs", lambda *_: pairs)
    monkeypatch.setattr(factors, "_SLICE", slices)
    monkeypatch.setattr(factors, "_TEXTS", 2)
    monkeypatch.setattr(factors, "_PAIRED", 3)
    agree(toy_problem("full", dtype=torch.float64, task=toy_task(CLASSES)))


def test_no_pass_takes_more_tokens_than_its_memory_is_for(monkeypatch):
    monkeypatch.setattr(factors, "_TOKENS", 12)
    problem = toy_problem("lora", task=toy_task(CLASSES), r=1)
    taken, encode = [], problem.batch
    monkeypatch.setattr(
        ClassificationProblem, "batch", lambda _, *given: taken.append(encode(*given)) or taken[-1]
    )
    tangent_kernels(problem, [problem.delta], outputs="contrast", **COUNTS)
    shapes = [batch.input_ids.shape for batch, _ in taken]
    assert sum(texts for texts, _ in shapes) == 8
    assert all(texts * length <= 12 or texts == 1 for texts, length in shapes)
    assert any(texts > 1 for texts, _ in shapes)


def test_several_at_once_are_each_alone():
    problem = toy_problem("full", dtype=torch.float64, task=toy_task(CLASSES))
    names = ["full", "lora", "prompt", "bitfit", "adapter"]
    deltas = [make_delta(name, problem.backbone, **FIRST[name]) for name in names]
    together = tangent_kernels(problem, deltas, **COUNTS)
    for delta, found in zip(deltas, together, strict=True):
        (alone,) = tangent_kernels(problem, [delta], **COUNTS)
        torch.testing.assert_close(found.kernel(), alone.kernel())
        torch.testing.assert_close(found.start.logits, alone.start.logits)


def test_parts_are_the_modules_of_a_lora():
    problem = toy_problem("lora", dtype=torch.float64, r=2)
    (found,) = tangent_kernels(problem, [problem.delta], **COUNTS)
    assert list(found.parts) == list(problem.delta.targets)
    shapes = problem.delta.coordinates.shapes
    sizes = [sum(math.prod(shapes[f"{n}.{x}"]) for x in "AB") for n in problem.delta.targets]
    rows = joint_tangent_rows(problem, sizes, **COUNTS)
    for part, expected in zip(found.parts.values(), rows, strict=True):
        torch.testing.assert_close(part, expected.kernel())


def test_passes_are_counted():
    problem = toy_problem("lora", task=toy_task(CLASSES), r=2)
    (found,) = tangent_kernels(problem, [problem.delta], **COUNTS)
    assert found.passes == 8 * (2 + 0.5 * 2 * (CLASSES - 1))
    assert problem.passes == 0


def test_what_is_not_there():
    problem = toy_problem("lora", r=2)
    with pytest.raises(ValueError, match="train=1: must be at least 2"):
        tangent_kernels(problem, [problem.delta], train=1, test=0)
    with pytest.raises(ValueError, match=r"deltas=\[\]"):
        tangent_kernels(problem, [], train=3, test=0)


@pytest.mark.parametrize("case", ["lora", "prefix", "ia3", "bitfit", "layernorm", "adapter", "last-layers"])
def test_half_precision_weights_have_the_kernel_of_those_weights_in_float32(case):
    """Products and sums are float32; what is off is the rounding of activations: 3.6e-3 in a real model."""
    name, options = CASES[case]
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        backbone = tiny("bert", dtype=torch.bfloat16).to(dtype=dtype)
        delta = make_delta(name, backbone, **options)
        problem = ClassificationProblem(backbone, toy_task(CLASSES), delta, "prototypes", check=False)
        (kernel,) = tangent_kernels(problem, [delta], **COUNTS)
        rows = tangent_rows(problem, **COUNTS)
        assert rows.rows.dtype == kernel.start.logits.dtype == torch.float32
        found.append((kernel.kernel(), rows.kernel()))
    (by_factors, by_rows), (expected, _) = found
    for K in (by_factors, by_rows):
        assert float((K - expected).norm() / expected.norm()) < 0.05
