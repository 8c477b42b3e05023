"""Prefixes: what they do to attention (theorems T24-T26), their forms, and peft's."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny, tiny_model
from tiny_problems import toy_problem

from deltatheory.backbones import Edit
from deltatheory.deltas import make_delta
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning

TEXTS = ["a b c d e", "f g h i j"]
FAMILIES = ("bert", "roberta", "gpt2", "llama")
K = 3


def noise(size, seed=0, dtype=torch.float64):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seen(backbone, batch, edit=None):
    """Return block ↦ (attend, q, k, v, mask, output) of a forward pass under an edit."""
    calls = {}

    def watch(t):
        inner = edit.attention.get(t) if edit else None

        def change(attend, *qkvm):
            out = inner(attend, *qkvm) if inner else attend(*qkvm)
            calls[t] = (attend, *qkvm, out)
            return out

        return change

    attention = {t: watch(t) for t in range(len(backbone.layers))}
    other = {"prompt": edit.prompt, "shift": edit.shift} if edit else {}
    backbone.hidden_states(batch, Edit(attention=attention, **other))
    return calls


def repeated(backbone, x):
    """Give every query head its key or value head."""
    return x.repeat_interleave(backbone.model.config.num_attention_heads // x.shape[-3], -3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_is_a_gate_between_the_text_and_itself(family):
    """T24 (He et al. 2022, eq. 7): for each head o' = (1 - λ) o + λ o_P, λ = Z_P/(Z_P + Z_x)."""
    backbone = tiny(family, dtype=torch.float64)
    delta = PrefixTuning(backbone, length=K, gate="none")
    point = noise(delta.size)
    attend, q, k, v, mask, out = seen(backbone, backbone.encode(TEXTS), delta.edit(point))[0]
    prefix = [x.expand(len(q), -1, -1, -1) for x in delta.keys_values(point)[0]]
    alone = attend(q, *prefix, mask.new_zeros(*mask.shape[:-1], K))
    without = attend(q, k, v, mask)
    scale = q.shape[-1] ** -0.5
    own = (q @ repeated(backbone, k).mT * scale + mask).exp()
    virtual = (q @ repeated(backbone, prefix[0]).mT * scale).exp()
    weight = virtual.sum(-1) / (virtual.sum(-1) + own.sum(-1))
    weight = weight.transpose(1, 2)[..., None]
    # RMSNorm models take their softmax in float32.
    atol = 1e-6 if family == "llama" else 1e-13
    torch.testing.assert_close(out, (1 - weight) * without + weight * alone, rtol=0, atol=atol)
    # without the gate, and without the softmax (linear attention, weights q·k), the identity is false
    assert (out - without - alone).abs().max() > 1e-2
    scores = (q @ repeated(backbone, k).mT).masked_fill(mask < 0, 0), q @ repeated(backbone, prefix[0]).mT
    pieces = [s @ repeated(backbone, x) for s, x in zip(scores, (v, prefix[1]), strict=True)]
    linear_o, linear_p = (x.transpose(1, 2) for x in pieces)
    gated = (1 - weight) * linear_o + weight * linear_p
    assert (linear_o + linear_p - gated).abs().max() > 1e-2


def one_hot(backbone, count, start, total):
    """Return values (heads, count, e) that read the attention weights of `count` keys off the output."""
    heads = getattr(backbone.model.config, "num_key_value_heads", backbone.model.config.num_attention_heads)
    eye = torch.eye(8, dtype=torch.float64)[start : start + count]
    assert total <= 8  # as wide as a head
    return eye.expand(heads, -1, -1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prefix_keeps_the_ratios_of_attention_within_the_text(family):
    """T25 (Petrov et al. 2024, section 5): true of fixed queries and keys, false of the next block's."""
    backbone = tiny(family, dtype=torch.float64)
    delta = PrefixTuning(backbone, length=K, gate="none")
    batch = backbone.encode(TEXTS)
    point = noise(delta.size, 1)
    frozen, tuned = seen(backbone, batch), seen(backbone, batch, delta.edit(point))
    readable = delta.keys_values(point)
    readable = {t: (key, one_hot(backbone, K, 5, 5 + K)) for t, (key, _) in readable.items()}
    edit = delta.edit(delta.delta_of(readable))

    def shares(call, prefixed):
        attend, q, k, _, mask, _ = call
        values = one_hot(backbone, 5, 0, 5).expand(len(q), -1, -1, -1)
        weights = edit.attention[0](attend, q, k, values, mask) if prefixed else attend(q, k, values, mask)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=0, atol=1e-6)
        return weights[..., :5] / weights[..., :5].sum(-1, keepdim=True), weights[..., 5:].sum(-1)

    atol = 1e-6 if family == "llama" else 1e-13
    for t in (0, 1):  # the same queries and keys with the prefix and without it
        ratios, taken = shares(tuned[t], True)
        torch.testing.assert_close(ratios, shares(tuned[t], False)[0], rtol=0, atol=atol)
        assert taken.min() > 1e-3
    torch.testing.assert_close(shares(tuned[0], True)[0], shares(frozen[0], False)[0], rtol=0, atol=atol)
    # In the second block the prefix has changed queries and keys.
    assert (shares(tuned[1], True)[0] - shares(frozen[1], False)[0]).abs().max() > 1e-2


def as_prefix(backbone, prompt, text, **options):
    """Return the raw prefix, and its δ, whose keys and values are the prompt's own before `text`."""
    calls = seen(backbone, backbone.encode([text]), Edit(prompt=prompt))
    delta = PrefixTuning(backbone, length=K, gate="none", **options)
    return delta, delta.delta_of({t: (c[2][0, :, :K], c[3][0, :, :K]) for t, c in calls.items()})


@pytest.mark.parametrize("family", FAMILIES)
def test_under_a_causal_mask_a_prompt_is_a_prefix(family):
    """T26: its keys and values depend on no text; without a causal mask they do."""
    backbone = tiny(family, dtype=torch.float64)
    batch = backbone.encode(TEXTS)
    prompt = PromptTuning(backbone, length=K)
    embeddings = prompt.prompt(0.5 * noise(prompt.size))
    wanted = backbone.hidden_states(batch, Edit(prompt=embeddings))
    delta, point = as_prefix(backbone, embeddings, "p p o n", shift=True)
    error = (backbone.hidden_states(batch, delta.edit(point)) - wanted).abs().max()
    if backbone.kind == "encoder":
        assert error > 1e-2
        return
    assert error < (1e-5 if family == "llama" else 1e-12)
    # from another text the same; at other positions not
    assert (as_prefix(backbone, embeddings, "a", shift=True)[1] - point).abs().max() < 1e-5
    unshifted, same = as_prefix(backbone, embeddings, "p p o n")
    assert (backbone.hidden_states(batch, unshifted.edit(same)) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_shifted_raw_prefix_is_that_of_peft(family):
    peft = pytest.importorskip("peft")
    backbone = tiny(family)
    delta = PrefixTuning(backbone, length=K, gate="none", shift=True)
    point = noise(delta.size, dtype=torch.float32)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=K, prefix_projection=False)
    theirs = peft.get_peft_model(tiny_model(family), config).eval()
    pairs = [torch.stack(pair) for pair in delta.keys_values(point).values()]  # (2, heads, k, e)
    weight = torch.stack(pairs).permute(3, 0, 1, 2, 4).reshape(K, -1)
    theirs.prompt_encoder["default"].load_prompt_embeddings(weight)
    batch = backbone.encode(TEXTS)
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids, attention_mask=batch.mask.long()).logits
    ours = backbone.vocabulary_logits(backbone.hidden_states(batch, delta.edit(point)))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    unshifted = PrefixTuning(backbone, length=K, gate="none").edit(point)
    moved = backbone.vocabulary_logits(backbone.hidden_states(batch, unshifted))
    assert (moved - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_is_what_the_frozen_blocks_compute_for_words(family):
    backbone = tiny(family, dtype=torch.float64)
    prefix = PrefixTuning(backbone, length=K, gate="none", seed=2)
    prompt = PromptTuning(backbone, length=K, seed=2)
    start = prefix.keys_values(prefix.initial())
    calls = seen(backbone, backbone.encode(["a"]), prompt.edit(prompt.initial()))
    atol = 1e-6 if family == "llama" else 1e-13
    # in an encoder the text is seen from the second block on
    for t in range(1 if backbone.kind == "encoder" else 2):
        torch.testing.assert_close(start[t][0], calls[t][2][0, :, :K], rtol=0, atol=atol)
        torch.testing.assert_close(start[t][1], calls[t][3][0, :, :K], rtol=0, atol=atol)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gate_opens_from_exactly_nothing(family):
    backbone = tiny(family)
    batch = backbone.encode(TEXTS)
    delta = PrefixTuning(backbone, length=K)
    frozen = backbone.hidden_states(batch)
    assert delta.exact_zero
    assert torch.equal(backbone.hidden_states(batch, delta.edit(delta.initial())), frozen)
    start = delta.keys_values(delta.initial())
    # while the gate is shut the prefix does nothing; open, o + tanh(g) o_P in the first block
    moved = delta.delta_of({t: (k + 1, v - 1) for t, (k, v) in start.items()})
    assert torch.equal(backbone.hidden_states(batch, delta.edit(moved)), frozen)
    gates = torch.tensor([0.7, -0.4])
    opened = delta.edit(delta.delta_of(start, {0: gates}))
    attend, q, k, v, mask, out = seen(backbone, batch, opened)[0]
    own = (x.expand(len(q), -1, -1, -1) for x in start[0])
    alone = attend(q, *own, mask.new_zeros(*mask.shape[:-1], K))
    torch.testing.assert_close(out, attend(q, k, v, mask) + gates.tanh()[:, None] * alone)


SIZES = [
    ("bert", {}, 2 * (2 * 2 * K * 8) + 2 * 2),
    ("bert", {"gate": "none"}, 2 * (2 * 2 * K * 8)),
    ("bert", {"gate": "none", "blocks": [1]}, 2 * 2 * K * 8),
    ("llama", {}, 2 * (2 * 1 * K * 8) + 2 * 2),
    ("qwen3", {"gate": "none"}, 2 * (2 * 1 * K * 8)),
    ("gpt2", {"gate": "none", "hidden": 5}, K * 16 + 5 * (16 + 1) + 2 * (2 * 2 * 8) * (5 + 1)),
]


@pytest.mark.parametrize(("family", "options", "size"), SIZES)
def test_the_number_of_coordinates(family, options, size):
    assert PrefixTuning(tiny(family), length=K, **options).size == size


def test_values_that_start_at_zero_all_move_the_outputs():
    backbone = tiny("bert", dtype=torch.float64)
    batch = backbone.encode(TEXTS)
    for gate, moving in (("values", "value"), ("zero", "gate")):
        delta = PrefixTuning(backbone, length=K, gate=gate)
        leaf = delta.initial().requires_grad_()
        output = (backbone.pooled(batch, delta.edit(leaf)) * torch.linspace(1, 2, 16)).square().sum()
        (gradient,) = torch.autograd.grad(output, leaf)
        for name, piece in delta.coordinates.split(gradient).items():
            assert bool((piece != 0).all()) == name.endswith(moving), (gate, name)


@pytest.mark.parametrize("options", [{"gate": "none", "shift": True}, {"blocks": [1]}], ids=["raw", "gated"])
def test_behind_an_mlp_it_is_the_prefix_that_comes_out(options):
    backbone = tiny("llama", dtype=torch.float64)
    batch = backbone.encode(TEXTS)
    behind = PrefixTuning(backbone, length=K, hidden=5, **options)
    plain = PrefixTuning(backbone, length=K, **options)
    for (a, b), (c, d) in zip(
        behind.keys_values(behind.initial()).values(),
        plain.keys_values(plain.initial()).values(),
        strict=True,
    ):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    point = 0.3 * noise(behind.size)
    gates = {t: behind.coordinates.split(point)[f"{t}.gate"] for t in behind.blocks if behind.exact_zero}
    same = plain.delta_of(behind.keys_values(point), gates)
    torch.testing.assert_close(
        backbone.hidden_states(batch, behind.edit(point)), backbone.hidden_states(batch, plain.edit(same))
    )
    stored = behind.specification()
    twin = make_delta(stored.pop("delta"), backbone, **stored)
    assert torch.equal(twin.keys_values(point)[1][0], behind.keys_values(point)[1][0])
    with pytest.raises(ValueError, match="hidden=5: keys and values have no δ"):
        behind.delta_of(behind.keys_values(point))


@pytest.mark.parametrize("family", ["roberta", "llama"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prefix", {}),
        ("prefix", {"gate": "none", "hidden": 4, "shift": True}),
        ("prompt", {}),
        ("intrinsic-prompt", {"d": 5}),
    ],
)
def test_derivatives_in_both_modes_and_in_float32(family, name, options):
    """The laws of all deltas hold it to the same on BERT and GPT-2."""
    problem = toy_problem(name, family=family, length=2, **options)
    assert problem.check().passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "half"}, "gate='half': allowed are zero, values, none"),
        ({"shift": True}, "shift=True: allowed with gate='none' only"),
        ({"hidden": 0}, "hidden=0: must be at least 1"),
        ({"blocks": [2]}, r"blocks=\[2\]: give distinct numbers in 0\.\.1"),
        ({"blocks": []}, r"blocks=\[\]: give distinct numbers in 0\.\.1, at least one"),
        ({"blocks": [0, 0]}, r"blocks=\[0, 0\]: give distinct"),
    ],
)
def test_what_is_not_allowed_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        PrefixTuning(tiny("gpt2"), length=K, **options)


def test_a_text_too_long_behind_a_shift_is_refused():
    backbone = tiny("gpt2")
    delta = PrefixTuning(backbone, length=39, gate="none", shift=True)
    with pytest.raises(ValueError, match="a shift of 39 before 5 tokens: 'tiny-gpt2' takes at most 40"):
        backbone.hidden_states(backbone.encode(TEXTS), delta.edit(delta.initial()))


def test_blocks_that_are_left_out_are_frozen():
    backbone = tiny("gpt2", dtype=torch.float64)
    delta = PrefixTuning(backbone, length=K, gate="none", blocks=[1])
    edit = delta.edit(noise(delta.size))
    batch = backbone.encode(TEXTS)
    x = backbone.embed(batch, edit)
    assert torch.equal(backbone.step(0, x, batch, edit), backbone.step(0, x, batch))
    assert not torch.allclose(backbone.step(1, x, batch, edit), backbone.step(1, x, batch))
    with pytest.raises(ValueError, match=r"keys_values has blocks \[0\]: allowed are \(1,\)"):
        delta.delta_of({0: delta.keys_values(delta.initial())[1]})
