"""Laws that every delta keeps, on every example that its class gives."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from delta_cases import CASES, FIRST
from tiny_problems import origin, toy_problem
from torch.nn.functional import cross_entropy

from deltatheory import autodiff
from deltatheory.deltas import DELTAS, InPlaceDelta, make_delta

IN_PLACE = [case for case, (name, _) in CASES.items() if issubclass(DELTAS[name], InPlaceDelta)]
FAMILIES = ["bert", "gpt2"]


def problem_of(case, family, dtype=torch.float64):
    name, options = CASES[case]
    problem = toy_problem(name, family=family, dtype=dtype, **options)
    batch, labels = problem.batch(problem.train, range(5))
    generator = torch.Generator().manual_seed(0)
    point = 0.1 * torch.randn(problem.delta.size, generator=generator, dtype=dtype)
    return problem, batch, labels, point


def test_every_delta_has_an_example():
    assert all(kind.examples for kind in DELTAS.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_zero_is_the_frozen_backbone_bit_by_bit(case, family):
    problem, batch, _, _ = problem_of(case, family, torch.float32)
    frozen = toy_problem("lora", family=family).backbone
    expected = problem.head(frozen.pooled(batch))
    zero = problem.delta.initial()
    assert torch.equal(problem.logits(zero, batch), expected) == problem.delta.exact_zero
    if case in IN_PLACE:
        problem.delta.write(zero)
        written, theta0 = origin(problem.backbone), origin(frozen)
        assert all(torch.equal(written[name], theta0[name]) for name in theta0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_the_change_is_a_change(case, family):
    problem, batch, _, point = problem_of(case, family)
    change = problem.logits(point, batch) - problem.logits(torch.zeros_like(point), batch)
    assert change.abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", IN_PLACE)
def test_written_in_place_is_the_pure_function(case, family):
    problem, batch, _, point = problem_of(case, family)
    pure = problem.logits(point, batch)
    problem.delta.write(point)
    torch.testing.assert_close(problem.head(problem.backbone.pooled(batch)), pure, rtol=0, atol=1e-10)
    # pure also while another δ stands in the model
    problem.delta.write(-point)
    assert torch.equal(problem.logits(point, batch), pure)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", IN_PLACE)
def test_forward_mode_in_place_is_that_of_the_pure_function(case, family):
    problem, batch, _, point = problem_of(case, family)
    v = torch.randn(point.shape, generator=torch.Generator().manual_seed(1), dtype=point.dtype)
    frozen = problem.backbone.pooled(batch)
    for found, pure in zip(
        problem.jvp(point, v, batch), autodiff.jvp(lambda x: problem.logits(x, batch), point, v), strict=True
    ):
        torch.testing.assert_close(found, pure, rtol=1e-10, atol=1e-10)
    assert torch.equal(problem.backbone.pooled(batch), frozen)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_pure_loss_and_of_differences(case, family):
    problem, batch, labels, point = problem_of(case, family)
    value, _, gradient = problem.loss_and_gradient(point, batch, labels)
    expected = autodiff.grad(lambda x: problem.loss(x, batch, labels), point)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)
    assert value == pytest.approx(float(problem.loss(point, batch, labels)), abs=1e-12)
    v = torch.randn(point.shape, generator=torch.Generator().manual_seed(1), dtype=point.dtype)
    v /= v.norm()
    h = 1e-5
    slope = (problem.loss(point + h * v, batch, labels) - problem.loss(point - h * v, batch, labels)) / (
        2 * h
    )
    assert float(slope) == pytest.approx(float(gradient @ v), abs=1e-8)


@pytest.mark.parametrize("case", FIRST)
def test_a_gradient_stays_what_it_is_when_the_next_is_taken(case):
    """Full fine-tuning handed out its own buffer, which the next step set to zero."""
    problem, batch, labels, point = problem_of(case, "bert")
    *_, first = problem.loss_and_gradient(point, batch, labels)
    copy = first.clone()
    problem.loss_and_gradient(-point, batch, labels)
    assert torch.equal(first, copy)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", IN_PLACE)
def test_restore_is_bit_by_bit_and_keeps_ties(case, family):
    problem, batch, labels, point = problem_of(case, family, torch.float32)
    backbone = problem.backbone
    before, frozen = origin(backbone), backbone.pooled(batch)
    problem.loss_and_gradient(point, batch, labels)
    assert not torch.equal(backbone.pooled(batch), frozen)
    problem.restore()
    assert torch.equal(backbone.pooled(batch), frozen)
    assert all(torch.equal(p, before[n]) for n, p in backbone.model.named_parameters())
    if backbone.lm_head is not None:
        assert backbone.lm_head.weight is backbone.model.get_input_embeddings().weight


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_every_derivative_is_right_in_float64(case, family):
    problem, batch, labels, point = problem_of(case, family)
    assert problem.check().passed
    small = batch.select([0, 1])
    v = torch.randn(point.shape, generator=torch.Generator().manual_seed(2), dtype=point.dtype)
    v /= v.norm()
    h = 1e-5
    _, jv = problem.jvp(point, v, small)
    differences = (problem.logits(point + h * v, small) - problem.logits(point - h * v, small)) / (2 * h)
    torch.testing.assert_close(jv, differences, rtol=0, atol=1e-7)
    rows = torch.cat(list(autodiff.jacobian_rows(lambda x: problem.logits(x, small), point, chunk=3)))
    torch.testing.assert_close((rows @ v).view_as(jv), jv, rtol=0, atol=1e-10)
    _, pullback = problem.vjp(point, small)
    torch.testing.assert_close(pullback(torch.ones_like(jv)), rows.sum(0), rtol=0, atol=1e-10)

    def loss(x):
        return cross_entropy(problem.logits(x, small), labels[:2])

    hv = autodiff.hvp(loss, point, v)
    bend = (autodiff.grad(loss, point + h * v) - autodiff.grad(loss, point - h * v)) / (2 * h)
    torch.testing.assert_close(hv, bend, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_specification_is_plain_and_rebuilds_the_change(case):
    problem, batch, _, point = problem_of(case, "bert")
    stored = json.loads(json.dumps(problem.delta.specification()))
    options = {k: v for k, v in stored.items() if k not in ("delta", "scaling")}
    twin = toy_problem(problem.delta.specification()["delta"], dtype=torch.float64, **options)
    assert torch.equal(twin.logits(point, batch), problem.logits(point, batch))


def held(value):
    """Every tensor that an object holds, in containers too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from held(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from held(part)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_what_a_delta_holds_lies_in_one_layout(case, family):
    """A tensor rebuilt in another layout gives products other last bits, on some processors."""
    problem, *_ = problem_of(case, family)
    assert all(x.is_contiguous() for x in held(vars(problem.delta)))


def test_unknown_delta_names_the_nearest():
    backbone = toy_problem().backbone
    with pytest.raises(ValueError, match="nearest: subspace"):
        make_delta("subspce", backbone, d=3)
