"""Deltas written as adapters that the `peft` library loads."""

from __future__ import annotations

import copy
import os
from functools import singledispatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.adapters.files import WEIGHTS, peft_library
from deltatheory.adapters.imported import PeftDelta
from deltatheory.backbones import Backbone
from deltatheory.deltas import Delta, WithHead
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning
from deltatheory.deltas.subspace import project
from deltatheory.deltas.targets import matrix_shape
from deltatheory.deltas.unilora import UniLoRA
from deltatheory.results import write_atomically

__all__ = ["has_peft_form", "to_peft"]

_KEEP = "deltatheory.deltas.files.save_delta keeps every delta as safetensors"


def to_peft(
    delta: Delta,
    values: Float[Tensor, " m"],
    folder: str | os.PathLike[str],
    base_model_name: str | None = None,
) -> None:
    """Write a delta at δ as an adapter that `peft.PeftModel.from_pretrained(base, folder)` loads.

    The base there is `AutoModelForCausalLM` of a causal backbone with an `lm_head`, `AutoModel` of any other,
    and `AutoModelForSequenceClassification` where the checkpoint's own head was trained beside the delta.

    Args:
        delta: `LoRA`, `UniLoRA` (written as the LoRA that it is), `PromptTuning`, `PrefixTuning` of all
            blocks with gate "none" and shift (an MLP is evaluated), what `from_peft` made, or a `WithHead` of
            one of them and the head "own".
        values: δ.
        folder: where adapter_config.json and adapter_model.safetensors go.
        base_model_name: what adapter_config.json names as the base; the backbone's name by default.

    Raises:
        ImportError: without `peft`.
        ValueError: for values of another length, or a delta that PEFT has no form for.
    """
    peft = peft_library()
    if values.shape != (delta.size,):
        raise ValueError(f"values.shape={tuple(values.shape)}: {delta.name!r} needs ({delta.size},).")
    config, tensors = _form(delta, values, peft)
    from safetensors.torch import save

    config.base_model_name_or_path = base_model_name or delta.backbone.name
    config.inference_mode = True
    with TemporaryDirectory() as aside:  # peft's own writing is not atomic
        config.save_pretrained(aside)
        written = {path.name: path.read_bytes() for path in Path(aside).iterdir()}
    whole = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    for name, content in {WEIGHTS: save(whole, {"format": "pt"}), **written}.items():
        write_atomically(Path(folder) / name, content)


def has_peft_form(delta: Delta) -> bool:
    """Return whether `to_peft` can write a delta here."""
    try:
        _form(delta, delta.initial(), peft_library())
    except (ValueError, ImportError):
        return False
    return True


@singledispatch
def _form(delta: Delta, values: Tensor, peft: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return PEFT's configuration of a delta, and its tensors by PEFT's names."""
    raise ValueError(
        f"delta={delta.name!r} has no form in PEFT: allowed are 'lora', 'unilora', 'prompt', 'prefix' "
        f"and imported adapters; {_KEEP}."
    )


@_form.register
def _imported(delta: PeftDelta, values: Tensor, peft: Any) -> tuple[Any, dict[str, Tensor]]:
    if len(active := delta.model.active_adapters) > 1:
        raise ValueError(
            f"the adapters {active} are active together: one folder holds one; set_adapter of one."
        )
    with delta.written(values) as model:
        tensors = peft.get_peft_model_state_dict(
            model, adapter_name=model.active_adapter, save_embedding_layers=False
        )
        tensors = {name: x.detach().clone() for name, x in tensors.items()}
    return copy.deepcopy(delta.model.active_peft_config), tensors


@_form.register
def _with_head(delta: WithHead, values: Tensor, peft: Any) -> tuple[Any, dict[str, Tensor]]:
    inner, head = delta.split(values)
    if delta.head != "own" or any(".lora_" in f".{name}" for name in head):
        raise ValueError(
            f"delta: the trained head={delta.head!r} has no form in PEFT: allowed is 'own', a classifier "
            f"that is trained whole; {_KEEP}."
        )
    if isinstance(delta.delta, PromptTuning) and delta.backbone.kind == "encoder":
        raise ValueError(
            "delta='prompt' with a trained head has no form in PEFT, whose encoders read the first virtual "
            f"token: allowed are the other deltas, and causal backbones; {_KEEP}."
        )
    config, tensors = _form(delta.delta, inner, peft)
    name = "classifier" if delta.backbone.kind == "encoder" else "score"
    outer = "base_model." if config.is_prompt_learning else "base_model.model."
    if not isinstance(delta.delta, PeftDelta):  # written for the base model alone
        config.task_type = "SEQ_CLS"
        if not config.is_prompt_learning:
            within: Any = f"{delta.backbone.model.base_model_prefix}."
            tensors = {f"{outer}{within}{n.removeprefix(outer)}": x for n, x in tensors.items()}
            config.target_modules = {within + n for n in config.target_modules}
            for pattern in (config.rank_pattern, config.alpha_pattern):
                for key in list(pattern):
                    pattern[within + key] = pattern.pop(key)
    config.modules_to_save = sorted({*(getattr(config, "modules_to_save", None) or ()), name})
    return config, {**tensors, **{f"{outer}{name}.{n}": x for n, x in head.items()}}


@_form.register
def _unilora(delta: UniLoRA, values: Tensor, peft: Any) -> tuple[Any, dict[str, Tensor]]:
    return _lora(delta.lora, project(delta.projection, values), peft)


@_form.register
def _lora(delta: LoRA, values: Tensor, peft: Any) -> tuple[Any, dict[str, Tensor]]:
    backbone: Any = delta.backbone
    outer = f"{backbone.model.base_model_prefix}." if _task(backbone) == "CAUSAL_LM" else ""
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in delta.factors(values).items():
        tensors[f"base_model.model.{outer}{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{outer}{name}.lora_B.weight"] = b
    alpha = delta.r if delta.alpha is None else delta.alpha
    alphas = {outer + n: r if delta.alpha is None else alpha for n, r in delta.ranks.items()}
    config = peft.LoraConfig(
        task_type=_task(backbone),
        r=delta.r,
        lora_alpha=_whole(alpha),
        target_modules=[outer + name for name in delta.targets],
        rank_pattern={outer + name: r for name, r in delta.ranks.items() if r != delta.r},
        alpha_pattern={name: _whole(x) for name, x in alphas.items() if x != alpha},
        fan_in_fan_out=any(matrix_shape(backbone.model.get_submodule(n))[2] for n in delta.targets),
        lora_dropout=0.0,
        bias="none",
    )
    return config, tensors


@_form.register
def _prompt(delta: PromptTuning, values: Tensor, peft: Any) -> tuple[Any, dict[str, Tensor]]:
    prompt = delta.prompt(values)
    config = peft.PromptTuningConfig(
        task_type=_task(delta.backbone),
        num_virtual_tokens=len(prompt),
        token_dim=prompt.shape[1],
        num_transformer_submodules=1,
    )
    return config, {"prompt_embeddings": prompt}


@_form.register
def _prefix(delta: PrefixTuning, values: Tensor, peft: Any) -> tuple[Any, dict[str, Tensor]]:
    layers = len(delta.backbone.layers)
    if delta.gate != "none" or not delta.shift or len(delta.blocks) != layers:
        raise ValueError(
            f"delta='prefix' with gate={delta.gate!r}, shift={delta.shift} and {len(delta.blocks)} of "
            f"{layers} blocks has no form in PEFT: allowed are gate='none', shift=True and all blocks; "
            f"{_KEEP}."
        )
    pairs = delta.keys_values(values)
    heads, width, size = pairs[0][0].shape
    # PEFT's row of a virtual token: key and value of block 0, of block 1, ..., head by head.
    rows = torch.cat([x.transpose(0, 1).reshape(width, -1) for t in range(layers) for x in pairs[t]], 1)
    config: Any = delta.backbone.model.config
    # PEFT itself turns hidden size and heads into those of keys and values, when it loads.
    grouped = hasattr(config, "num_key_value_heads")
    config = peft.PrefixTuningConfig(
        task_type=_task(delta.backbone),
        num_virtual_tokens=width,
        token_dim=config.hidden_size if grouped else heads * size,
        num_attention_heads=config.num_attention_heads if grouped else heads,
        num_layers=layers,
        num_transformer_submodules=1,
    )
    return config, {"prompt_embeddings": rows}


def _task(backbone: Backbone) -> str:
    causal = backbone.kind == "causal" and backbone.lm_head is not None
    return "CAUSAL_LM" if causal else "FEATURE_EXTRACTION"


def _whole(x: float | int) -> float | int:
    """PEFT says that α is an integer; other readers of the file may insist."""
    return int(x) if x == int(x) else x
