"""What architectures differ in (where the blocks are), and what makes all of them differentiable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from torch import nn

__all__ = ["SUPPORTED", "Family", "family_of", "prepare"]

Kind = Literal["encoder", "causal"]
Attention = Literal["eager", "sdpa"]


Part = Literal["attention", "query", "key", "value", "attention_output", "ffn_in", "ffn_out"]


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its parts, as paths from the base model or, in a block, from the block.

    Arguments:
        kind: "encoder" (every token sees every token) or "causal".
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
    "opt": replace(
        _LLAMA,
        layers="decoder.layers",
        attention_output="self_attn.out_proj",
        ffn_in="fc1",
        ffn_out="fc2",
        norm="decoder.final_layer_norm",
        project="decoder.project_out",
    ),
}
SUPPORTED: tuple[str, ...] = tuple(sorted(FAMILIES))


def family_of(config: Any) -> Family:
    """Look up the family of a `transformers` configuration.

    Raises:
        ValueError: for an architecture outside `SUPPORTED`, an encoder configured as a decoder or the other
            way round, quantized weights, or positions that count from a padding token that is not named.
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
    Tied weights stay tied.

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
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(attention)  # type: ignore[operator]
    config: Any = getattr(model, "config", None)
    if config is not None:
        config.use_cache = False
        config.return_dict = True  # a configuration may ask for tuples
    return model
