"""What architectures differ in (where the blocks are), and what makes all of them differentiable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["SUPPORTED", "Family", "family_of", "prepare"]

Kind = Literal["encoder", "causal", "encoder-decoder"]
Attention = Literal["eager", "sdpa"]


Part = Literal["attention", "query", "key", "value", "attention_output", "ffn_in", "ffn_out"]


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its parts, as paths from the base model or, in a block, from the block.

    Arguments:
        kind: "encoder" (every token sees every token), "causal", or "encoder-decoder", whose paths are then
            those of its encoder.
        layers: path of the list of blocks.
        attention: path of the attention module in a block.
        query: the linear maps to queries, keys and values, "" where they are one module ...
        key: ...
        value: ...
        attention_output: the linear map from the heads back to the residual stream.
        ffn_in: the linear map into the feed-forward layer (its gate's map, where it is gated).
        ffn_out: the linear map out of it.
        norm: path of the last normalisation, "" where the last block ends with it.
        project: path of the linear map after that, "" where there is none (OPT-350M leaves H for it).
        offset_positions: position ids start at `pad_token_id + 1` (RoBERTa), not at 0.
        decoder: of an encoder-decoder, where its second stack keeps its parts.
        cross_attention: in a block of that, the path of the attention to the encoder's states, whose maps
            have the names of those of `attention`.
        position_bias: path, from the base model, of the embedding of relative positions that all blocks of a
            stack add to their scores (T5); "" where there is none.
        positions: path, from the base model, of the learned positions that a decoder counts itself (BART).
        bare: its language model holds the stacks itself, with no base model inside (T5).
    """

    kind: Kind
    layers: str
    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    ffn_in: str
    ffn_out: str
    norm: str = ""
    project: str = ""
    offset_positions: bool = False
    decoder: Family | None = None
    cross_attention: str = ""
    position_bias: str = ""
    positions: str = ""
    bare: bool = False

    def part(self, part: Part) -> str:
        """Return the path of a part in a block, "" where it is no module of its own."""
        return getattr(self, part)


_BERT = Family(
    "encoder",
    "encoder.layer",
    "attention.self",
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_ROBERTA = replace(_BERT, offset_positions=True)
_LLAMA = Family(
    "causal",
    "layers",
    "self_attn",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
    norm="norm",
)
_OPT = replace(
    _LLAMA,
    layers="decoder.layers",
    attention_output="self_attn.out_proj",
    ffn_in="fc1",
    ffn_out="fc2",
    norm="decoder.final_layer_norm",
    project="decoder.project_out",
)
_BART_DECODER = replace(
    _OPT, norm="", project="", cross_attention="encoder_attn", positions="decoder.embed_positions"
)
_BART = replace(
    _BART_DECODER,
    kind="encoder-decoder",
    layers="encoder.layers",
    decoder=_BART_DECODER,
    cross_attention="",
    positions="",
)


def _t5(stack: Literal["encoder", "decoder"]) -> Family:
    """Return where a stack of T5 keeps its parts; of one without a gate."""
    attention = "layer.0.SelfAttention"
    feed_forward = f"layer.{1 if stack == 'encoder' else 2}.DenseReluDense"
    return Family(
        "encoder-decoder" if stack == "encoder" else "causal",
        f"{stack}.block",
        attention,
        *(f"{attention}.{part}" for part in ("q", "k", "v", "o")),
        ffn_in=f"{feed_forward}.wi",
        ffn_out=f"{feed_forward}.wo",
        norm=f"{stack}.final_layer_norm",
        position_bias=f"{stack}.block.0.{attention}.relative_attention_bias",
    )


_T5 = replace(
    _t5("encoder"), decoder=replace(_t5("decoder"), cross_attention="layer.1.EncDecAttention"), bare=True
)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "gpt2": Family("causal", "h", "attn", "", "", "", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", norm="ln_f"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gpt_neox": Family(
        "causal",
        "layers",
        "attention",
        "",
        "",
        "",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
        norm="final_layer_norm",
    ),
    "opt": _OPT,
    "bart": _BART,
    "t5": _T5,
    "mt5": _T5,
}
SUPPORTED: tuple[str, ...] = tuple(sorted(FAMILIES))


def family_of(config: Any) -> Family:
    """Look up the family of a `transformers` configuration.

    Raises:
        ValueError: for an architecture outside `SUPPORTED`, an encoder configured as a decoder or the other
            way round, one stack of an encoder-decoder, quantized weights, or positions that count from a
            padding token that is not named.
    """
    model_type = getattr(config, "model_type", None)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        near = get_close_matches(str(model_type), SUPPORTED, n=1)
        hint = f" Nearest: {near[0]!r}." if near else ""
        raise ValueError(
            f"model_type={model_type!r} is not supported; supported are {', '.join(SUPPORTED)}.{hint} To add "
            "it, say where it keeps its blocks, projections and norm: a line of FAMILIES in "
            "deltatheory/backbones/families.py, and one of TINY in tests/tiny_models.py."
        )
    family = FAMILIES[model_type]
    if family.decoder is not None:
        if not getattr(config, "is_encoder_decoder", True):
            raise ValueError(
                f"is_encoder_decoder=False with model_type={model_type!r} is not supported: one stack alone, "
                "with a causal head, is another model; load it with AutoModelForSeq2SeqLM"
            )
        if getattr(config, "is_gated_act", False):  # T5 v1.1 and mT5: two maps into the feed-forward layer
            family, decoder = (replace(f, ffn_in=f"{f.ffn_in}_0") for f in (family, family.decoder))
            family = replace(family, decoder=decoder)
    if family.kind == "encoder" and getattr(config, "is_decoder", False):
        raise ValueError(
            f"is_decoder=True with model_type={model_type!r} is not supported: "
            "load the checkpoint with is_decoder=False, or take a causal family"
        )
    if family.kind == "causal" and getattr(config, "use_bidirectional_attention", None):
        raise ValueError(
            f"use_bidirectional_attention=True with model_type={model_type!r} is not supported: "
            "its tokens see later ones; take an encoder family"
        )
    quantization: Any = getattr(config, "quantization_config", None)
    if quantization:
        about = quantization if isinstance(quantization, dict) else vars(quantization)
        method = about.get("quant_method", "unnamed")
        method = str(getattr(method, "value", method))
        raise ValueError(
            f"quantization_config has quant_method={method!r}: quantized weights are not supported; load the "
            "checkpoint that they were made from, in 'bfloat16' if need be"
        )
    if family.offset_positions and getattr(config, "pad_token_id", 1) is None:
        raise ValueError(
            f"pad_token_id=None with model_type={model_type!r}: its positions count from that token; name it"
        )
    return family


def prepare(model: nn.Module, attention: Attention = "eager") -> nn.Module:
    """Make a model safe for differentiation, in place, and return it.

    Evaluation mode in every submodule, all parameters frozen, no key/value cache, no gradient
    checkpointing (no derivative transform passes it), and no `padding_idx`: an embedding with one
    returns a *masked* gradient, so the Hessian is not symmetric in any direction that touches the pad row.
    Norms that round to float32 in between (T5) do not in float64. Tied weights stay tied.

    Arguments:
        model: a `transformers` model, or any module.
        attention: "eager" has forward-mode derivatives (jvp, hvp); "sdpa" is faster and has none.

    Raises:
        ValueError: for another attention.
    """
    if attention not in ("eager", "sdpa"):
        raise ValueError(f"attention={attention!r}: allowed are 'eager' (jvp, hvp) and 'sdpa' (vjp only)")
    model.eval().requires_grad_(False)
    for module in model.modules():
        module.training = False  # a submodule may override `train`, as frozen-dropout wrappers do
        if hasattr(module, "gradient_checkpointing"):
            vars(module)["gradient_checkpointing"] = False
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
        if type(module).__name__ in ("T5LayerNorm", "MT5LayerNorm"):
            own = (
                "_old_forward" if "_old_forward" in vars(module) else "forward"
            )  # behind a hook of accelerate
            vars(module)[own] = partial(_t5_norm, module)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(attention)  # type: ignore[operator]
    for module in model.modules():  # each stack of an encoder-decoder may have a configuration of its own
        config: Any = getattr(module, "config", None)
        if hasattr(config, "use_cache"):
            config.use_cache = False
            config.return_dict = True  # a configuration may ask for tuples
    return model


def _t5_norm(module: Any, x: Tensor) -> Tensor:
    """Return γ x / √(mean x² + ε) as T5 does, whose variance is float32 also where all else is float64."""
    variance = x.to(torch.promote_types(x.dtype, torch.float32)).pow(2).mean(-1, keepdim=True)
    x = x * torch.rsqrt(variance + module.variance_epsilon)
    return module.weight * (x.to(module.weight.dtype) if module.weight.dtype.itemsize == 2 else x)
