"""Adapters in PEFT's format, put onto their base model: all that their configuration implies, and no more."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deltatheory.adapters.files import (
    CONFIG,
    adapter_folder,
    patterns_of,
    peft_library,
    read_config,
    read_weights,
)
from deltatheory.adapters.imported import PeftDelta, from_peft
from deltatheory.backbones import EMBEDDED, HUB_NAMES, Backbone, embedded_is_here, load_checkpoint
from deltatheory.deltas.patterns import check_patterns

__all__ = ["load_adapter"]

# PEFT's task ↦ the classes that `transformers` has for it, by configuration.
_CLASSES = {
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "FEATURE_EXTRACTION": "MODEL_MAPPING",
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "MASKED_LM": "MODEL_FOR_MASKED_LM_MAPPING",  # no task of PEFT's: known by its class alone
}
_RESIZE = (
    "If the vocabulary was resized for training, resize_token_embeddings of the model in the same way, and "
    "give model and tokenizer."
)
_ANY_SIZE = 4096  # what is asked for may go unused, within reason
_OWN_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head)\.modules_to_save\.")
_HEAD = re.compile(r"(.*\.)?(classifier|score|(classifier|classification_head)\.out_proj)(\.lora_B)?\.weight")


def load_adapter(
    adapter: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    tokenizer: Any = None,
    name: str | None = None,
    revision: str | None = None,
    check_name: bool = True,
    **options: Any,
) -> tuple[Backbone, PeftDelta]:
    """Load an adapter in PEFT's format onto its base model, as a backbone and a delta (`from_peft`).

    Args:
        adapter: a folder with adapter_config.json and adapter_model.safetensors, or a hub id.
        model: the base model, changed in place; by default the one that adapter_config.json names.
        tokenizer: of `model`; of one that is named, instead of its own.
        name: of `model`, where it is not what its configuration says.
        revision: of a hub id.
        check_name: whether the last part of the base model's name must be the one in adapter_config.json.
        options: further arguments of `wrap_model`.

    Raises:
        ImportError: without `peft`.
        ValueError: for an adapter that is not found or not safetensors, one of another base model, a model
            without a tokenizer, and as `from_peft`.
    """
    folder, at_hand = adapter_folder(adapter, revision), model is not None
    config, (tensors, noted) = read_config(folder), read_weights(folder)
    there = config.base_model_name_or_path or ""
    known = noted if noted in EMBEDDED and embedded_is_here(noted) else there
    if model is None:
        if not (name or known):
            raise ValueError(f"{str(adapter)!r} names no base model: give model and tokenizer.")
        model, own_tokenizer, found = load_checkpoint(
            name or known,
            revision=None if name or known != there else config.revision,
            download=name is not None,
            model_class=partial(_class_for, config),
            labels=_labels(tensors),
        )
        if tokenizer is None:
            tokenizer = own_tokenizer
        else:  # files do not name a model with another tokenizer
            found = {key: found[key] for key in ("name", "attention", "max_length")}
        options = found | options
        name = options.pop("name")
    elif tokenizer is None:
        raise ValueError("tokenizer=None: a model at hand needs its tokenizer.")
    own: str = getattr(model.config, "_name_or_path", "")
    here = [x for x in (name, own) if x]
    here += [HUB_NAMES[x] for x in here if x in HUB_NAMES]
    if check_name and there and here and _last(there) not in map(_last, here):
        raise ValueError(
            f"{str(adapter)!r} is an adapter of {there!r}, and model is {here[0]!r}: load that one, or pass "
            "check_name=False if they are the same under two names."
        )
    label = name or own or there
    try:
        wrapped = _wrapped(model, config, tensors)
    except Exception as error:  # a configuration may say anything, and PEFT raise anything of it
        cause = " ".join(
            (str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}").split()
        )
        raise ValueError(
            f"{str(adapter)!r}, an adapter of {there!r}, does not fit {label!r} ({type(model).__name__}): "
            f"{cause}"
        ) from error
    backbone, delta = from_peft(wrapped, tokenizer=tokenizer, name=label, **options)
    if not at_hand and not any(map(_OWN_HEAD.search, wrapped.state_dict())):
        backbone.classifier = None  # the adapter brings none, and the base may have left it random
    return backbone, delta


def _last(name: str) -> str:
    return name.partition("@")[0].rstrip("/").rsplit("/", 1)[-1].lower()


def _class_for(config: Any, base: Any) -> type[nn.Module] | None:
    """Return the class of model that an adapter was trained in; `None` where its configuration says nothing.

    Args:
        config: PEFT's configuration.
        base: the base model's.

    Raises:
        ValueError: for a causal head on an encoder-decoder.
    """
    import transformers

    task = config.task_type and str(getattr(config.task_type, "value", config.task_type))
    if task == "CAUSAL_LM" and base.is_encoder_decoder:
        raise ValueError(
            f"task_type='CAUSAL_LM' asks of the encoder-decoder {base.model_type!r} a causal head: allowed "
            "is 'SEQ_2_SEQ_LM'."
        )
    named = config.auto_mapping.get("base_model_class") if isinstance(config.auto_mapping, dict) else None
    for kind, mapping in _CLASSES.items():
        found = getattr(transformers, mapping).get(type(base), None)
        if found is not None and (kind == task if task else found.__name__ == named):
            return found
    return None


def _labels(tensors: Mapping[str, Tensor]) -> int | None:
    """Return how many classes the head in an adapter's file has; `None` where it has none."""
    return next((len(x) for name, x in tensors.items() if _HEAD.fullmatch(name) and x.ndim == 2), None)


def _wrapped(model: nn.Module, config: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the model with the adapter in it, trainable: all that its configuration implies, and no more.

    Raises:
        ValueError: for tensors that are missing, of another shape, or would take the place of frozen ones.
    """
    peft = peft_library()
    check_patterns(patterns_of(config), [name for name, _ in model.named_modules()], CONFIG)
    name, words = config.base_model_name_or_path, model.get_input_embeddings()  # type: ignore[operator]
    if beyond := [i for i in _tokens_of(config) if not 0 <= i < len(words.weight)]:
        raise ValueError(
            f"it trains the token {beyond[0]}, and the model has {len(words.weight)} word embeddings. "
            f"{_RESIZE}"
        )
    largest = max((n for x in tensors.values() for n in x.shape), default=0)
    if huge := [n for n in _sizes_of(config) if n > max(largest, _ANY_SIZE)]:  # before memory is taken for it
        raise ValueError(
            f"it asks for {huge[0]} ranks or tokens, and no tensor in its file is larger than {largest}."
        )
    config.inference_mode = config.is_prompt_learning  # which PEFT loads for inference only
    wrapped = peft.get_peft_model(model, config)
    config.base_model_name_or_path = name
    wanted = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    known = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=True)  # PEFT may add frozen tables
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - known.keys())
    if missing or extra:
        raise ValueError(
            f"tensors are in its file and not in the model ({_few(extra)}), or the other way round "
            f"({_few(missing)})."
        )
    for key, new in tensors.items():
        if new.shape != known[key].shape:
            raise ValueError(
                f"size mismatch for {key!r}: {tuple(new.shape)} in its file, {tuple(known[key].shape)} in "
                f"the model. {_RESIZE}"
            )
    peft.set_peft_model_state_dict(wrapped, {key: tensors[key] for key in wanted})
    _require_own(wrapped, {key: tensors[key] for key in tensors.keys() - wanted.keys()})
    if config.is_prompt_learning:
        for part, p in wrapped.prompt_encoder.named_parameters():
            p.requires_grad_(not part.endswith("frozen_embedding"))
    return wrapped


def _few(names: Sequence[str]) -> str:
    return f"{len(names)}, such as {names[0]!r}" if names else "0"


def _sizes_of(config: Any) -> list[int]:
    """Return the ranks and numbers of virtual tokens that a configuration asks for."""
    ranks = getattr(config, "rank_pattern", None)
    given = [getattr(config, "r", 0), getattr(config, "num_virtual_tokens", 0)]
    return [n for n in [*given, *(ranks.values() if isinstance(ranks, dict) else ())] if isinstance(n, int)]


def _tokens_of(config: Any) -> list[int]:
    """Return the numbers of the tokens that a configuration trains one by one."""
    given = getattr(config, "token_indices", None) or getattr(config, "trainable_token_indices", None) or []
    return [i for one in (given.values() if isinstance(given, Mapping) else [given]) for i in one]


def _require_own(model: Any, frozen: Mapping[str, Tensor]) -> None:
    """Refuse frozen tensors in an adapter's file that are not the model's own; none of them is loaded.

    Rows of tokens that are trained, and tables whose trained copy is used, may be as they like.
    """
    known = peft_library().get_peft_model_state_dict(model, save_embedding_layers=True)
    trained = _tokens_of(model.active_peft_config)
    for key, given in frozen.items():
        if ".original_module." in key:
            continue
        own = known[key].detach().to("cpu", given.dtype, copy=True)
        if key.endswith(".weight"):
            own[trained] = given[trained]
        if not torch.equal(own, given):
            raise ValueError(
                f"{key!r} in its file would take the place of a frozen tensor of the base model, with other "
                "numbers: give the model whose table that is, or take it out of the file."
            )
