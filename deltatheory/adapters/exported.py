"""Deltas written as adapters that the `peft` library loads."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable
from functools import singledispatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.adapters.files import BASE, CONFIG, WEIGHTS, peft_library
from deltatheory.adapters.imported import PeftDelta
from deltatheory.backbones import HUB_NAMES, Backbone
from deltatheory.deltas import Delta, WithHead
from deltatheory.deltas.ia3 import IA3
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning
from deltatheory.deltas.selected import LayerNormOnly
from deltatheory.deltas.subspace import project
from deltatheory.deltas.targets import matrix_shape
from deltatheory.deltas.unilora import UniLoRA
from deltatheory.results import write_atomically, write_json

__all__ = ["base_of", "has_peft_form", "peft_config", "to_peft"]

_KEEP = "deltatheory.deltas.files.save_delta keeps every delta as safetensors"


def to_peft(
    delta: Delta,
    values: Float[Tensor, " m"],
    folder: str | os.PathLike[str],
    base_model_name: str | None = None,
) -> None:
    """Write a delta at δ as an adapter that `peft.PeftModel.from_pretrained(base, folder)` loads.

    The base there is `AutoModelForCausalLM` of a causal backbone with an `lm_head`, `AutoModelForSeq2SeqLM`
    of an encoder-decoder with one, `AutoModel` of any other, and `AutoModelForSequenceClassification` where
    the checkpoint's own head was trained beside the delta.

    Args:
        delta: `LoRA`, `UniLoRA` (written as the LoRA that it is), `IA3`, `LayerNormOnly`, `PromptTuning`,
            `PrefixTuning` of all blocks with gate "none" and shift (an MLP is evaluated; of an
            encoder-decoder it is that of the decoder's own tokens), what `from_peft` made, or a `WithHead` of
            one of them and the head "own".
        values: δ.
        folder: where adapter_config.json and adapter_model.safetensors go.
        base_model_name: what adapter_config.json names as the base; by default where the hub has it, else
            the backbone's name.

    Raises:
        ImportError: without `peft`, for what `from_peft` made.
        ValueError: for values of another length, or a delta that PEFT has no form for.
    """
    if values.shape != (delta.size,):
        raise ValueError(f"values.shape={tuple(values.shape)}: {delta.name!r} needs ({delta.size},).")
    form, tensors = _form(delta, values)
    from safetensors.torch import save

    config = {**form, **base_of(delta.backbone), "inference_mode": True}
    notes = {"format": "pt"}
    if base_model_name:
        config |= {"base_model_name_or_path": base_model_name, "revision": None}
    else:  # what to load where the name on the hub is that of another release
        notes[BASE] = delta.backbone.name
    whole = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    write_atomically(Path(folder) / WEIGHTS, save(whole, notes))
    write_json(Path(folder) / CONFIG, config)


def peft_config(delta: Delta, *, train_head: bool = False) -> dict[str, Any]:
    """Return the configuration with which `peft` trains what a delta tunes: adapter_config.json.

    PEFT draws A of LoRA, prompts and prefixes anew: a training there starts where one here does from what
    `to_peft` writes of `delta.initial()`, by `peft.set_peft_model_state_dict`.

    Args:
        delta: as `to_peft` takes it.
        train_head: of `AutoModelForSequenceClassification`, whose classifier is trained beside it. Behind a
            prompt that of a causal backbone reads the last position, so texts of a batch must be of one
            length there.

    Raises:
        ValueError: for a delta that PEFT has no form for: beside a head, a prompt before an encoder too.
    """
    if train_head:
        _check_reads_text(delta)
    form, _ = _form(delta, delta.initial())
    if train_head:
        form |= {"task_type": "SEQ_CLS", "modules_to_save": [_head_of(delta.backbone)]}
    return {**form, **base_of(delta.backbone)}


def _check_reads_text(delta: Delta) -> None:
    """Refuse a delta beside which PEFT's classifier reads no token of the text."""
    if isinstance(delta, PromptTuning) and delta.backbone.kind == "encoder":
        raise ValueError(
            "delta='prompt' with a trained head has no form in PEFT, whose encoders read the first virtual "
            f"token: allowed are the other deltas, and causal backbones; {_KEEP}."
        )


def base_of(backbone: Backbone) -> dict[str, Any]:
    """Return how PEFT names a base: by the hub's name where it has one, and its commit."""
    about = backbone.provenance
    revision = None if about.get("weights_sha256") else about.get("revision")
    name = HUB_NAMES.get(backbone.name, backbone.name)
    return {"base_model_name_or_path": name, "revision": revision}


_HEADS = {"encoder": "classifier", "causal": "score", "encoder-decoder": "classification_head"}


def _head_of(backbone: Backbone) -> str:
    return _HEADS[backbone.kind]


def has_peft_form(delta: Delta) -> bool:
    """Return whether `to_peft` can write a delta here."""
    try:
        _form(delta, delta.zero())  # which takes no memory
    except (ValueError, ImportError):
        return False
    return True


Form = tuple[dict[str, Any], dict[str, Tensor]]


@singledispatch
def _form(delta: Delta, values: Tensor) -> Form:
    """Return PEFT's configuration of a delta, in JSON, and its tensors by PEFT's names."""
    raise ValueError(
        f"delta={delta.name!r} has no form in PEFT: allowed are 'lora', 'unilora', 'ia3', 'layernorm', "
        f"'prompt', 'prefix' and imported adapters; {_KEEP}."
    )


@_form.register
def _imported(delta: PeftDelta, values: Tensor) -> Form:
    if len(active := delta.model.active_adapters) > 1:
        raise ValueError(
            f"the adapters {active} are active together: one folder holds one; set_adapter of one."
        )
    with delta.written(values) as model:
        tensors = peft_library().get_peft_model_state_dict(
            model, adapter_name=model.active_adapter, save_embedding_layers=False
        )
        tensors = {name: x.detach().clone() for name, x in tensors.items()}
    with TemporaryDirectory() as aside:  # PEFT itself knows what of it is JSON
        copy.deepcopy(delta.model.active_peft_config).save_pretrained(aside)
        return json.loads((Path(aside) / CONFIG).read_bytes()), tensors


@_form.register
def _with_head(delta: WithHead, values: Tensor) -> Form:
    inner, head = delta.split(values)
    if delta.head != "own" or any(".lora_" in f".{name}" for name in head):
        raise ValueError(
            f"delta: the trained head={delta.head!r} has no form in PEFT: allowed is 'own', a classifier "
            f"that is trained whole; {_KEEP}."
        )
    _check_reads_text(delta.delta)
    config, tensors = _form(delta.delta, inner)
    name, virtual = _head_of(delta.backbone), "num_virtual_tokens" in config
    if virtual and delta.backbone.kind == "encoder-decoder":
        raise ValueError(
            f"delta={delta.delta.name!r} with a trained head has no form in PEFT, whose classifiers of "
            f"encoder-decoders take no virtual tokens: allowed are the other deltas; {_KEEP}."
        )
    outer = "base_model." if virtual else "base_model.model."
    if not isinstance(delta.delta, PeftDelta):  # written for the base model alone
        config["task_type"] = "SEQ_CLS"
        if not virtual:
            within: Any = f"{delta.backbone.model.base_model_prefix}."
            there = _outer(delta.backbone)  # in the model with an lm_head, where there is one
            tensors = {outer + within + n.removeprefix(outer + there): x for n, x in tensors.items()}
            for key in {"target_modules", "feedforward_modules"} & config.keys():
                config[key] = [within + n.removeprefix(there) for n in config[key]]
            for key in {"rank_pattern", "alpha_pattern"} & config.keys():
                config[key] = {within + n.removeprefix(there): x for n, x in config[key].items()}
    config["modules_to_save"] = sorted({*(config.get("modules_to_save") or ()), name})
    return config, {**tensors, **{f"{outer}{name}.{n}": x for n, x in head.items()}}


@_form.register
def _unilora(delta: UniLoRA, values: Tensor) -> Form:
    return _lora(delta.lora, project(delta.projection, values))


@_form.register
def _lora(delta: LoRA, values: Tensor) -> Form:
    outer = _outer(delta.backbone)
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in delta.factors(values).items():
        tensors[f"base_model.model.{outer}{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{outer}{name}.lora_B.weight"] = b
    alpha = delta.r if delta.alpha is None else delta.alpha
    alphas = {outer + n: r if delta.alpha is None else alpha for n, r in delta.ranks.items()}
    return {
        "peft_type": "LORA",
        "task_type": _task(delta.backbone),
        "r": delta.r,
        "lora_alpha": _whole(alpha),
        "target_modules": [outer + name for name in delta.targets],
        "rank_pattern": {outer + name: r for name, r in delta.ranks.items() if r != delta.r},
        "alpha_pattern": {name: _whole(x) for name, x in alphas.items() if x != alpha},
        "fan_in_fan_out": _transposed(delta.backbone, delta.targets),
        "lora_dropout": 0.0,
        "bias": "none",
    }, tensors


@_form.register
def _ia3(delta: IA3, values: Tensor) -> Form:
    outer, inputs, outputs = _outer(delta.backbone), *delta.scales(values)
    named = {**{n: x[:, None] for n, x in outputs.items()}, **{n: x[None] for n, x in inputs.items()}}
    return {
        "peft_type": "IA3",
        "task_type": _task(delta.backbone),
        "target_modules": [outer + name for name in named],
        "feedforward_modules": [outer + name for name in inputs],
        "fan_in_fan_out": _transposed(delta.backbone, named),
    }, {f"base_model.model.{outer}{name}.ia3_l": x for name, x in named.items()}


@_form.register
def _layernorm(delta: LayerNormOnly, values: Tensor) -> Form:
    outer, tensors, modules = _outer(delta.backbone), {}, {}
    for name, p in delta.parameters(values).items():
        module, _, leaf = name.rpartition(".")
        modules[outer + module] = None
        tensors[f"base_model.model.{outer}{module}.ln_tuning_layers.{leaf}"] = p
    return {
        "peft_type": "LN_TUNING",
        "task_type": _task(delta.backbone),
        "target_modules": list(modules),
    }, tensors


@_form.register
def _prompt(delta: PromptTuning, values: Tensor) -> Form:
    prompt = delta.prompt(values)
    parts = 2 if _task(delta.backbone) == "SEQ_2_SEQ_LM" else 1
    return {
        "peft_type": "PROMPT_TUNING",
        "task_type": _task(delta.backbone),
        "num_virtual_tokens": len(prompt),
        "token_dim": prompt.shape[1],
        "num_transformer_submodules": parts,
        # PEFT has a second half for the decoder, and does not use it.
    }, {"prompt_embeddings": torch.cat([prompt, *[torch.zeros_like(prompt)] * (parts - 1)])}


@_form.register
def _prefix(delta: PrefixTuning, values: Tensor) -> Form:
    numbers, blocks = tuple(delta.backbone.cached_attentions), len(delta.backbone.layers)
    if delta.gate != "none" or not delta.shift or delta.numbers != numbers:
        allowed = "all blocks"
        if len(numbers) < blocks:
            allowed = f"blocks={list(numbers)} with attention='self', the decoder's"
        raise ValueError(
            f"delta='prefix' with gate={delta.gate!r}, shift={delta.shift}, attention={delta.attention!r} "
            f"and {len(delta.blocks)} of {blocks} blocks has no form in PEFT: allowed are gate='none', "
            f"shift=True and {allowed}; {_KEEP}."
        )
    pairs, layers, parts = delta.keys_values(values), len(numbers), 1
    heads, width, size = pairs[numbers[0]][0].shape
    # PEFT's row of a virtual token: key and value of block 0, of block 1, ..., head by head.
    columns = [[x.transpose(0, 1).reshape(width, -1) for x in pairs[t]] for t in numbers]
    if _task(delta.backbone) == "SEQ_2_SEQ_LM":
        # There it says the row twice and cuts it in fours, key and value of a block's own attention and of
        # one that it drops: with as many more blocks the first row is enough for all.
        columns = [[*pair, *(torch.zeros_like(x) for x in pair)] for pair in columns]
        layers, parts = 2 * layers, 2
    rows = torch.cat([x for row in columns for x in row], 1)
    config: Any = delta.backbone.model.config
    # PEFT itself turns hidden size and heads into those of keys and values, when it loads.
    grouped = hasattr(config, "num_key_value_heads")
    return {
        "peft_type": "PREFIX_TUNING",
        "task_type": _task(delta.backbone),
        "num_virtual_tokens": width,
        "token_dim": config.hidden_size if grouped else heads * size,
        "num_attention_heads": config.num_attention_heads if grouped else heads,
        "num_layers": layers,
        "num_transformer_submodules": parts,
    }, {"prompt_embeddings": rows}


def _outer(backbone: Backbone) -> str:
    """Return what stands before the names of the base model's modules in the model that PEFT wraps."""
    return "" if _task(backbone) == "FEATURE_EXTRACTION" else backbone.within


def _transposed(backbone: Backbone, names: Iterable[str]) -> bool:
    return any(matrix_shape(backbone.model.get_submodule(name))[2] for name in names)


def _task(backbone: Backbone) -> str:
    tasks = {"causal": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}
    return tasks.get("" if backbone.lm_head is None else backbone.kind, "FEATURE_EXTRACTION")


def _whole(x: float | int) -> float | int:
    """PEFT says that α is an integer; other readers of the file may insist."""
    return int(x) if x == int(x) else x
