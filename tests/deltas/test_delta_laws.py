"""Laws that every delta keeps; a new one is a line in CASES."""

from __future__ import annotations

import pytest
import torch
from tiny_problems import origin, toy_problem
from torch.nn.functional import cross_entropy

from deltatheory import autodiff
from deltatheory.deltas import DELTAS, InPlaceDelta, make_delta

CASES = {
    "subspace": {"d": 12},
    "layerwise-subspace": {"d": 12},
    "full": {},
    "lora": {"r": 2},
    "prompt": {"length": 2},
    "prefix": {"length": 2},
    "intrinsic-prompt": {"d": 4, "length": 2},
    "modules": {"patterns": ["*.1.*weight"]},
    "bitfit": {},
    "layernorm": {},
    "last-layers": {"k": 1},
    "random-modules": {"share": 0.2},
    "diff-pruning": {},
    "fisher-mask": {"count": 40},
    "unilora": {"d": 12, "r": 2},
    "vera": {"r": 5},
    "unified-subspace": {"deltas": [("lora", {"r": 2}), ("bitfit", {})], "d": 6},
    "combined": {"deltas": [("lora", {"r": 2}), ("bitfit", {}), ("layernorm", {})]},
    "adapter": {"bottleneck": 3},
    "parallel-adapter": {"bottleneck": 3, "placement": "both"},
    "compacter": {"n": 2, "bottleneck": 4},
    "ia3": {},
    "ladder": {"width": 3},
}
IN_PLACE = [name for name in CASES if issubclass(DELTAS[name], InPlaceDelta)]
FAMILIES = ["bert", "gpt2"]
SCOPES = {
    "lora": [{}],
    "prompt": [{}],
    "prefix": [{}, {"gate": "values"}],
    "intrinsic-prompt": [{}],
    "modules": [{}],
    "bitfit": [{}],
    "layernorm": [{}],
    "last-layers": [{}],
    "random-modules": [{}],
    "unilora": [{}],
    "vera": [{}],
    "unified-subspace": [{}],
    "combined": [{}],
    "adapter": [{}],
    "parallel-adapter": [{}],
    "compacter": [{}],
    "ia3": [{}],
    "ladder": [{}],
}


def every(names):
    return [
        pytest.param(name, family, CASES[name] | scope, id="-".join([name, family, *scope.values()]))
        for name in names
        for family in FAMILIES
        for scope in SCOPES.get(name, [{"scope": "blocks"}, {"scope": "all"}])
    ]


def problem_of(name, family, options, dtype=torch.float64):
    problem = toy_problem(name, family=family, dtype=dtype, **options)
    batch, labels = problem.batch(problem.train, range(5))
    generator = torch.Generator().manual_seed(0)
    point = 0.1 * torch.randn(problem.delta.size, generator=generator, dtype=dtype)
    return problem, batch, labels, point


def test_every_delta_is_held_to_the_laws():
    assert CASES.keys() == DELTAS.keys()


@pytest.mark.parametrize(("name", "family", "options"), every(CASES))
def test_zero_is_the_frozen_backbone_bit_by_bit(name, family, options):
    problem, batch, _, _ = problem_of(name, family, options, torch.float32)
    frozen = toy_problem("lora", family=family).backbone
    expected = problem.head(frozen.pooled(batch))
    zero = problem.delta.initial()
    assert torch.equal(problem.logits(zero, batch), expected) == problem.delta.exact_zero
    if name in IN_PLACE:
        problem.delta.write(zero)
        assert torch.equal(problem.head(problem.backbone.pooled(batch)), expected)


@pytest.mark.parametrize(("name", "family", "options"), every(CASES))
def test_the_change_is_a_change(name, family, options):
    problem, batch, _, point = problem_of(name, family, options)
    change = problem.logits(point, batch) - problem.logits(torch.zeros_like(point), batch)
    assert change.abs().max() > 1e-3


@pytest.mark.parametrize(("name", "family", "options"), every(IN_PLACE))
def test_written_in_place_is_the_pure_function(name, family, options):
    problem, batch, _, point = problem_of(name, family, options)
    pure = problem.logits(point, batch)
    problem.delta.write(point)
    torch.testing.assert_close(problem.head(problem.backbone.pooled(batch)), pure, rtol=0, atol=1e-10)
    # pure also while another δ stands in the model
    problem.delta.write(-point)
    assert torch.equal(problem.logits(point, batch), pure)


@pytest.mark.parametrize(("name", "family", "options"), every(CASES))
def test_the_gradient_is_that_of_the_pure_loss_and_of_differences(name, family, options):
    problem, batch, labels, point = problem_of(name, family, options)
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


@pytest.mark.parametrize("name", list(CASES))
def test_a_gradient_stays_what_it_is_when_the_next_is_taken(name):
    """Full fine-tuning handed out its own buffer, which the next step set to zero."""
    problem, batch, labels, point = problem_of(name, "bert", CASES[name])
    *_, first = problem.loss_and_gradient(point, batch, labels)
    copy = first.clone()
    problem.loss_and_gradient(-point, batch, labels)
    assert torch.equal(first, copy)


@pytest.mark.parametrize(("name", "family", "options"), every(IN_PLACE))
def test_restore_is_bit_by_bit_and_keeps_ties(name, family, options):
    problem, batch, labels, point = problem_of(name, family, options, torch.float32)
    backbone = problem.backbone
    before = origin(backbone)
    problem.loss_and_gradient(point, batch, labels)
    assert any(not torch.equal(p, before[n]) for n, p in backbone.model.named_parameters())
    problem.restore()
    assert all(torch.equal(p, before[n]) for n, p in backbone.model.named_parameters())
    if backbone.lm_head is not None:
        assert backbone.lm_head.weight is backbone.model.get_input_embeddings().weight


@pytest.mark.parametrize(("name", "family", "options"), every(CASES))
def test_every_derivative_is_right_in_float64(name, family, options):
    problem, batch, labels, point = problem_of(name, family, options)
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


@pytest.mark.parametrize("name", list(CASES))
def test_a_specification_is_plain_and_rebuilds_the_change(name):
    problem, batch, _, point = problem_of(name, "bert", CASES[name])
    options = {k: v for k, v in problem.delta.specification().items() if k not in ("delta", "scaling")}
    twin = toy_problem(problem.delta.specification()["delta"], dtype=torch.float64, **options)
    assert torch.equal(twin.logits(point, batch), problem.logits(point, batch))


def test_unknown_delta_names_the_nearest():
    backbone = toy_problem().backbone
    with pytest.raises(ValueError, match="nearest: subspace"):
        make_delta("subspce", backbone, d=3)
