"""Language models with random weights and texts of random words: sizes are measured with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deltatheory.backbones import Backbone, wrap_model
from deltatheory.tasks import Examples, Task


def random_model(config: Any, name: str, device: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """Return a language model of a configuration of `transformers`, drawn where it is to be."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

    words = _words(config.vocab_size)
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=words[0])
    torch.manual_seed(0)
    with torch.device(device):
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_config(config, dtype=dtype).eval()
    return wrap_model(model, tokenizer, name=name)


def random_task(texts: int, length: int, vocabulary: int) -> Task:
    """Return a task of two classes whose texts have so many words each, the same in all splits."""
    words = _words(vocabulary)
    draw = np.random.default_rng(0).integers(1, len(words), (texts, length))
    lines = tuple(" ".join(words[i] for i in row) for row in draw)
    split = Examples(lines, labels=tuple(i % 2 for i in range(texts)))
    return Task("random-words", "classification", ("even", "odd"), split, split, split, {})


def _words(vocabulary: int) -> list[str]:
    return [f"w{i}" for i in range(vocabulary)]
