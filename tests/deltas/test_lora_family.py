from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem

from deltatheory import autodiff
from deltatheory.deltas import LoRA, UniLoRA, VeRA
from deltatheory.deltas.targets import matrix_shape
from deltatheory.projections import make_projection

QUERY = "layer.0.attention.self.query"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_merged_weights_are_a_side_path_of_every_target():
    """T27: (W₀ + sBA)x = W₀x + sB(Ax), here by adding the side path to the outputs of the frozen model."""
    problem = toy_problem("lora", dtype=torch.float64, r=2, alpha=3.0, targets=["query", "output.dense"])
    delta, backbone = problem.delta, problem.backbone
    batch, _ = problem.batch(problem.train, range(3))
    x = 0.3 * normal(delta.size)
    pieces = delta.coordinates.split(x)
    start = {name: a0 for name, _, a0, _ in delta._factors}

    def with_side_path(scale):
        hooks = [
            backbone.model.get_submodule(name).register_forward_hook(
                lambda _, args, y, name=name: (
                    y + scale * args[0] @ (start[name] + pieces[f"{name}.A"]).T @ pieces[f"{name}.B"].T
                )
            )
            for name in delta.targets
        ]
        try:
            return backbone.pooled(batch)
        finally:
            for hook in hooks:
                hook.remove()

    merged = backbone.pooled(batch, delta.edit(x))
    torch.testing.assert_close(merged, with_side_path(3.0 / 2), rtol=0, atol=1e-12)
    assert (merged - with_side_path(1.0)).abs().max() > 1e-3


def test_the_gauge():
    """T28: (BG, G⁻¹A) are the same weights; another pair is not."""
    backbone = tiny("bert", dtype=torch.float64)
    delta = LoRA(backbone, r=3, targets=[QUERY])
    [(name, _, start, _)] = delta._factors
    b, a = normal(16, 3), normal(3, 16, seed=1)
    g = normal(3, 3, seed=2) + 2 * torch.eye(3)

    def weight(b, a):
        point = delta.coordinates.join({f"{name}.A": a - start, f"{name}.B": b})
        return delta.parameters(point)[f"{name}.weight"]

    torch.testing.assert_close(weight(b @ g, torch.linalg.solve(g, a)), weight(b, a), rtol=0, atol=1e-12)
    assert (weight(b @ g, g.T @ a) - weight(b, a)).abs().max() > 1e-2


@pytest.mark.parametrize(("rows", "columns", "target"), [(16, 16, QUERY), (32, 16, "0.intermediate.dense")])
@pytest.mark.parametrize("r", [1, 3])
def test_the_rank_of_the_jacobian(rows, columns, target, r):
    """T28: r(m + n − r) where B and A have full rank, r·m at B = 0."""
    delta = LoRA(tiny("bert", dtype=torch.float64), r=r, targets=[target])
    [name] = delta.targets

    def flat(x):
        return delta.parameters(x)[f"{name}.weight"].flatten()

    def rank(point):
        rows = torch.cat(list(autodiff.jacobian_rows(flat, point, chunk=64)))
        return int(torch.linalg.matrix_rank(rows))

    assert rank(normal(delta.size)) == r * (rows + columns - r) < delta.size == r * (rows + columns)
    assert rank(delta.initial()) == r * rows


def test_the_first_step():
    """T29: from B = 0, one step of gradient descent gives ΔW = −η s² G A₀ᵀA₀."""
    problem = toy_problem("lora", dtype=torch.float64, r=2, alpha=5.0, targets=[QUERY])
    delta, rate, s = problem.delta, 0.1, 5.0 / 2
    batch, labels = problem.batch(problem.train, range(6))
    zero = delta.initial()
    *_, gradient = problem.loss_and_gradient(zero, batch, labels)
    [(name, w0, a0, _)] = delta._factors
    stepped = delta.parameters(zero - rate * gradient)[f"{name}.weight"] - w0

    full = toy_problem("modules", dtype=torch.float64, patterns=[f"{name}.weight"])
    *_, g = full.loss_and_gradient(full.delta.initial(), batch, labels)
    g = g.view(16, 16)
    expected = -rate * s**2 * g @ a0.T @ a0
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-15)
    assert expected.norm() > 1e-4
    assert (stepped - expected / s).norm() > 0.1 * expected.norm()


def test_ranks_by_pattern_are_those_of_peft():
    peft = pytest.importorskip("peft")
    backbone = tiny("bert", dtype=torch.float64)
    pattern = {r"layer\.1\..*query": 3, "query": 1}
    delta = LoRA(backbone, r=2, alpha=6.0, rank_pattern=pattern)
    query, value = (f"encoder.layer.{{}}.attention.self.{x}" for x in ("query", "value"))
    assert delta.ranks == {query.format(0): 1, value.format(0): 2, query.format(1): 3, value.format(1): 2}
    assert delta.size == (1 + 2 + 3 + 2) * (16 + 16)

    config = peft.LoraConfig(r=2, lora_alpha=6.0, rank_pattern=pattern, target_modules=["query", "value"])
    model = peft.get_peft_model(tiny("bert", dtype=torch.float64).model, config)
    pieces = delta.coordinates.split(normal(delta.size))
    weights = {}
    for name, w0, a0, _ in delta._factors:
        layer = model.base_model.model.get_submodule(name)
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(a0 + pieces[f"{name}.A"])
            layer.lora_B["default"].weight.copy_(pieces[f"{name}.B"])
        weights[f"{name}.weight"] = w0 + layer.get_delta_weight("default")
    torch.testing.assert_close(delta.parameters(normal(delta.size)), weights, rtol=0, atol=1e-13)


def test_a_rank_pattern_must_match_and_fit():
    with pytest.raises(ValueError, match=r"'key', which matches none of the 4 targets, .*1 of 2 patterns"):
        LoRA(tiny("bert"), rank_pattern={"query": 1, "key": 2})
    with pytest.raises(ValueError, match=r"'quer', which matches none"):  # ends of names, not parts of them
        LoRA(tiny("bert"), rank_pattern={"quer": 1})
    with pytest.raises(ValueError, match=r"r=17: must lie in 1..16"):
        LoRA(tiny("bert"), rank_pattern={"query": 17})


def test_unilora_gathers_one_coordinate_an_entry():
    backbone = tiny("bert", dtype=torch.float64)
    d = 7
    delta = UniLoRA(backbone, d=d, r=2, alpha=3.0, seed=5)
    lora = LoRA(backbone, r=2, alpha=3.0, seed=5)
    D = 2 * 2 * 2 * (16 + 16)
    assert (delta.size, delta.lora.size) == (d, D)
    projection = make_projection("hashed-plain", d, D, seed=5)
    P = torch.stack([projection.apply(e) for e in torch.eye(d, dtype=torch.float64)], 1)
    index, values = P.abs().argmax(1), P.abs().max(1).values
    assert torch.equal((P != 0).sum(1), torch.ones(D, dtype=torch.long))
    counts = torch.bincount(index, minlength=d)
    torch.testing.assert_close(values, counts[index].double().rsqrt(), rtol=1e-12, atol=0)
    z = normal(d)
    gathered = P.gather(1, index[:, None])[:, 0] * z[index]
    torch.testing.assert_close(delta.parameters(z), lora.parameters(gathered), rtol=0, atol=1e-14)
    name = f"{lora.targets[0]}.weight"
    mutant = lora.parameters(gathered.roll(1))[name]
    assert (mutant - delta.parameters(z)[name]).abs().max() > 1e-2


@pytest.mark.parametrize("d", [0, 257])
def test_the_dimension_of_unilora_is_checked(d):
    with pytest.raises(ValueError, match=f"d={d}"):
        UniLoRA(tiny("bert"), d=d, r=2)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_vera_takes_slices_of_shared_factors(family):
    targets = {"bert": ["query", "intermediate.dense"], "gpt2": ["c_attn", "mlp.c_proj"]}[family]
    backbone = tiny(family, dtype=torch.float64)
    delta = VeRA(backbone, r=20, targets=targets, start=0.3)
    shapes = {n: matrix_shape(backbone.model.get_submodule(n)) for n in delta.targets}
    assert delta.size == sum(20 + out for out, *_ in shapes.values())
    assert delta.A.shape == (20, max(columns for _, columns, _ in shapes.values()))
    assert delta.B.shape == (max(rows for rows, *_ in shapes.values()), 20)
    x, start = normal(delta.size), 0
    changed = delta.parameters(x)
    for name, (rows, columns, transposed) in shapes.items():
        s, b = 0.3 + x[start : start + 20], x[start + 20 : start + 20 + rows]
        start += 20 + rows
        change = torch.diag(b) @ delta.B[:rows] @ torch.diag(s) @ delta.A[:, :columns]
        weight = backbone.model.get_parameter(f"{name}.weight") + (change.T if transposed else change)
        torch.testing.assert_close(changed[f"{name}.weight"], weight, rtol=0, atol=1e-13)
        mutant = torch.diag(b) @ delta.B[-rows:] @ torch.diag(s) @ delta.A[:, -columns:]
        if (rows, columns) != (delta.B.shape[0], delta.A.shape[1]):
            assert (mutant - change).abs().max() > 1e-2


def test_bad_vera():
    with pytest.raises(ValueError, match="r=0: must be at least 1"):
        VeRA(tiny("bert"), r=0)
    with pytest.raises(ValueError, match="start=0: must not be 0"):
        VeRA(tiny("bert"), start=0.0)
    with pytest.raises(ValueError, match="matches no linear module"):
        VeRA(tiny("bert"), targets=["q_proj"])
