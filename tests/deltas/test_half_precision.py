"""On weights in half precision all deltas train and linearize, with δ and all sums over it in float32."""

from __future__ import annotations

import pytest
import torch
from delta_cases import CASES
from tiny_models import tiny
from tiny_problems import origin, toy_task

from deltatheory.backbones import Edit
from deltatheory.deltas import LoRA, make_delta
from deltatheory.problems import ClassificationProblem
from deltatheory.training import Training, train

# Of a gradient through two blocks in bfloat16, whose unit is 2⁻⁸, against the same weights in float32.
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}


def pair(case, family="bert", dtype=torch.bfloat16):
    """The same problem on weights in half precision, and on those weights in float32."""
    name, options = CASES[case]
    rounded = tiny(family, dtype=dtype)
    wide = tiny(family, dtype=dtype).to(dtype=torch.float32)
    return [
        ClassificationProblem(b, toy_task(), make_delta(name, b, **options), "random", check=False)
        for b in (rounded, wide)
    ]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_same_weights_in_float32(case, family):
    half, wide = pair(case, family)
    before = origin(half.backbone)
    batch, _ = half.batch(half.train, range(5))
    point = 0.1 * torch.randn(half.delta.size, generator=torch.Generator().manual_seed(0))
    assert half.delta.initial().dtype == torch.float32
    (loss, _, gradient), (expected_loss, _, expected) = (
        problem.loss_and_gradient(point, *problem.batch(problem.train, range(5))) for problem in (half, wide)
    )
    assert gradient.dtype == torch.float32
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE[torch.bfloat16])
    assert (gradient - expected).norm() < TOLERANCE[torch.bfloat16] * expected.norm()
    logits, tangent = half.jvp(point, gradient, batch)
    assert logits.dtype == tangent.dtype == torch.float32
    _, expected_tangent = wide.jvp(point, gradient, batch)
    assert (tangent - expected_tangent).norm() < TOLERANCE[torch.bfloat16] * expected_tangent.norm()
    assert all(p.dtype == torch.bfloat16 for p in half.backbone.model.parameters())
    assert all(torch.equal(p, before[n]) for n, p in half.backbone.model.named_parameters())


@pytest.mark.parametrize("case", CASES)
def test_the_self_check_holds(case):
    problem, _ = pair(case)
    assert problem.check().passed


def test_float16_is_closer():
    half, wide = pair("lora", dtype=torch.float16)
    point = 0.1 * torch.randn(half.delta.size, generator=torch.Generator().manual_seed(0))
    gradient, expected = (p.loss_and_gradient(point, *p.batch(p.train, range(5)))[2] for p in (half, wide))
    assert (gradient - expected).norm() < TOLERANCE[torch.float16] * expected.norm()
    assert half.check().passed


def test_training_on_half_precision_learns_as_on_float32():
    training = Training(steps=12, batch_size=8, learning_rate=0.02)
    half, wide = (train(problem, training) for problem in pair("lora"))
    assert half.delta.dtype == torch.float32
    assert half.train_loss == pytest.approx(wide.train_loss, abs=0.05)
    assert half.train_loss < half.losses[0] - 0.1


@pytest.mark.parametrize("name", ["lora", "vera", "unilora"])
def test_a_small_low_rank_change_is_not_rounded_away(name):
    """Merged into weights of a half and more, changes below 9e-4 an entry are gone."""
    backbone = tiny("bert", dtype=torch.bfloat16)
    delta = make_delta(name, backbone, **CASES[name][1] | ({"r": 1} if name != "vera" else {}))
    batch = backbone.encode(["a b c d e f", "c d", "k l m n"])
    with torch.no_grad():
        for target in ("query", "value"):
            for t in range(2):
                weight = backbone.model.get_parameter(f"{backbone.module_name(t, target)}.weight")
                weight.copy_(torch.where(weight.abs() < 0.5, weight.sign() * 0.5, weight))
        point = torch.full((delta.size,), 1e-3)
        frozen = backbone.hidden_states(batch)
        tuned = backbone.hidden_states(batch, delta.edit(point))
        rounded = {name: p.bfloat16() for name, p in delta.parameters(point).items()}
        merged = backbone.hidden_states(batch, Edit(parameters=rounded))
    assert not torch.equal(tuned, frozen)
    assert torch.equal(merged, frozen)


def test_beside_the_weights_and_merged_is_one_map_in_float64():
    for family in ("bert", "gpt2"):
        backbone = tiny(family, dtype=torch.float64)
        batch = backbone.encode(["a b c", "d e f g h"])
        for name in ("lora", "vera", "unilora"):
            delta = make_delta(name, backbone, **CASES[name][1])
            point = torch.randn(delta.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            beside = backbone.hidden_states(batch, delta.edit(point))
            merged = backbone.hidden_states(batch, Edit(parameters=delta.parameters(point)))
            torch.testing.assert_close(beside, merged, rtol=0, atol=1e-12)


def test_a_small_step_in_a_subspace_is_not_rounded_away():
    """A step of 0.1 % of the weights, below the unit of bfloat16, acts all the same."""
    problem, _ = pair("subspace")
    batch, labels = problem.batch(problem.train, range(8))
    zero = problem.delta.initial()
    value, _, gradient = problem.loss_and_gradient(zero, batch, labels)
    step = -0.02 * gradient / gradient.norm()
    after = problem.loss_and_gradient(step, batch, labels)[0]
    assert after - value == pytest.approx(float(gradient @ step), rel=0.2)


@pytest.mark.parametrize("name", ["bitfit", "layernorm", "last-layers", "full"])
def test_a_small_change_of_parameters_is_not_rounded_away(name):
    backbone = tiny("bert", dtype=torch.bfloat16)
    delta = make_delta(name, backbone)
    batch = backbone.encode(["a b c d e f", "c d", "k l m n"])
    changed = {n: p + 1e-3 * p.abs() for n, p in delta.parameters(delta.initial()).items()}
    rounded = {n: p.bfloat16() for n, p in changed.items()}
    with torch.no_grad():
        start, moved, merged = (
            backbone.hidden_states(batch, Edit(parameters=new)) for new in ({}, changed, rounded)
        )
    assert torch.equal(merged, start)
    assert not torch.equal(moved, start)
    assert all(p.dtype == torch.bfloat16 for p in backbone.model.parameters())


def test_the_type_of_the_change_is_that_of_the_backbone_at_least_float32():
    for dtype, wide in {torch.float16: torch.float32, torch.float64: torch.float64}.items():
        assert LoRA(tiny("bert", dtype=dtype), r=1).initial().dtype == wide
