"""Adapters behind, beside and of Kronecker products: their formulas, counts and places."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny

from deltatheory import autodiff
from deltatheory.backbones import Edit
from deltatheory.deltas import make_delta
from deltatheory.deltas.bottleneck import ACTIVATIONS

TEXTS = ["a b c d", "e f", "g h i"]
FAMILIES = ["bert", "roberta", "gpt2", "llama"]
H, BLOCKS = 16, 2
COUNTS = [
    ("adapter", {"bottleneck": 3}, BLOCKS * 2 * (2 * 3 * H + 3 + H)),
    ("adapter", {"bottleneck": 3, "placement": "ffn"}, BLOCKS * (2 * 3 * H + 3 + H)),
    ("adapter", {"bottleneck": 3, "drop": 1}, (BLOCKS - 1) * 2 * (2 * 3 * H + 3 + H)),
    ("parallel-adapter", {"bottleneck": 3}, BLOCKS * 2 * 3 * H),
    ("parallel-adapter", {"bottleneck": 3, "placement": "both"}, BLOCKS * 2 * 2 * 3 * H),
    # 4L(k + d) + n³ at rank 1 (Karimi Mahabadi et al. 2021), and the biases, which that count leaves out.
    ("compacter", {"n": 2, "bottleneck": 4}, 4 * BLOCKS * (4 + H) + 2**3 + 2 * BLOCKS * (4 + H)),
]


def made(name, family="bert", **options):
    backbone = tiny(family, dtype=torch.float64)
    delta = make_delta(name, backbone, **options)
    generator = torch.Generator().manual_seed(3)
    point = 0.2 * torch.randn(delta.size, generator=generator, dtype=torch.float64)
    return backbone, delta, point, backbone.encode(TEXTS)


def states(backbone, batch, edit):
    """Return x_0, ..., x_T of one whole pass."""
    x = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _m, args, kw: x.append((args or [kw["hidden_states"]])[0]), with_kwargs=True
        )
        for layer in backbone.layers
    ]
    last = backbone.hidden_states(batch, edit)
    for hook in hooks:
        hook.remove()
    return [*x, last]


def seen(backbone, name, batch):
    """Return input and output of one module in the frozen pass."""
    held = []
    hook = backbone.model.get_submodule(name).register_forward_hook(
        lambda _m, args, kw, out: held.append((args[0] if args else kw["hidden_states"], out)),
        with_kwargs=True,
    )
    backbone.hidden_states(batch)
    hook.remove()
    return held[0]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS)
def test_the_count_is_the_published_one(name, options, count):
    _, delta, _, _ = made(name, **options)
    assert delta.size == count


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["adapter", "parallel-adapter", "compacter"])
def test_every_family_and_the_same_map_cut_at_the_blocks(name, family):
    options = {"placement": "both"} if name == "parallel-adapter" else {}
    backbone, delta, point, batch = made(name, family, **options)
    edit = delta.edit(point)
    whole = backbone.hidden_states(batch, edit)
    assert (whole - backbone.hidden_states(batch)).abs().max() > 1e-2
    x = backbone.embed(batch, edit)
    for t in range(BLOCKS):
        x = backbone.step(t, x, batch, edit)
    torch.testing.assert_close(backbone.readout(x), whole, rtol=0, atol=1e-6)
    # The second pass of one edit is the first again: nothing is left over in it.
    assert torch.equal(backbone.hidden_states(batch, edit), whole)


@pytest.mark.parametrize("name", ["adapter", "parallel-adapter", "compacter"])
def test_without_an_output_the_adapter_is_the_identity(name):
    """Only U and b_u (and of Compacter s of U) must be 0: all else may be anything."""
    backbone, delta, point, batch = made(name)
    pieces = delta.coordinates.split(point)
    off = {n: torch.zeros_like(x) if ".U" in n or n.endswith("b_u") else x for n, x in pieces.items()}
    kept = {n: torch.zeros_like(x) if ".D" in n or n.endswith("b_d") else x for n, x in pieces.items()}
    if name == "compacter":
        off = {n: pieces[n] if n.endswith("U.t") else x for n, x in off.items()}
    frozen = backbone.hidden_states(batch)
    assert torch.equal(backbone.hidden_states(batch, delta.edit(delta.coordinates.join(off))), frozen)
    other = backbone.hidden_states(batch, delta.edit(delta.coordinates.join(kept)))
    assert (other - frozen).abs().max() > 1e-3


@pytest.mark.parametrize(("activation", "sigma"), [("gelu", F.gelu), ("relu", F.relu), ("tanh", torch.tanh)])
def test_the_serial_adapter_is_its_formula(activation, sigma):
    backbone, delta, point, batch = made("adapter", bottleneck=3, activation=activation, seed=5)
    name = backbone.module_name(0, "attention_output")
    pieces = {
        n.removeprefix(f"{name}."): x for n, x in delta.coordinates.split(point).items() if n.startswith(name)
    }
    d0 = torch.randn(3, H, generator=torch.Generator().manual_seed(5)).double() / 4
    x, h = seen(backbone, name, batch)
    inner = sigma(h @ (d0 + pieces["D"]).T + pieces["b_d"])
    expected = h + inner @ pieces["U"].T + pieces["b_u"]
    torch.testing.assert_close(delta.edit(point).outputs[name](x, h), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("placement", "entry", "end"),
    [("ffn", "ffn_in", "ffn_out"), ("attention", None, "attention_output")],
)
def test_the_parallel_adapter_reads_the_input(family, placement, entry, end):
    options = {"placement": placement, "scale": 0.5, "bottleneck": 3, "seed": 5, "activation": "tanh"}
    backbone, delta, point, batch = made("parallel-adapter", family, **options)
    x_names = {m: n for n, m in backbone.model.named_modules()}
    into = backbone.module_name(0, entry) if entry else x_names[backbone.attention_modules[0]]
    out = backbone.module_name(0, end)
    x, _ = seen(backbone, into, batch)
    _, y = seen(backbone, out, batch)
    pieces = delta.coordinates.split(point)
    d0 = torch.randn(3, H, generator=torch.Generator().manual_seed(5)).double() / 4
    added = 0.5 * torch.tanh(x @ (d0 + pieces[f"{out}.D"]).T) @ pieces[f"{out}.U"].T
    first = backbone.step(0, backbone.embed(batch), batch, delta.edit(point))
    by_hand = Edit(outputs={out: lambda _, seen_y: seen_y + added})
    torch.testing.assert_close(
        first, backbone.step(0, backbone.embed(batch), batch, by_hand), rtol=0, atol=1e-6
    )
    # What comes from the output instead (a serial adapter) is something else.
    behind = 0.5 * torch.tanh(y @ (d0 + pieces[f"{out}.D"]).T) @ pieces[f"{out}.U"].T
    serial = backbone.step(0, backbone.embed(batch), batch, Edit(outputs={out: lambda _, s: s + behind}))
    assert (first - serial).abs().max() > 1e-3


def test_a_parallel_adapter_passes_vmap_and_holds_nothing():
    backbone, delta, point, batch = made("parallel-adapter", placement="both", bottleneck=2)

    def pooled(x):
        return backbone.pooled(batch, delta.edit(x))

    rows = torch.cat(list(autodiff.jacobian_rows(pooled, point, chunk=3)))
    v = torch.randn(point.shape, generator=torch.Generator().manual_seed(0), dtype=point.dtype)
    _, tangent = autodiff.jvp(pooled, point, v)
    torch.testing.assert_close((rows @ v).view_as(tangent), tangent, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropped_blocks_are_left_bit_by_bit(family):
    backbone, delta, point, batch = made("adapter", family, drop=1)
    frozen, edited = states(backbone, batch, Edit()), states(backbone, batch, delta.edit(point))
    assert torch.equal(edited[1], frozen[1])
    assert not torch.allclose(edited[2], frozen[2], atol=1e-3)
    backbone, full, point, _ = made("adapter", family)
    assert not torch.allclose(states(backbone, batch, full.edit(point))[1], frozen[1], atol=1e-3)


def residual_of_the_linear_fit(activation):
    """Return what the best affine map h ↦ Mh + c leaves of an adapter's effect, relative to the effect."""
    _, delta, point, _ = made("adapter", bottleneck=4, activation=activation)
    name = delta.places[0]
    h = torch.randn(200, H, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    effect = delta.edit(5 * point).outputs[name](h, h) - h
    design = torch.cat([h, torch.ones(200, 1, dtype=torch.float64)], 1)
    left = effect - design @ torch.linalg.lstsq(design, effect).solution
    return float(left.norm() / (effect - effect.mean(0)).norm())


@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
def test_no_linear_map_merges_a_nonlinear_adapter(activation, monkeypatch):
    assert residual_of_the_linear_fit(activation) > 0.1
    monkeypatch.setitem(ACTIVATIONS, activation, lambda x: x)
    assert residual_of_the_linear_fit(activation) < 1e-10


def test_compacter_is_a_sum_of_kronecker_products_with_one_a():
    _, delta, point, _ = made("compacter", n=2, bottleneck=4, rank=3)
    factors = delta.factors(point)
    assert [n for n in factors if n.endswith("A")] == ["A"]
    matrices = delta.matrices(point)
    assert len(matrices) == 2 * BLOCKS
    for name, pair in matrices.items():
        for which, matrix in zip("DU", pair, strict=True):
            s, t = factors[f"{name}.{which}.s"], factors[f"{name}.{which}.t"]
            expected = sum(torch.kron(factors["A"][i], s[i] @ t[i].T) for i in range(2))
            torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)
        assert pair[0].shape == (4, H)
        assert pair[1].shape == (H, 4)
    # A step in A alone moves every matrix of every block.
    moved = {n: x + 1 if n == "A" else x for n, x in delta.coordinates.split(point).items()}
    for name, pair in delta.matrices(delta.coordinates.join(moved)).items():
        assert all(not torch.allclose(new, old) for new, old in zip(pair, matrices[name], strict=True))


@pytest.mark.parametrize("name", ["adapter", "parallel-adapter", "compacter"])
def test_the_seed_is_of_the_random_starts(name):
    backbone, delta, point, batch = made(name, seed=1)
    other = make_delta(name, backbone, seed=2)
    at = backbone.hidden_states(batch, delta.edit(point))
    assert not torch.allclose(backbone.hidden_states(batch, other.edit(point)), at, atol=1e-4)
    again = make_delta(name, backbone, seed=1)
    assert torch.equal(backbone.hidden_states(batch, again.edit(point)), at)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adapter", {"bottleneck": 0}, "bottleneck=0: must be at least 1"),
        ("adapter", {"drop": 2}, r"drop=2: must lie in 0..1; 'tiny-bert' has 2 blocks"),
        ("adapter", {"drop": -1}, "drop=-1"),
        ("adapter", {"placement": "mlp"}, "placement='mlp': allowed are both, attention, ffn"),
        ("adapter", {"activation": "sine"}, "activation='sine': allowed are gelu, relu, tanh"),
        ("parallel-adapter", {"bottleneck": 0}, "bottleneck=0"),
        ("parallel-adapter", {"placement": "mlp"}, "placement='mlp'"),
        ("parallel-adapter", {"activation": "sine"}, "activation='sine'"),
        ("parallel-adapter", {"scale": 0.0}, "scale=0: must not be 0"),
        ("compacter", {"n": 3, "bottleneck": 6}, "n=3: must divide bottleneck=6 and the hidden size 16"),
        ("compacter", {"n": 4, "bottleneck": 6}, "n=4: must divide bottleneck=6"),
        ("compacter", {"n": 0}, "n=0: must be at least 1"),
        ("compacter", {"rank": 0}, "rank=0: must be at least 1"),
    ],
)
def test_bad_input_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_delta(name, tiny("bert"), **options)
