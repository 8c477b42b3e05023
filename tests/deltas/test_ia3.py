"""(IA)³ against merged weights, in maps of their own and in fused ones."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny

from deltatheory.backbones import Edit
from deltatheory.deltas.ia3 import IA3

TEXTS = ["a b c d", "e f", "g h i"]
FAMILIES = ["bert", "roberta", "gpt2", "llama", "qwen3", "gpt_neox", "opt"]
HEADS, H = 2, 16


def made(family):
    backbone = tiny(family, dtype=torch.float64)
    delta = IA3(backbone)
    generator = torch.Generator().manual_seed(3)
    point = 0.3 * torch.randn(delta.size, generator=generator, dtype=torch.float64)
    return backbone, delta, point


def rows_of(family, t, which, i):
    """Return the parameter prefix and the output row of coordinate i of a block's keys or values."""
    offset = {"query": 0, "key": 1, "value": 2}[which]
    if family == "gpt2":
        return f"h.{t}.attn.c_attn", offset * H + i
    if family == "gpt_neox":
        head, inside = divmod(i, H // HEADS)
        return f"layers.{t}.attention.query_key_value", (3 * head + offset) * (H // HEADS) + inside
    return None, i


def merged(backbone, family, pieces):
    """Return the weights and biases that (IA)³ amounts to, written row by row and column by column."""
    new = {n: p.detach().clone() for n, p in backbone.model.named_parameters()}
    for name, x in pieces.items():
        t, which = name.split(".")
        for i, l in enumerate(1 + x):
            if which == "ffn":
                weight = new[backbone.module_name(int(t), "ffn_out") + ".weight"]
                (weight.T if family == "gpt2" else weight)[:, i] *= l
                continue
            prefix, row = rows_of(family, t, which, i)
            prefix = prefix or backbone.module_name(int(t), which)
            weight = new[f"{prefix}.weight"]
            (weight.T if family == "gpt2" else weight)[row] *= l
            if f"{prefix}.bias" in new:
                new[f"{prefix}.bias"][row] *= l
    return new


@pytest.mark.parametrize("family", FAMILIES)
def test_rescaling_is_merging_the_factors_into_the_weights(family):
    backbone, delta, point = made(family)
    batch = backbone.encode(TEXTS)
    pieces = delta.coordinates.split(point)
    expected = backbone.hidden_states(batch, merged(backbone, family, pieces))
    edited = backbone.hidden_states(batch, delta.edit(point))
    # RMSNorm and rotary code up-cast to float32 inside.
    torch.testing.assert_close(edited, expected, rtol=0, atol=1e-5)
    for which in ("key", "value", "ffn"):
        rest = {n: torch.zeros_like(x) if n.endswith(which) else x for n, x in pieces.items()}
        without = backbone.hidden_states(batch, merged(backbone, family, rest))
        assert (without - expected).abs().max() > 1e-3, which


@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_is_the_widths_of_keys_values_and_inner_activations(family):
    _, delta, _ = made(family)
    width = {"llama": 8, "qwen3": 8}.get(family, H)  # one key-value head of 8
    inner = 64 if family == "gpt2" else 32
    assert delta.size == 2 * (2 * width + inner)


def test_the_change_of_a_weight_has_the_rank_of_the_factors_that_moved():
    """diag(l) W₀ - W₀ = diag(δ) W₀: rank s for s coordinates, inside the row space of W₀."""
    backbone, delta, point = made("bert")
    name = backbone.module_name(0, "key")
    w0 = backbone.model.get_parameter(f"{name}.weight")
    for s in (1, 3, H):
        key = torch.where(torch.arange(H) < s, point[:H], 0.0)
        pieces = {
            n: key if n == "0.key" else torch.zeros_like(x) for n, x in delta.coordinates.split(point).items()
        }
        x = torch.eye(H, dtype=torch.float64)
        scale = delta.edit(delta.coordinates.join(pieces)).outputs[name]
        change = (scale(x, x @ w0.T) - x @ w0.T).T
        assert torch.linalg.matrix_rank(change) == s
        torch.testing.assert_close(change, torch.diag(key) @ w0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_cut_at_the_blocks_it_is_the_same(family):
    backbone, delta, point = made(family)
    batch = backbone.encode(TEXTS)
    edit = delta.edit(point)
    x = backbone.embed(batch, edit)
    for t in range(2):
        x = backbone.step(t, x, batch, edit)
    torch.testing.assert_close(backbone.readout(x), backbone.hidden_states(batch, edit), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_would_merge_is_what_it_does(family):
    backbone, delta, point = made(family)
    batch = backbone.encode(TEXTS)
    as_weights = backbone.hidden_states(batch, Edit(parameters=delta.parameters(point)))
    ours = backbone.hidden_states(batch, delta.edit(point))
    torch.testing.assert_close(as_weights, ours, rtol=0, atol=1e-9 if family != "llama" else 1e-6)
