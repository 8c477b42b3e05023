from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem

from deltatheory import autodiff
from deltatheory.backbones import Edit
from deltatheory.deltas import BitFit, Combined, Delta, LoRA, make_delta
from deltatheory.deltas.unified_subspace import fit_unified_subspace

PARTS = [("lora", {"r": 2, "seed": 3}), ("modules", {"patterns": ["*.query.*"]}), ("bitfit", {})]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Louder(Delta):
    """Bends the output of one module; two of them do not commute."""

    name, family, formula, acts, affine = "louder", "addition", "y + δy²", "outputs", True
    size = 1

    def edit(self, delta):
        module = self.backbone.module_name(0, "ffn_out")
        return Edit(outputs={module: lambda x, y: y + delta * y**2})

    def specification(self):
        return {"delta": self.name}


def test_changes_of_one_parameter_are_added():
    backbone = tiny("bert", dtype=torch.float64)
    combined = make_delta("combined", backbone, deltas=PARTS)
    singles = [make_delta(name, backbone, **options) for name, options in PARTS]
    assert combined.size == sum(single.size for single in singles)
    x = normal(combined.size)
    expected = {}
    for single, piece in zip(singles, combined.split(x), strict=True):
        for name, p in single.parameters(piece).items():
            change = p - backbone.model.get_parameter(name)
            expected[name] = expected.get(name, backbone.model.get_parameter(name)) + change
    torch.testing.assert_close(combined.parameters(x), expected, rtol=0, atol=1e-14)
    shared = "encoder.layer.0.attention.self.query.weight"
    for single, piece in zip(singles[:2], combined.split(x), strict=False):
        assert (combined.parameters(x)[shared] - single.parameters(piece)[shared]).abs().max() > 1e-2


def test_edits_outside_the_parameters_act_one_after_the_other():
    problem = toy_problem("lora", dtype=torch.float64)
    backbone = problem.backbone
    batch, _ = problem.batch(problem.train, range(3))
    first, second, lora = Louder(backbone), Louder(backbone), LoRA(backbone, r=1)
    combined = Combined(backbone, deltas=[first, lora, second])
    x = torch.cat([torch.tensor([0.5]), 0.1 * normal(lora.size), torch.tensor([-0.25])]).double()
    a, z, b = combined.split(x)
    module = backbone.module_name(0, "ffn_out")

    def by_hand(a, b):
        both = Edit(
            lora.parameters(z), outputs={module: lambda _, y: (y + a * y**2) + b * (y + a * y**2) ** 2}
        )
        return backbone.pooled(batch, both)

    got = backbone.pooled(batch, combined.edit(x))
    torch.testing.assert_close(got, by_hand(a, b), rtol=0, atol=1e-12)
    assert (got - by_hand(b, a)).abs().max() > 1e-3


def test_combinations_nest():
    backbone = tiny("bert", dtype=torch.float64)
    flat = make_delta("combined", backbone, deltas=PARTS)
    nested = make_delta("combined", backbone, deltas=[("combined", {"deltas": PARTS[:2]}), PARTS[2]])
    x = normal(flat.size)
    torch.testing.assert_close(nested.parameters(x), flat.parameters(x), rtol=0, atol=1e-14)
    options = nested.specification()
    assert options.pop("delta") == "combined"
    torch.testing.assert_close(
        make_delta("combined", backbone, **options).parameters(x), nested.parameters(x)
    )


def test_stages_train_one_delta_on_what_the_earlier_ones_left():
    problem = toy_problem("combined", dtype=torch.float64, deltas=PARTS)
    combined = problem.delta
    batch, labels = problem.batch(problem.train, range(5))
    x = 0.2 * normal(combined.size)
    first, second, third = combined.split(x)
    stage = combined.stage(1, [first])
    assert (stage.size, stage.specification()["i"]) == (second.numel(), 1)

    def loss_at(edit):
        logits = problem.head(problem.backbone.pooled(batch, edit))
        return torch.nn.functional.cross_entropy(logits, labels)

    # the later ones are off, and the earlier stay where they were trained
    whole = torch.cat([first, second, 0 * third])
    torch.testing.assert_close(loss_at(stage.edit(second)), loss_at(combined.edit(whole)), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        loss_at(stage.edit(stage.initial())), loss_at(combined.deltas[0].edit(first)), rtol=0, atol=1e-14
    )
    gradient = autodiff.grad(lambda y: loss_at(stage.edit(y)), second)
    simultaneous = combined.split(autodiff.grad(lambda y: loss_at(combined.edit(y)), whole))
    torch.testing.assert_close(gradient, simultaneous[1], rtol=0, atol=1e-14)
    assert (gradient - combined.split(autodiff.grad(lambda y: loss_at(combined.edit(y)), x))[1]).norm() > 1e-6
    last = combined.stage(2, [first, second])
    assert torch.equal(loss_at(last.edit(third)), loss_at(combined.edit(x)))
    torch.testing.assert_close(
        combined.stage(0, []).parameters(first), combined.deltas[0].parameters(first), rtol=0, atol=0
    )


def test_what_combined_refuses():
    backbone = tiny("bert")
    combined = make_delta("combined", backbone, deltas=PARTS)
    with pytest.raises(ValueError, match="give at least one"):
        Combined(backbone, deltas=[])
    with pytest.raises(ValueError, match=r"deltas\[1\]: 'bitfit' is on another backbone"):
        make_delta("combined", backbone, deltas=[PARTS[0], BitFit(tiny("bert"))])
    with pytest.raises(ValueError, match=r"give a delta, or \(name, options\)"):
        make_delta("combined", backbone, deltas=[["lora", 2]])
    with pytest.raises(ValueError, match="nearest: bitfit"):
        make_delta("combined", backbone, deltas=[("bitfitt", {})])
    with pytest.raises(ValueError, match=r"i=3: must lie in 0..2"):
        combined.stage(3, [])
    with pytest.raises(ValueError, match=r"fixed: has sizes \[\]; stage 1 needs \[256\]"):
        combined.stage(1, [])


def test_one_vector_moves_all_by_orthonormal_bases():
    backbone = tiny("bert", dtype=torch.float64)
    unified = make_delta("unified-subspace", backbone, deltas=PARTS, d=5, seed=2)
    combined = unified.combined
    assert unified.size == 5
    z = normal(5)
    start = 0
    for part in combined.deltas:
        basis = unified.basis[start : start + part.size]
        torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
        start += part.size
    pieces = [unified.basis[:256] @ z, unified.basis[256 : 256 + 544] @ z, unified.basis[800:] @ z]
    torch.testing.assert_close(unified.parameters(z), combined.parameters(torch.cat(pieces)))
    other = make_delta("unified-subspace", backbone, deltas=PARTS, d=5, seed=3).parameters(z)
    name = "encoder.layer.0.attention.self.query.weight"
    assert (other[name] - unified.parameters(z)[name]).abs().max() > 1e-3


def test_fitted_bases_give_each_solution_from_one_z():
    """Exact for solutions of rank d; by Eckart and Young the error beyond is the rest of the spectrum."""
    z = normal(6, 2)
    solutions = [100 * z @ normal(2, 9, seed=1), 0.01 * z @ normal(2, 13, seed=2)]
    bases = fit_unified_subspace(solutions, 2)
    assert [tuple(b.shape) for b in bases] == [(9, 2), (13, 2)]
    # z read from the first method alone gives the second method's solution
    codes = torch.linalg.lstsq(bases[0], solutions[0].T).solution
    torch.testing.assert_close((bases[1] @ codes).T, solutions[1], rtol=0, atol=1e-12)
    wrong = torch.linalg.lstsq(bases[0], solutions[0].roll(1, 0).T).solution
    assert ((bases[1] @ wrong).T - solutions[1]).norm() > 0.1 * solutions[1].norm()

    noisy = [s + s.square().mean().sqrt() * normal(*s.shape, seed=7 + i) for i, s in enumerate(solutions)]
    scales = [s.square().mean().sqrt() for s in noisy]
    stacked = torch.cat([s / scale for s, scale in zip(noisy, scales, strict=True)], 1)
    basis = torch.cat([b / scale for b, scale in zip(fit_unified_subspace(noisy, 2), scales, strict=True)])
    rest = torch.linalg.eigvalsh(stacked @ stacked.T)[:-2].sum()
    torch.testing.assert_close((stacked - stacked @ basis @ basis.T).square().sum(), rest)

    backbone = tiny("bert", dtype=torch.float64)
    parts = [("bitfit", {}), ("layernorm", {})]
    sizes = [part.size for part in make_delta("combined", backbone, deltas=parts).deltas]
    trained = [normal(3, m, seed=i) for i, m in enumerate(sizes)]
    unified = make_delta(
        "unified-subspace", backbone, deltas=parts, d=3, bases=fit_unified_subspace(trained, 3)
    )
    code = torch.linalg.lstsq(unified.basis, torch.cat(trained, 1).T).solution[:, 0]
    expected = unified.combined.parameters(torch.cat([s[0] for s in trained]))
    torch.testing.assert_close(unified.parameters(code), expected, rtol=0, atol=1e-11)
    assert unified.specification()["bases"] == "given"


def test_what_the_unified_subspace_refuses():
    backbone = tiny("bert")
    with pytest.raises(ValueError, match=r"d=257: must lie in 1..256, the size of the smallest"):
        make_delta("unified-subspace", backbone, deltas=PARTS, d=257)
    with pytest.raises(ValueError, match=r"bases: have shapes \[\(3, 2\)\]; allowed are \[\(304, 2\)\]"):
        make_delta("unified-subspace", backbone, deltas=PARTS[2:], d=2, bases=[torch.ones(3, 2)])
    with pytest.raises(ValueError, match=r"have \[2, 3\] rows"):
        fit_unified_subspace([torch.ones(2, 4), torch.ones(3, 4)], 1)
    with pytest.raises(ValueError, match="have"):
        fit_unified_subspace([], 1)
    with pytest.raises(ValueError, match="one of them is 0"):
        fit_unified_subspace([torch.ones(2, 4), torch.zeros(2, 4)], 1)
    with pytest.raises(ValueError, match=r"d=3: must lie in 1..2"):
        fit_unified_subspace([torch.ones(2, 4)], 3)


def test_zero_is_as_exact_as_that_of_the_parts():
    backbone = tiny("bert")
    raw = [PARTS[0], ("prompt", {"length": 2})]
    assert make_delta("combined", backbone, deltas=PARTS).exact_zero
    assert make_delta("unified-subspace", backbone, deltas=PARTS, d=2).exact_zero
    assert not make_delta("combined", backbone, deltas=raw).exact_zero
    assert not make_delta("unified-subspace", backbone, deltas=raw, d=2).exact_zero


def test_prefixes_side_by_side_add_up():
    """What the first adds to attention does not come again in the term of the second."""
    backbone = tiny("bert", dtype=torch.float64)
    batch = backbone.encode(["a b c", "d e"])
    parts = [make_delta("prefix", backbone, length=k, gate="values", seed=k) for k in (2, 3)]
    joined = make_delta("combined", backbone, deltas=parts)
    steps = [1e-4 * torch.randn(p.size, dtype=torch.float64) for p in parts]
    origin = backbone.hidden_states(batch)
    alone = [backbone.hidden_states(batch, p.edit(d)) - origin for p, d in zip(parts, steps, strict=True)]
    both = backbone.hidden_states(batch, joined.edit(torch.cat(steps))) - origin
    torch.testing.assert_close(both, sum(alone), rtol=1e-2, atol=1e-9)
