from __future__ import annotations

import pytest
import torch
from tiny_models import CASES, tiny, tiny_model, tiny_tokenizer, transformers
from torch import nn

from deltatheory.backbones import prepare, wrap_model
from deltatheory.backbones.batch import additive_mask

TEXTS = ["a b c d e f", "b", "f e d c"]

# Whole model, block by block ------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "attention"), CASES)
@torch.no_grad()
def test_explicit_inputs_give_the_model_of_the_ordinary_call(family, attention):
    # sliding windows are a matter of the ordinary call: these texts are no longer than any window
    plain = tiny_model(family).eval()
    backbone = tiny(family, attention)
    batch = backbone.encode(TEXTS, max_length=5)
    expected = plain.base_model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).last_hidden_state
    real = batch.mask.bool()
    torch.testing.assert_close(backbone.hidden_states(batch)[real], expected[real], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("family", "attention"), CASES)
@torch.no_grad()
def test_blocks_one_by_one_equal_the_whole_model(family, attention):
    backbone = tiny(family, attention)
    batch = backbone.encode(TEXTS, max_length=5)
    x = backbone.embed(batch)
    for t in range(len(backbone.layers)):
        x = backbone.step(t, x, batch)
    torch.testing.assert_close(backbone.readout(x), backbone.hidden_states(batch), rtol=0, atol=1e-6)


def future_influence(step, x: torch.Tensor) -> float:
    """How far the first tokens move when the last token of x is changed."""
    changed = x.clone()
    changed[:, -1] += torch.linspace(-1, 1, x.shape[-1])
    return float((step(changed) - step(x))[:, :-1].abs().max())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_a_future_token_does_not_influence_the_past(family, attention):
    backbone = tiny(family, attention)
    batch = backbone.encode(["a b c d e"])
    x = backbone.embed(batch)
    assert future_influence(lambda x: backbone.step(0, x, batch), x) == 0


@torch.no_grad()
def test_the_trap_eager_block_without_mask_sees_the_future():
    """Why `step` always hands over the 4-D mask: a lone eager block without one is another network."""
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    influence = {}
    for attention in ("eager", "sdpa"):
        model = tiny("llama", attention).model  # (GPT-2 too, in recent versions of transformers)

        def step(x, model=model):
            rotary = model.rotary_emb(x, torch.arange(5)[None])
            out = model.layers[0](x, attention_mask=None, position_embeddings=rotary)
            return out[0] if isinstance(out, tuple) else out

        influence[attention] = future_influence(step, x)
    assert influence["eager"] > 1e-3
    assert influence["sdpa"] == 0


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
@torch.no_grad()
def test_padding_and_company_do_not_change_a_text(family):
    backbone = tiny(family)
    batch = backbone.encode(TEXTS)
    together = backbone.pooled(batch)
    for i, text in enumerate(TEXTS):
        alone = backbone.encode([text])
        torch.testing.assert_close(backbone.pooled(alone)[0], together[i], rtol=0, atol=1e-5)
        chosen = batch.select([i])
        assert torch.equal(chosen.input_ids, alone.input_ids)
        assert torch.equal(chosen.attention_mask, alone.attention_mask)
        assert torch.equal(chosen.position_ids, alone.position_ids)


# Parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_replaced_parameters_equal_written_parameters(family):
    backbone = tiny(family)
    batch = backbone.encode(TEXTS)
    gen = torch.Generator().manual_seed(1)
    new = {n: p + 0.1 * torch.randn(p.shape, generator=gen) for n, p in backbone.model.named_parameters()}
    pure = backbone.hidden_states(batch, new)
    for name, p in backbone.model.named_parameters():
        p.detach().copy_(new[name])
    torch.testing.assert_close(pure, backbone.hidden_states(batch).detach(), rtol=0, atol=1e-5)


def test_a_step_takes_the_parameters_of_its_block():
    backbone = tiny("llama")
    batch = backbone.encode(TEXTS)
    x = backbone.embed(batch)
    other = {f"layers.0.{name}": p for name, p in backbone.layers[1].named_parameters()}
    torch.testing.assert_close(backbone.step(0, x, batch, other), backbone.step(1, x, batch))
    doubled = {"embed_tokens.weight": 2 * backbone.model.embed_tokens.weight}
    torch.testing.assert_close(backbone.embed(batch, doubled), 2 * x)


def test_gpt2_head_stays_tied_through_writes_and_pure_calls():
    backbone = tiny("gpt2")
    backbone.model.wte.weight.detach().mul_(1.5)
    assert backbone.lm_head is not None
    assert backbone.lm_head.weight is backbone.model.wte.weight
    hidden = torch.randn(2, 16)
    new = {"wte.weight": 2 * backbone.model.wte.weight}
    expected = 2 * backbone.vocabulary_logits(hidden)
    torch.testing.assert_close(backbone.vocabulary_logits(hidden, new), expected)
    with pytest.raises(ValueError, match="no lm_head"):
        tiny("bert").vocabulary_logits(hidden)


# prepare --------------------------------------------------------------------------------------------------


def test_prepare_reaches_every_submodule():
    class Stubborn(nn.Dropout):
        def train(self, mode: bool = True):
            return super().train(True)

    model = tiny_model("roberta", hidden_dropout_prob=0.5)
    model.embeddings.dropout = Stubborn(0.5)
    model.encoder.gradient_checkpointing = True
    model.train()
    backbone = wrap_model(model, tiny_tokenizer("roberta"), name="x")
    batch = backbone.encode(TEXTS)
    assert torch.equal(backbone.hidden_states(batch), backbone.hidden_states(batch))
    modules = list(model.modules())
    assert not any(m.training or getattr(m, "gradient_checkpointing", False) for m in modules)
    assert all(m.padding_idx is None for m in modules if isinstance(m, nn.Embedding))
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "eager"


def test_prepare_takes_any_module_and_refuses_other_attentions():
    assert not prepare(nn.Sequential(nn.Dropout()))[0].training
    with pytest.raises((ValueError, TypeError), match="flash"):  # TypeError where annotations are checked
        prepare(nn.Linear(1, 1), "flash")  # type: ignore[arg-type]


# Batches --------------------------------------------------------------------------------------------------


def test_masks_positions_and_types():
    roberta = tiny("roberta")
    batch = roberta.encode(TEXTS[:2])
    assert batch.position_ids[1].tolist() == [2, 3, 4, 1, 1, 1, 1, 1]  # pad + 1, ...; padding at pad
    assert batch.token_type_ids is None
    assert roberta.max_length == 38
    pair = tiny("bert").encode(["a b"], ["c"])
    assert pair.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1]]
    mask = additive_mask(torch.tensor([[1.0, 1.0, 0.0]]), causal=True)
    assert (mask == 0)[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def test_low_precision_masks_stay_finite():
    backbone = tiny("llama").to(dtype=torch.bfloat16)
    batch = tiny("llama").encode(TEXTS)
    assert batch.to(dtype=torch.bfloat16).attention_mask.isfinite().all()
    assert backbone.pooled(batch).isfinite().all()


def test_bfloat16_counts_beyond_256_tokens():
    backbone = tiny("llama", max_position_embeddings=400).to(dtype=torch.bfloat16)
    batch = backbone.encode(["a " * 301, "a b"])  # bfloat16 would count 300
    hidden = torch.arange(301.0)[None, :, None].expand(2, 301, 16)
    assert backbone.pool(hidden, batch, "mean")[:, 0].tolist() == [150, 0.5]
    assert backbone.pool(hidden, batch)[:, 0].tolist() == [300, 1]
    assert batch.select([0]).input_ids.shape == (1, 301)


def test_select_by_slice_tensor_and_list():
    batch = tiny("bert").encode(TEXTS)
    assert len(batch) == 3
    for indices in (slice(1, 2), torch.tensor([1]), [1]):
        assert batch.select(indices).input_ids.tolist() == [[2, 5, 3]]
    with pytest.raises(ValueError, match="select no text"):
        batch.select([])


def test_poolings():
    backbone = tiny("bert")
    batch = backbone.encode(TEXTS)
    hidden = backbone.hidden_states(batch)
    assert torch.equal(backbone.pooled(batch, pooling="cls"), hidden[:, 0])
    assert torch.equal(backbone.pooled(batch, pooling="last")[1], hidden[1, 2])
    torch.testing.assert_close(backbone.pooled(batch)[1], hidden[1, :3].mean(0))
    with pytest.raises(ValueError, match="pooling='cls'"):
        tiny("gpt2").pooled(batch, pooling="cls")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "non-empty"),
        ({"texts": "abc"}, "non-empty"),
        ({"texts": ["a", ""]}, r"texts\[1\] gives no token"),
        ({"texts": [""]}, r"texts\[0\] gives no token"),
        ({"texts": ["a"], "pairs": ["b", "c"]}, "len\\(pairs\\)=2"),
        ({"texts": ["a"], "max_length": 99}, "allowed is 1..40"),
    ],
)
def test_bad_texts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny("gpt2").encode(**arguments)


def test_a_sliding_window_limits_the_length():
    assert tiny("mistral").max_length == 5
    assert tiny("mistral", sliding_window=None).max_length == 40


def test_unsupported_architectures_are_refused_with_the_list():
    config = transformers.UMT5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8, vocab_size=9)
    with pytest.raises(ValueError, match="model_type='umt5' is not supported; supported are bart, bert"):
        wrap_model(transformers.UMT5EncoderModel(config), tiny_tokenizer("bert"), name="umt5")
    with pytest.raises(ValueError, match="is_decoder=True"):
        tiny("bert", is_decoder=True)


def test_a_tokenizer_that_cannot_pad_is_refused():
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither pad_token nor eos_token"):
        wrap_model(tiny_model("gpt2"), tokenizer, name="x")
