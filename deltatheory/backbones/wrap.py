"""A model at hand as a backbone: what it must be, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
from itertools import takewhile
from typing import Any, cast

import torch
from torch import nn

from deltatheory.backbones.backbone import Backbone
from deltatheory.backbones.families import Attention, Family, family_of, prepare

__all__ = ["check_start", "wrap_model"]

_RELATIVE = 512  # tokens that T5 was trained on, whose relative positions have no end


def _length_limit(config: Any, tokenizer: Any, family: Family, cap: int | None) -> int:
    positions = getattr(config, "max_position_embeddings", _RELATIVE)
    if family.offset_positions:
        positions -= config.pad_token_id + 1
    # One 4-D mask serves every block, so a text must fit into the sliding window where there is one.
    window = getattr(config, "sliding_window", None)
    limits = {
        "max_position_embeddings": positions,
        "sliding_window": window,
        "max_length": cap,
        "model_max_length": getattr(tokenizer, "model_max_length", None),
    }
    given = {name: limit for name, limit in limits.items() if limit}
    for name, limit in given.items():
        if not isinstance(limit, int | float) or not limit >= 1:
            raise ValueError(f"{name}={limit!r}: must be a number of at least 1")
    return int(min(given.values()))


def _check_places(model: Any, name: str) -> None:
    """Refuse a model whose weights are not where they are used: put aside by a device map, or not loaded."""
    if any(p.is_meta for p in model.parameters()):
        places = sorted({str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()})
        raise ValueError(
            f"device_map of {name!r} is over {places}: weights put aside on 'cpu' or 'disk' are not "
            "supported; spread it over devices that hold it, load it in 'bfloat16', or take a smaller model"
        )


def _check_vocabulary(name: str, base: nn.Module, tokenizer: Any) -> None:
    """Refuse a tokenizer that is not the model's: numbers without a row, or most rows without a number."""
    rows: int = cast(Any, base).get_input_embeddings().weight.shape[0]
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    token, number = max(vocabulary.items(), key=lambda item: item[1], default=("", 0))
    if number >= rows:
        raise ValueError(
            f"the tokenizer of {name!r} gives {token!r} the number {number}, and the model has {rows} word "
            "embeddings: load the tokenizer that belongs to it, or resize_token_embeddings before training"
        )
    # Tables are padded to round sizes, but not to twice what they hold.
    if 2 * len(vocabulary) < rows or vocabulary.keys() <= set(tokenizer.all_special_tokens):
        raise ValueError(
            f"the tokenizer of {name!r} knows {len(vocabulary)} tokens, and the model has {rows} word "
            "embeddings: its files are missing, or it belongs to another model"
        )


def _contents_sha256(model: nn.Module, tokenizer: Any) -> str:
    """Name a model that came from no file: its weights, its configuration and its vocabulary."""
    settings: dict[str, Any] = cast(Any, model).config.to_diff_dict()
    settings = {k: v for k, v in settings.items() if k not in ("_name_or_path", "transformers_version")}
    about = [settings, sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_heads(model: Any, base: nn.Module, family: Family) -> tuple[nn.Module | None, nn.Module | None]:
    """Return the map to the vocabulary and the classification head of a model, where it has them."""
    import transformers

    def is_for(task: str) -> bool:
        return type(model) is getattr(transformers, f"MODEL_FOR_{task}_MAPPING").get(type(model.config), None)

    if base is model:
        return None, None
    if family.kind == "encoder-decoder":
        lm_head = _with_bias(model.get_output_embeddings(), getattr(model, "final_logits_bias", None))
        return lm_head, getattr(model, "classification_head", None)
    if family.kind == "causal":
        sorts = is_for("SEQUENCE_CLASSIFICATION") or is_for("CAUSAL_LM")  # a language model may be given one
        return model.get_output_embeddings(), getattr(model, "score", None) if sorts else None
    if is_for("MASKED_LM"):
        return model.cls if hasattr(model, "cls") else model.lm_head, None
    return None, model.classifier if is_for("SEQUENCE_CLASSIFICATION") else None


def _with_bias(lm_head: nn.Module | None, bias: torch.Tensor | None) -> nn.Module | None:
    """Return the map to the vocabulary with what BART adds behind it, on the same weight."""
    if lm_head is None or bias is None or not bias.any():
        return lm_head
    weight: torch.Tensor = cast(Any, lm_head).weight
    whole = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    whole.weight, whole.bias = cast(nn.Parameter, weight), nn.Parameter(bias[0], requires_grad=False)
    return whole


def _base_of(model: Any, family: Family, name: str) -> nn.Module:
    """Return the base model inside a model, or around the stacks that a bare one holds itself.

    Raises:
        ValueError: for one stack of an encoder-decoder, or one with the head of another task.
    """
    import transformers

    if family.kind != "encoder-decoder":
        return getattr(model, "base_model", model)
    tasks = ("", "FOR_SEQ_TO_SEQ_CAUSAL_LM_", "FOR_SEQUENCE_CLASSIFICATION_")
    mappings = (getattr(transformers, f"MODEL_{task}MAPPING") for task in tasks)
    whole: list[Any] = [mapping[type(model.config)] for mapping in mappings]
    if type(model) not in whole:
        raise ValueError(
            f"{name!r} is a {type(model).__name__}: an encoder-decoder is read whole, without another head; "
            f"allowed are {', '.join(kind.__name__ for kind in whole)}"
        )
    if not family.bare or type(model) is not whole[1]:
        return model.base_model
    with torch.device("meta"):
        base = whole[0](model.config)
    for part in [part for part, _ in base.named_children()]:
        setattr(base, part, getattr(model, part))
    return base.eval()


def check_start(config: Any, name: str) -> int:
    """Return the token that the decoder of an encoder-decoder begins with.

    Raises:
        ValueError: if its configuration names none.
    """
    first = getattr(config, "decoder_start_token_id", None)
    if first is None:
        raise ValueError(
            f"decoder_start_token_id=None of {name!r}: its decoder has nothing to begin with; set it in the "
            "configuration (pad_token_id for T5)"
        )
    return first


def _start_of(config: Any, tokenizer: Any, name: str) -> tuple[int, ...]:
    """Return what the decoder reads before an answer: its start token, and the tokenizer's marks (BART's)."""
    special, ids = set(tokenizer.all_special_ids), tokenizer("a")["input_ids"]
    return (check_start(config, name), *takewhile(lambda token: token in special, ids))


def wrap_model(
    model: nn.Module,
    tokenizer: Any,
    *,
    name: str,
    revision: str | None = None,
    attention: Attention = "eager",
    max_length: int | None = None,
    weights_sha256: str | None = None,
    files_sha256: str | None = None,
) -> Backbone:
    """Prepare a `transformers` model at hand, in place, as a backbone.

    Arguments:
        model: a base model (`AutoModel`), a causal, masked or sequence-to-sequence language model
            (`AutoModelForCausalLM`, `AutoModelForMaskedLM`, `AutoModelForSeq2SeqLM`) or a classifier
            (`AutoModelForSequenceClassification`), whose heads are kept.
        tokenizer: set here to pad on the right; a missing pad token becomes the end-of-text token.
        name: for provenance and messages.
        revision: commit or package version.
        attention: see `prepare`.
        max_length: a limit below the model's own.
        weights_sha256: of the weight files.
        files_sha256: of the files of configuration and tokenizer.

    Raises:
        ValueError: for an unsupported architecture, quantized weights, weights that a device_map has put
            aside, one stack of an encoder-decoder, one whose decoder has no start token, or a
            tokenizer with no token to pad with or of another vocabulary than the model's.
    """
    config: Any = model.config
    family = family_of(config)
    _check_places(model, name)
    base = _base_of(model, family, name)
    start = _start_of(config, tokenizer, name) if family.kind == "encoder-decoder" else ()
    prepare(model, attention)
    lm_head, classifier = _own_heads(model, base, family)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer of {name!r} has neither pad_token nor eos_token: set pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    _check_vocabulary(name, base, tokenizer)
    provenance: dict[str, Any] = {
        "name": name,
        "revision": revision,
        "weights_sha256": weights_sha256,
        "architecture": type(base).__name__,
        "parameters": sum(p.numel() for p in base.parameters()),
    }
    if files_sha256 is not None:
        provenance["files_sha256"] = files_sha256
    if weights_sha256 is None and revision is None:
        provenance["contents_sha256"] = _contents_sha256(model, tokenizer)
    limit = _length_limit(config, tokenizer, family, max_length)
    about = (name, revision, family.kind, provenance, config.hidden_size, limit)
    return Backbone(base, tokenizer, *about, lm_head, classifier, start)
