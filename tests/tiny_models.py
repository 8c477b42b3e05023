"""Tiny random transformers of every supported family, with a tokenizer over single letters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from deltatheory.backbones import Backbone, wrap_model  # noqa: E402
from deltatheory.backbones.families import FAMILIES  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnop"]
_ROBERTA = {"pad_token_id": 1, "type_vocab_size": 1}
# Few buckets of relative positions, of which each is met in short texts.
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "decoder_start_token_id": 0} | {
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
}
# What the configuration of a tiny one says beyond the sizes that all share, where it must say more.
_OWN = {
    "bert": {"type_vocab_size": 2},
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 5},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 9},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "t5": {**_T5, "num_layers": 2, "num_decoder_layers": 2},
    "mt5": {**_T5, "num_layers": 1, "num_decoder_layers": 1},
    "bart": {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 24,
        "scale_embedding": True,
        "decoder_start_token_id": 3,
    },
}
TINY = {family: _OWN.get(family, {}) for family in FAMILIES if FAMILIES[family].kind != "encoder-decoder"}
# Encoder-decoders, which have tests of their own.
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
AUTO = {
    "encoder": transformers.AutoModel,
    "causal": transformers.AutoModelForCausalLM,
    "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
}
COMMON = {"max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
# `transformers` itself refuses sdpa for Gemma 2 (soft-capped scores).
CASES = [(f, a) for f in TINY for a in ("eager", "sdpa") if (f, a) != ("gemma2", "sdpa")]


def is_causal(family: str) -> bool:
    return FAMILIES[family].kind == "causal"


def tiny_model(family: str, auto=None, **extra) -> nn.Module:
    """A random two-block network; the weights are enlarged so that attention is far from uniform."""
    key = f"{family} {auto} {extra}"
    if key not in _DRAWN:
        _DRAWN[key] = _drawn(family, auto, extra), torch.get_rng_state()
    model, state = _DRAWN[key]
    torch.set_rng_state(state)  # a test that draws goes on from here, the first as all later ones
    return copy.deepcopy(model)


_DRAWN: dict[str, tuple[nn.Module, torch.Tensor]] = {}


def _drawn(family: str, auto, extra: dict) -> nn.Module:
    kind = FAMILIES[family].kind
    sizes = {} if kind == "encoder-decoder" else SIZES
    about = {"vocab_size": len(WORDS)} | sizes | COMMON | _OWN.get(family, {}) | extra
    config = transformers.AutoConfig.for_model(family, **about)
    torch.manual_seed(0)
    model = (auto or AUTO[kind]).from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.3)
    return model


def tiny_tokenizer(family: str):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    if family in ("t5", "mt5"):
        tokens.post_processor = processors.TemplateProcessing(
            single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", 3)]
        )
    elif not is_causal(family):
        tokens.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    names = {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    if family in ("bert", "t5", "mt5", "bart"):
        names["pad_token"] = "[PAD]"
    if family == "bart":
        names["bos_token"] = "[CLS]"
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **names)


def tiny(family: str, attention="eager", dtype=torch.float32, **extra) -> Backbone:
    model = tiny_model(family, **extra)
    return wrap_model(model, tiny_tokenizer(family), name=f"tiny-{family}", attention=attention).to(
        dtype=dtype
    )
