"""Texts that a model goes on with under a policy, and how likely the frozen model finds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from deltatheory._numbers import check_number
from deltatheory._texts import check_texts
from deltatheory.backbones import Backbone, CachedTexts, Edit, RereadTexts
from deltatheory.control.generation.acting import acting
from deltatheory.control.generation.contrast import check_generates, check_made_for
from deltatheory.control.generation.policies import CacheEdit, GenerationPolicy, StatePolicy
from deltatheory.problems.greedy import greedy_answers
from deltatheory.problems.tokens import NO_ANSWER, answered, batch_of

__all__ = ["Continuations", "generate", "perplexity", "prompt_tokens"]


@dataclass(frozen=True)
class Continuations:
    """What a model went on with.

    Attributes:
        texts: one a prompt, without the prompt.
        tokens: their numbers, the end-of-text token included where it came.
        energy: |u|² of a token that was moved, summed over the layers, in the mean; 0 of a cache edit.
    """

    texts: list[str]
    tokens: list[list[int]]
    energy: float


def prompt_tokens(
    backbone: Backbone, prompts: Sequence[str], max_new_tokens: int, edit: Edit | None = None
) -> list[list[int]]:
    """Return the token numbers of prompts that leave room for an answer.

    Args:
        backbone: that goes on with them.
        prompts: texts.
        max_new_tokens: of an answer.
        edit: under which; what it puts before a text takes room.

    Raises:
        ValueError: for no prompts, what is no text or has no token, or a prompt that, with its answer where
            one stack reads both, is longer than the model takes.
    """
    check_number("max_new_tokens", max_new_tokens, whole=True, least=1)
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts={prompts!r}: give a non-empty sequence of texts.")
    check_texts("prompts", prompts)
    rows = backbone.tokenizer(list(prompts))["input_ids"]
    edit = edit or Edit()
    taken, shift = 0 if edit.prompt is None else edit.prompt.shape[-2], edit.shift
    if backbone.kind != "encoder-decoder":
        taken += shift + max_new_tokens
    elif (most := backbone.max_length - shift - len(backbone.start) + 1) < max_new_tokens:
        raise ValueError(
            f"max_new_tokens={max_new_tokens}: allowed are 1 to {most}, what the decoder of "
            f"{backbone.name!r} takes behind its start."
        )
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(f"prompts[{i}]={prompts[i]!r} gives no token: leave it out.")
        if len(row) + taken > backbone.max_length:
            raise ValueError(
                f"max_new_tokens={max_new_tokens}: prompts[{i}] has {len(row)} tokens, and {backbone.name!r} "
                f"takes at most {backbone.max_length}; shorten it, or ask for fewer."
            )
    return rows


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    policy: GenerationPolicy | None = None,
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
    cache: bool = True,
) -> Continuations:
    """Return what the model goes on with, greedily, while a policy moves its states.

    The texts are the same with the cache and without, and whatever prompts are in a batch.

    Args:
        backbone: causal or an encoder-decoder, frozen.
        prompts: texts; an encoder-decoder answers them.
        policy: that acts on the states or, once, on the cache, or is tuned; the frozen model by default.
        max_new_tokens: of a continuation.
        batch_size: prompts that run at once.
        cache: keep keys and values of what was read.

    Raises:
        ValueError: for a backbone that does not generate, a policy of another one, an edit of a cache that
            there is not, or prompts that are none or leave no room.
        FloatingPointError: if a logit is not finite, as under too strong a policy.
    """
    check_generates(backbone)
    check_number("batch_size", batch_size, whole=True, least=1)
    if policy is not None:
        check_made_for(policy.model, backbone)
    if isinstance(policy, CacheEdit) and not cache:
        raise ValueError("cache=False: the policy edits the cache; allowed is True.")
    edit = Edit() if policy is None else policy.edit()
    rows = prompt_tokens(backbone, prompts, max_new_tokens, edit)
    answers: list[list[int]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # prompts of like length run together
    squares, moved = 0.0, 0
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        acts = isinstance(policy, StatePolicy)
        context = acting(backbone.model, backbone.layers, policy) if acts else nullcontext()
        with context as at_work:
            batch = batch_of(backbone, [rows[i] for i in chosen])
            texts = (CachedTexts if cache else RereadTexts)(backbone, batch, edit)
            if isinstance(policy, CacheEdit) and isinstance(texts, CachedTexts):
                for t, key, value in zip(policy.layers, policy.key, policy.value, strict=True):
                    texts.shift(t, key, value)
            found = greedy_answers(
                texts,
                partial(backbone.vocabulary_logits, parameters=edit.parameters),
                backbone.tokenizer.eos_token_id,
                max_new_tokens,
                None if at_work is None else at_work.keep,
            )
            if at_work is not None:
                squares, moved = squares + float(at_work.meter.squares), moved + at_work.meter.texts
        for i, answer in zip(chosen, found, strict=True):
            answers[i] = answer
    said = [backbone.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    return Continuations(said, answers, squares / max(moved, 1))


@torch.no_grad()
def perplexity(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    batch_size: int = 16,
) -> float:
    """Return exp of the mean of -log p(token | what stands before it) over the answers' tokens.

    Args:
        backbone: causal or an encoder-decoder, frozen, without a policy.
        prompts: token numbers of texts.
        answers: token numbers of what follows each, at least one.
        batch_size: texts that run at once.
    """
    loss, count = 0.0, 0
    for start in range(0, len(prompts), batch_size):
        part = range(start, min(start + batch_size, len(prompts)))
        batch, labels = answered(backbone, [prompts[i] for i in part], [answers[i] for i in part])
        where = labels != NO_ANSWER
        logits = backbone.vocabulary_logits(backbone.hidden_states(batch)[where]).to(backbone.wide_dtype)
        loss += float(cross_entropy(logits, labels[where], reduction="sum"))
        count += int(where.sum())
    return math.exp(loss / count)
