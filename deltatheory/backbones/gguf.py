"""Models in a GGUF file: configuration, tokenizer and weights in one, dequantized where need be."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from deltatheory.backbones.families import FAMILIES, family_of

__all__ = ["check_causal", "find_gguf", "read_config", "read_gguf"]

_INSTALL = "pip install --no-deps gguf==0.19.0"


def find_gguf(folder: Path) -> Path | None:
    """Return the GGUF file of a folder that has one and no config.json.

    Raises:
        ValueError: for several of them, or without the package that reads them.
    """
    files = [] if (folder / "config.json").exists() else sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ValueError(f"{str(folder)!r} holds {names}: leave one GGUF file in a folder of its own")
    if not files:
        return None
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"{files[0].name} needs the package gguf: {_INSTALL}")
    return files[0]


def _place(file: Path) -> dict[str, Any]:
    return {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}


def read_config(file: Path) -> dict[str, Any]:
    """Return the configuration; of an architecture whose GGUF files `transformers` does not read its name."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(file.parent, **_place(file)).to_dict()
    except ValueError:
        name = importlib.import_module("gguf").GGUFReader(file).fields["general.architecture"].contents()
        if name in FAMILIES:
            raise
        return {"model_type": name}


def check_causal(file: Path, config: dict[str, Any]) -> None:
    """Refuse what is no causal language model of a family here.

    Raises:
        ValueError: which says so.
    """
    if family_of(SimpleNamespace(**config)).kind != "causal":
        raise ValueError(f"{str(file)!r}: model_type={config['model_type']!r} is no causal language model")


def read_gguf(file: Path, attention: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Return the model, with its `lm_head`, and the tokenizer.

    The model is built from its configuration as one that was never quantized, so that it can be saved. A
    length that the tokenizer does not know is the model's.
    """
    from tqdm.auto import tqdm
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer
    from transformers import modeling_gguf_pytorch_utils as reader

    reader.tqdm = partial(tqdm, disable=None)  # no setting reaches this bar: on terminals alone
    place = _place(file)
    read: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=dtype, **place)
    config = read.config
    del config.quantization_config
    config._attn_implementation = attention
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        model = kind(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    for name, buffer in read.named_buffers():  # rotary frequencies are in no state
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    return model.eval(), tokenizer
