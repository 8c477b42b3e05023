"""Texts as rows of token numbers, where tokens must be put after a text before it becomes a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deltatheory._texts import check_texts
from deltatheory.backbones import Backbone, Batch
from deltatheory.backbones.batch import additive_mask
from deltatheory.tasks import Examples

__all__ = ["batch_of", "check_suffix", "continuation", "token_rows"]


def token_rows(backbone: Backbone, examples: Examples, max_length: int) -> list[list[int]]:
    """Return the token numbers of every example's text (or pair), cut at `max_length`."""
    encoded = backbone.tokenizer(
        list(examples.texts),
        None if examples.pairs is None else list(examples.pairs),
        truncation=True,
        max_length=max_length,
    )
    return encoded["input_ids"]


def continuation(backbone: Backbone, text: str, before: str) -> list[int]:
    """Return the tokens with which `before` goes on when `text` follows it after a space.

    Tokenizers mark the beginning of a word and of a text, so a word alone may be other tokens than in place.

    Raises:
        ValueError: if the text adds no token, or changes those of what stands before it.
    """
    before = before or "."
    first = backbone.tokenizer(before, add_special_tokens=False)["input_ids"]
    both = backbone.tokenizer(f"{before} {text}", add_special_tokens=False)["input_ids"]
    if both[: len(first)] != first or len(both) == len(first):
        raise ValueError(
            f"text={text!r}: the tokenizer of {backbone.name!r} gives it none of its own after {before!r}."
        )
    return both[len(first) :]


def check_suffix(backbone: Backbone, suffix: str) -> tuple[int, ...]:
    """Return the tokens of what is put after each text.

    Raises:
        ValueError: for a backbone that is not causal, or a suffix that is no text or ends in white space (the
            word after it brings its own).
    """
    check_texts("suffix", [suffix])
    if backbone.kind != "causal" or backbone.lm_head is None:
        raise ValueError(f"{backbone.name!r} ({backbone.kind}) has no lm_head: take a causal checkpoint.")
    if suffix != suffix.rstrip():
        raise ValueError(f"suffix={suffix!r}: must not end in white space; what follows it brings its own.")
    return tuple(backbone.tokenizer(suffix, add_special_tokens=False)["input_ids"]) if suffix else ()


def batch_of(backbone: Backbone, rows: Sequence[Sequence[int]]) -> Batch:
    """Return rows of token numbers as a batch of a causal backbone, padded on the right."""
    width = max(len(row) for row in rows)
    pad = backbone.tokenizer.pad_token_id
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    places = torch.arange(width).expand(len(rows), -1).contiguous()
    mask = (places < lengths[:, None]).to(backbone.dtype)
    return Batch(ids, mask, additive_mask(mask, True), places).to(backbone.device)
