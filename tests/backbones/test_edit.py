"""Edits of the forward pass: what each field does, alone and joined, whole and cut at the blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny

from deltatheory import autodiff
from deltatheory.backbones import Edit
from deltatheory.backbones.edit import with_prefix

TEXTS = ["a small cat sat", "the dog", "one two three four five six"]
FAMILIES = ("bert", "roberta", "gpt2", "llama")


def prefix(backbone, k: int = 3, seed: int = 0) -> dict:
    """Return an attention edit that puts k keys and values before those of the texts, in every block."""
    generator = torch.Generator().manual_seed(seed)
    config = backbone.model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = config.hidden_size // config.num_attention_heads

    def edit(attend, q, key, value, mask):
        own = torch.randn(2, heads, k, width, generator=generator.manual_seed(seed)).to(key)
        own_k, own_v = (x.expand(len(key), -1, -1, -1) for x in own)
        return attend(q, torch.cat([own_k, key], 2), torch.cat([own_v, value], 2), F.pad(mask, (k, 0)))

    return dict.fromkeys(range(len(backbone.layers)), edit)


def edits(backbone) -> dict[str, Edit]:
    up, out = backbone.module_name(1, "ffn_out"), backbone.module_name(0, "attention_output")
    name = f"{up}.bias" if f"{up}.bias" in dict(backbone.model.named_parameters()) else f"{up}.weight"
    value = backbone.model.get_parameter(name)
    changed = value + 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
    return {
        "parameters": Edit(parameters={name: changed}),
        "inputs": Edit(inputs={up: lambda x: 2 * x}),
        "outputs": Edit(outputs={out: lambda x, y: y + x}),
        "attention": Edit(attention=prefix(backbone)),
        "prompt": Edit(
            prompt=torch.randn(4, backbone.hidden_size, generator=torch.Generator().manual_seed(1))
        ),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_acts_and_leaves_no_trace(family):
    backbone = tiny(family)
    batch = backbone.encode(TEXTS)
    frozen = backbone.hidden_states(batch)
    assert torch.equal(backbone.hidden_states(batch, Edit()), frozen)
    for name, edit in edits(backbone).items():
        edited = backbone.hidden_states(batch, edit)
        assert edited.shape == frozen.shape, name
        assert not torch.allclose(edited, frozen, atol=1e-4), name
        assert torch.equal(backbone.hidden_states(batch), frozen), name


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_at_the_blocks_an_edit_is_the_same(family):
    backbone = tiny(family)
    batch = backbone.encode(TEXTS)
    for name, edit in edits(backbone).items():
        k = 0 if edit.prompt is None else len(edit.prompt)
        long = backbone.prompted(batch, k) if k else batch
        x = backbone.embed(batch, edit)
        for t in range(len(backbone.layers)):
            x = backbone.step(t, x, long, edit)
        whole = backbone.hidden_states(batch, edit)
        torch.testing.assert_close(backbone.readout(x)[:, k:], whole, rtol=0, atol=1e-5, msg=name)


def test_joined_edits_act_one_after_the_other():
    backbone = tiny("bert")
    batch = backbone.encode(TEXTS)
    out = backbone.module_name(0, "ffn_out")
    ramp = torch.linspace(-1, 1, backbone.hidden_size)  # a constant would vanish in the LayerNorm
    double, add = Edit(outputs={out: lambda x, y: 2 * y}), Edit(outputs={out: lambda x, y: y + ramp})
    both = backbone.hidden_states(batch, Edit(outputs={out: lambda x, y: 2 * y + ramp}))
    torch.testing.assert_close(backbone.hidden_states(batch, double.then(add)), both)
    assert not torch.allclose(backbone.hidden_states(batch, add.then(double)), both, atol=1e-3)
    # A prefix after a prefix is the longer prefix; the order of keys does not matter.
    first, second = Edit(attention=prefix(backbone, 2, 1)), Edit(attention=prefix(backbone, 3, 2))
    torch.testing.assert_close(
        backbone.hidden_states(batch, first.then(second)), backbone.hidden_states(batch, second.then(first))
    )
    bias = Edit(parameters={f"{out}.bias": backbone.model.get_parameter(f"{out}.bias")})
    with pytest.raises(ValueError, match=f"both edits set '{out}.bias'"):
        bias.then(bias)


def test_a_shift_moves_absolute_positions():
    backbone = tiny("gpt2")
    batch = backbone.encode(TEXTS)
    moved = backbone.hidden_states(batch, Edit(shift=2))
    table = backbone.model.wpe.weight
    expected = backbone.hidden_states(batch, {"wpe.weight": table.roll(-2, 0)})
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_have_derivatives_in_both_modes(family):
    backbone = tiny(family)
    batch = backbone.encode(TEXTS[:2])
    out = backbone.module_name(1, "attention_output")

    def f(x):
        heads = backbone.model.config.num_attention_heads
        groups = getattr(backbone.model.config, "num_key_value_heads", heads)

        def gated(attend, q, k, v, mask):
            own = x[:32].view(1, 1, 1, -1)[..., : k.shape[-1]].expand(len(k), groups, 1, -1)
            return attend(q, k, v, mask) + x[0] * attend(q, own, own, torch.zeros_like(mask[..., :1]))

        edit = Edit(outputs={out: lambda h, y: y + h * x[1]}, attention={0: gated}, prompt=x.view(2, -1))
        return backbone.pooled(batch, edit)

    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 2 * backbone.hidden_size, generator=generator)
    value, tangent = autodiff.jvp(f, x, v)
    _, pull = autodiff.vjp(f, x)
    w = torch.randn(value.shape, generator=generator)
    torch.testing.assert_close((tangent * w).sum(), (pull(w) * v).sum(), rtol=1e-3, atol=1e-4)


def test_what_is_not_there_is_named():
    backbone = tiny("gpt2")
    batch = backbone.encode(TEXTS)
    with pytest.raises(ValueError, match=r"'h\.7\.mlp'"):
        backbone.hidden_states(batch, Edit(inputs={"h.7.mlp": lambda x: x}))
    with pytest.raises(ValueError, match="part='query'"):
        backbone.module_name(0, "query")
    long = Edit(prompt=torch.zeros(backbone.max_length, backbone.hidden_size))
    with pytest.raises(ValueError, match="at most"):
        backbone.hidden_states(batch, long)


def test_attention_with_a_prefix_is_softmax_over_both_and_each_text_may_have_its_own():
    def attend(q, k, v, mask):
        return ((q @ k.transpose(2, 3) + mask).softmax(-1) @ v).transpose(1, 2)

    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 4, 5, generator=generator, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 2, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.full((4, 4), float("-inf")).triu(1).double().expand(2, 1, 4, 4)
    found = with_prefix(keys, values)(attend, q, k, v, mask)
    for b in range(2):
        alone = with_prefix(keys[b], values[b])(attend, q[b : b + 1], k[b : b + 1], v[b : b + 1], mask[:1])
        torch.testing.assert_close(found[b], alone[0])
        for h in range(2):  # the last token of a causal text sees all of both
            weights = torch.cat([keys[b, h], k[b, h]]) @ q[b, h, -1]
            expected = weights.softmax(0) @ torch.cat([values[b, h], v[b, h]])
            torch.testing.assert_close(found[b, -1, h], expected)
