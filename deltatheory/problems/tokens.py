"""Texts as rows of token numbers, where tokens must be put after a text before it becomes a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deltatheory._shapes import Int
from deltatheory._texts import check_texts
from deltatheory.backbones import Backbone, Batch
from deltatheory.tasks import Examples

__all__ = [
    "NO_ANSWER",
    "answer_tokens",
    "answered",
    "batch_of",
    "check_suffix",
    "check_template",
    "continuation",
    "padded",
    "suffixed",
    "token_rows",
]

NO_ANSWER = -100  # no token: what is not counted in a loss


def token_rows(backbone: Backbone, examples: Examples, max_length: int) -> list[list[int]]:
    """Return the token numbers of every example's text (or pair), cut at `max_length`."""
    return _tokens(backbone, examples, max_length)["input_ids"]


def _tokens(backbone: Backbone, examples: Examples, max_length: int) -> Any:
    return backbone.tokenizer(
        list(examples.texts),
        None if examples.pairs is None else list(examples.pairs),
        truncation=True,
        max_length=max_length,
        return_token_type_ids=True,
    )


def suffixed(
    backbone: Backbone, examples: Examples, max_length: int, suffix: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Return token numbers with a suffix, which is never cut, and the segment number of each token.

    In a causal backbone the suffix stands at the end of each text or pair. In an encoder it ends the text, or
    the first text of a pair (Schick & Schütze 2021; Gao et al. 2021), before the marks that the tokenizer
    puts around texts; in an encoder-decoder the text or the second text of a pair.

    Args:
        backbone: whose tokenizer.
        examples: n texts or pairs.
        max_length: of text and suffix together, in tokens.
        suffix: token numbers.

    Raises:
        ValueError: for a max_length that leaves no token to the text.
    """
    paired = examples.pairs is not None
    marks = 0 if backbone.kind == "causal" else backbone.tokenizer.num_special_tokens_to_add(paired)
    room = max_length - len(suffix)
    if room <= marks:
        raise ValueError(f"max_length={max_length}: must be above {len(suffix) + marks}, the head's suffix.")
    found = _tokens(backbone, examples, room)
    rows, types = [], []
    for i, (row, kinds) in enumerate(zip(found["input_ids"], found["token_type_ids"], strict=True)):
        end = len(row)
        if backbone.kind != "causal":
            last = 0 if backbone.kind == "encoder" else int(paired)
            parts = list(enumerate(found.sequence_ids(i)))
            end = 1 + max((k for k, part in parts if part is not None and part <= last), default=0)
        rows.append([*row[:end], *suffix, *row[end:]])
        types.append([*kinds[:end], *[0] * len(suffix), *kinds[end:]])
    return rows, types


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


def answer_tokens(backbone: Backbone, text: str, before: str) -> list[int]:
    """Return the tokens of an answer, as a causal backbone goes on with it, or a decoder begins with it.

    Raises:
        ValueError: if the text has none, or as `continuation`.
    """
    if backbone.kind != "encoder-decoder":
        return continuation(backbone, text, before)
    tokens = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise ValueError(f"text={text!r}: the tokenizer of {backbone.name!r} gives it no token.")
    return tokens


def check_suffix(backbone: Backbone, suffix: str) -> tuple[int, ...]:
    """Return the tokens of what is put after each text of a causal backbone or an encoder-decoder.

    Raises:
        ValueError: for an encoder, a backbone without lm_head, or a suffix that is no text or ends in white
            space (the word after it brings its own).
    """
    check_texts("suffix", [suffix])
    if backbone.kind == "encoder" or backbone.lm_head is None:
        raise ValueError(
            f"{backbone.name!r} ({backbone.kind}) has no lm_head: take a causal checkpoint, or that of an "
            "encoder-decoder with its language-model head (AutoModelForSeq2SeqLM)."
        )
    if suffix != suffix.rstrip():
        raise ValueError(f"suffix={suffix!r}: must not end in white space; what follows it brings its own.")
    return tuple(backbone.tokenizer(suffix, add_special_tokens=False)["input_ids"]) if suffix else ()


def check_template(backbone: Backbone, suffix: str) -> tuple[tuple[int, ...], str]:
    """Return the tokens of a suffix with a mask, as in " It was [MASK].", and what stands before the mask.

    Raises:
        ValueError: for an encoder without its masked-language-model head, a suffix that is no text, or one
            that has not one mask.
    """
    check_texts("suffix", [suffix])
    if backbone.lm_head is None:
        raise ValueError(
            f"{backbone.name!r} ({backbone.kind}) has no lm_head: take a causal checkpoint, or that of an "
            "encoder with its masked-language-model head (AutoModelForMaskedLM)."
        )
    mask = backbone.tokenizer.mask_token
    if mask is None:
        raise ValueError(
            f"the tokenizer of {backbone.name!r} has no mask_token, which a suffix needs: set it."
        )
    parts = suffix.replace("[MASK]", mask).split(mask)
    if len(parts) != 2:
        raise ValueError(
            f"suffix={suffix!r} has {len(parts) - 1} masks: an encoder reads label words at one, as in "
            "' It was [MASK].'"
        )
    tokens = backbone.tokenizer(mask.join(parts), add_special_tokens=False)["input_ids"]
    return tuple(tokens), parts[0].rstrip()


def batch_of(
    backbone: Backbone,
    rows: Sequence[Sequence[int]],
    types: Sequence[Sequence[int]] | None = None,
    answers: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """Return rows of token numbers as a batch, padded on the right.

    Args:
        backbone: whose batch.
        rows: token numbers.
        types: the segment number of each token, for models that have segments; 0 by default.
        answers: what the decoder of an encoder-decoder reads; its start by default.
    """
    segments = getattr(backbone.model.config, "type_vocab_size", 0) > 1
    kinds = padded(types or [[0] * len(row) for row in rows], 0) if segments else None
    pad, dtype = backbone.tokenizer.pad_token_id, backbone.dtype
    read = None if answers is None else (padded(answers, pad), _real(answers).to(dtype))
    return backbone.batch(padded(rows, pad), _real(rows).to(dtype), kinds, read)


def answered(
    backbone: Backbone, sources: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[Batch, Int[Tensor, "B T"]]:
    """Return texts with their answers, and at each token the answer's token that follows, or `NO_ANSWER`.

    Args:
        backbone: causal, or an encoder-decoder, whose decoder reads the answers.
        sources: token numbers.
        answers: token numbers of what is said after each.
    """
    if backbone.kind == "encoder-decoder":
        before: Sequence[Sequence[int]] = [backbone.start] * len(sources)
        read = [[*first, *answer[:-1]] for first, answer in zip(before, answers, strict=True)]
        batch = batch_of(backbone, sources, answers=read)
    else:
        before = sources
        batch = batch_of(backbone, [[*a, *b] for a, b in zip(sources, answers, strict=True)])
    labels = torch.full_like(batch.final.input_ids, NO_ANSWER)
    for k, (first, answer) in enumerate(zip(before, answers, strict=True)):
        labels[k, len(first) - 1 : len(first) - 1 + len(answer)] = torch.tensor(answer)
    return batch, labels


def padded(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "n width"]:
    """Return rows of numbers as a tensor, filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def _real(rows: Sequence[Sequence[int]]) -> Tensor:
    return padded([[1] * len(row) for row in rows], 0)
