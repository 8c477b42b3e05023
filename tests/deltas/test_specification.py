from __future__ import annotations

import math

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem

from deltatheory.deltas import DELTAS, make_delta
from deltatheory.deltas.diff_pruning import DiffPruning
from deltatheory.deltas.fisher_mask import FisherMask, diagonal_fisher
from deltatheory.deltas.selected import BitFit, LastLayers, LayerNormOnly, Modules, RandomModules
from deltatheory.deltas.subspace import scope_names

H, FFN, LAYERS = 16, 32, 2
D = LAYERS * (4 * (H * H + H) + 2 * H * FFN + FFN + H + 4 * H)  # BERT's blocks


def normal(size, seed=0, dtype=torch.float64):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("bitfit", {}, LAYERS * (5 * H + FFN + 2 * H) + H),
        ("layernorm", {}, LAYERS * 4 * H),
        ("last-layers", {"k": 1}, D // 2),
        ("last-layers", {"k": 2}, D),
        ("modules", {"patterns": ["*.query.*", "*.0.*.query.weight"]}, LAYERS * (H * H + H)),
        ("diff-pruning", {}, 2 * D),
        ("fisher-mask", {"count": 7}, 7),
        ("fisher-mask", {"fraction": 0.01}, round(0.01 * D)),
        ("fisher-mask", {"fraction": 1e-9}, 1),
    ],
)
def test_sizes_are_those_of_the_formulas(name, options, size):
    delta = make_delta(name, tiny("bert"), **options)
    assert delta.size == size
    assert DELTAS[name].family == "specification"
    if hasattr(delta, "matched"):
        assert sum(delta.matched.values()) == size


def test_bitfit_is_affine_and_moves_the_biases_alone():
    """ψ(aδ + (1 − a)ε) = aψ(δ) + (1 − a)ψ(ε); a low-rank change fails the same test."""
    backbone = tiny("bert", dtype=torch.float64)
    delta, a = BitFit(backbone), 0.3

    def gap(delta):
        x, y = normal(delta.size, 0), normal(delta.size, 1)
        mixed, first, second = (delta.parameters(z) for z in (a * x + (1 - a) * y, x, y))
        return max(float((mixed[n] - a * first[n] - (1 - a) * second[n]).abs().max()) for n in mixed)

    assert gap(delta) < 1e-14
    assert gap(make_delta("lora", backbone, r=2)) > 1e-2
    x = normal(delta.size)
    explicit, start = {}, 0
    for name, p in backbone.model.named_parameters():
        if name.endswith(".bias") and not name.startswith("pooler"):
            explicit[name] = p + x[start : start + p.numel()]
            start += p.numel()
    edited = delta.edit(x).parameters
    assert edited.keys() == explicit.keys()
    assert all(torch.equal(edited[n], explicit[n]) for n in explicit)
    problem = toy_problem("bitfit", dtype=torch.float64)
    batch, _ = problem.batch(problem.train, range(3))
    before = problem.backbone.pooled(batch)
    with torch.no_grad():  # the biases written into the model are the same model
        for name, p in problem.backbone.model.named_parameters():
            p.copy_(explicit.get(name, p))
    torch.testing.assert_close(problem.backbone.pooled(batch), backbone.pooled(batch, edited), rtol=0, atol=0)
    assert (problem.backbone.pooled(batch) - before).abs().max() > 1e-2


def test_bitfit_needs_biases():
    with pytest.raises(ValueError, match="backbone='tiny-llama': has no bias; take 'layernorm' or 'lora'"):
        BitFit(tiny("llama"))


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llama", ["input_layernorm.weight", "post_attention_layernorm.weight"]),
        ("gpt2", ["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"]),
    ],
)
def test_normalizations_of_the_blocks_and_none_else(family, names):
    prefix = {"llama": "layers", "gpt2": "h"}[family]
    assert list(LayerNormOnly(tiny(family)).matched) == [f"{prefix}.{i}.{n}" for i in range(2) for n in names]


def test_each_pattern_must_match_and_the_matches_are_counted():
    backbone = tiny("bert")
    delta = Modules(backbone, patterns=["*.1.*.query.*", "embeddings.LayerNorm.bias"])
    query = "encoder.layer.1.attention.self.query"
    assert delta.matched == {
        "embeddings.LayerNorm.bias": H,
        f"{query}.weight": H * H,
        f"{query}.bias": H,
    }
    with pytest.raises(ValueError, match=r"'q_proj\*', which matches none .* \(1 of 2 patterns match none"):
        Modules(backbone, patterns=["*.query.*", "q_proj*"])
    with pytest.raises(ValueError, match="matches none"):  # it would count, and do nothing
        Modules(backbone, patterns=["pooler.*"])
    for patterns in ("*", []):
        with pytest.raises(ValueError, match="give a list of at least one"):
            Modules(backbone, patterns=patterns)


@pytest.mark.parametrize("k", [0, 3])
def test_the_number_of_last_blocks_is_checked(k):
    with pytest.raises(ValueError, match=rf"k={k}: must lie in 1..2"):
        LastLayers(tiny("bert"), k=k)
    assert all(name.startswith("encoder.layer.1.") for name in LastLayers(tiny("bert"), k=1).matched)


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"option 'rank': the delta 'lora' has none .* it takes r, "):
        make_delta("lora", tiny("bert"), rank=3)
    with pytest.raises(ValueError, match=r"'bitfit' has none of that name; it takes no options"):
        make_delta("bitfit", tiny("bert"), r=3)


def test_random_modules_are_drawn_by_their_seed():
    backbone = tiny("bert")
    drawn = [tuple(RandomModules(backbone, share=0.5, seed=seed).matched) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(backbone.model.get_parameter(name).shape) == 2 for name in drawn[0])
    assert len(RandomModules(backbone, share=1e-6).matched) == 1
    assert len(RandomModules(backbone, share=1.0).matched) == 2 * len(drawn[0])


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_of_modules_is_checked(share):
    with pytest.raises(ValueError, match=rf"share={share}: must lie in \(0, 1\]"):
        RandomModules(tiny("bert"), share=share)


def pruned(**options):
    backbone = tiny("bert", dtype=torch.float64)
    delta = DiffPruning(backbone, **options)
    origin = torch.cat([backbone.model.get_parameter(n).flatten() for n in delta.coordinates.shapes])
    return delta, origin, lambda x: delta.coordinates.join(delta.parameters(x))


def test_gates_close_open_and_start_half_way():
    delta, origin, theta = pruned()
    w = normal(D)
    for shift, z in [(-40.0, 0.0), (0.0, 0.5), (40.0, 1.0)]:
        x = torch.cat([w, torch.full_like(w, shift)])
        torch.testing.assert_close(theta(x), origin + z * w, rtol=0, atol=1e-14)
    # without a change there is none, whatever the gates
    assert torch.equal(theta(torch.cat([0 * w, normal(D, 1)])), origin)
    low, high = delta.stretch
    closed = torch.cat([w, torch.full_like(w, math.log(-low / high) - 1e-9)])
    assert torch.equal(theta(closed), origin)
    assert (delta.gate(torch.cat([w, torch.full_like(w, math.log(-low / high) + 1e-6)])) > 0).all()


def test_the_penalty_is_the_expected_number_of_open_gates():
    delta, *_ = pruned(stretch=(-1.5, 1.5), start=0.7)
    x = torch.cat([normal(D), 2 * normal(D, 1)])
    generator = torch.Generator().manual_seed(0)
    draws = [torch.rand(D, generator=generator, dtype=torch.float64) for _ in range(20)]
    opened = torch.stack([(delta.gate(x, u) > 0).double().sum() for u in draws])
    spread = math.sqrt(D / 4 / len(draws))
    assert abs(float(opened.mean() - delta.penalty(x))) < 4 * spread
    # counting the noise-free gates is another number
    assert abs(float((delta.gate(x) > 0).sum() - delta.penalty(x))) > 20 * spread


def test_stretch_and_start_are_checked():
    backbone = tiny("bert")
    for stretch in [(0.0, 1.1), (-0.1, 1.0), (-0.1,)]:
        with pytest.raises(ValueError, match="with l < 0 and u > 1"):
            DiffPruning(backbone, stretch=stretch)
    with pytest.raises(ValueError, match=r"start=-3.0: must be above -2\.398, or every gate is 0"):
        DiffPruning(backbone, start=-3.0)
    with pytest.raises(ValueError, match="scope='some': allowed are blocks, all"):
        DiffPruning(backbone, scope="some")


def test_the_entries_with_large_gradients_are_found():
    """Mean squares: entries that cancel over examples count, and a large sum of small ones does not."""
    planted = torch.tensor([3, 500, 501, D - 1])
    gradients = 0.01 + 0.001 * normal((6, D))
    gradients[:, planted] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    fisher = diagonal_fisher(iter(gradients))
    torch.testing.assert_close(fisher, (gradients**2).mean(0), rtol=1e-12, atol=0)
    backbone = tiny("bert", dtype=torch.float64)
    delta = FisherMask(backbone, count=4, scores=fisher)
    assert torch.equal(delta.indices, planted)
    mutant = FisherMask(backbone, count=4, scores=gradients.mean(0) ** 2)
    assert not set(mutant.indices.tolist()) & set(planted.tolist())
    with pytest.raises(ValueError, match="give at least one"):
        diagonal_fisher([])


def test_scattered_where_the_scores_were():
    backbone = tiny("bert", dtype=torch.float64)
    names = scope_names(backbone, "blocks")
    origin = torch.cat([backbone.model.get_parameter(n).flatten() for n in names])
    scores = normal(D).abs()
    delta = FisherMask(backbone, count=50, scores=scores)
    expected = origin.clone()
    x = normal(50, 1)
    expected[scores.topk(50).indices.sort().values] += x
    theta = {n: backbone.model.get_parameter(n) for n in names} | delta.parameters(x)
    assert torch.equal(torch.cat([theta[n].flatten() for n in names]), expected)
    shapes = {n: backbone.model.get_parameter(n).shape for n in names}
    pieces = torch.split(scores, [math.prod(shape) for shape in shapes.values()])
    mapped = {n: piece.view(shapes[n]) for n, piece in zip(names, pieces, strict=True)}
    assert torch.equal(FisherMask(backbone, count=50, scores=mapped).indices, delta.indices)
    chosen = FisherMask(backbone, **{k: v for k, v in delta.specification().items() if k != "delta"})
    assert torch.equal(chosen.indices, delta.indices)
    largest = FisherMask(backbone, count=50)  # no scores: by magnitude
    assert torch.equal(largest.indices, origin.abs().topk(50).indices.sort().values)


def test_the_gradients_of_full_fine_tuning_lie_in_the_order_of_the_scores():
    problem = toy_problem("full", dtype=torch.float64)
    zero = problem.delta.initial()
    examples = [problem.batch(problem.train, [i]) for i in range(3)]
    fisher = diagonal_fisher(problem.loss_and_gradient(zero, *example)[-1] for example in examples)
    problem.restore()
    delta = FisherMask(problem.backbone, count=1, scores=fisher)
    [(name, changed)] = delta.parameters(torch.ones(1, dtype=torch.float64)).items()
    place = (changed - problem.backbone.model.get_parameter(name)).abs().argmax()
    assert problem.delta.moved.split(fisher)[name].flatten()[place] == fisher.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of the three"),
        ({"count": 3, "fraction": 0.1}, "give exactly one of the three"),
        ({"count": 0}, rf"count=0: must lie in 1..{D}"),
        ({"count": D + 1}, rf"count={D + 1}: must lie in 1..{D}"),
        ({"fraction": 0.0}, r"fraction=0.0: must lie in \(0, 1\]"),
        ({"indices": [0, D]}, rf"lie in 0..{D - 1}"),
        ({"indices": [2, 2]}, "distinct"),
        ({"indices": []}, "at least one"),
        ({"indices": [1], "scores": torch.ones(D)}, "not with indices"),
        ({"count": 3, "scores": torch.ones(D - 1)}, rf"allowed is \({D},\)"),
        ({"count": 3, "scores": torch.full((D,), float("nan"))}, "must be finite"),
        ({"count": 3, "scores": {"wte": torch.ones(1)}}, "'wte', which is no parameter"),
        (
            {"count": 3, "scores": {"encoder.layer.0.output.dense.bias": torch.ones(1)}},
            r"shape=\(1,\): allowed is \(16,\)",
        ),
    ],
)
def test_what_fisher_mask_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        FisherMask(tiny("bert"), **options)
