"""Greedy answers: each text goes on with its likeliest token, to its end or to a limit."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from deltatheory.backbones import CachedTexts, RereadTexts
from deltatheory.problems.base import NOT_FINITE

__all__ = ["greedy_answers"]


def greedy_answers(
    texts: CachedTexts | RereadTexts,
    logits: Callable[[Tensor], Tensor],
    end: int | None,
    most: int,
    on_keep: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Return the tokens with which texts go on.

    Args:
        texts: that were read.
        logits: last hidden states ↦ logits of the vocabulary.
        end: the token that ends an answer, of which it is part.
        most: tokens of an answer.
        on_keep: called with the places, among the texts that go on, of those that still do.

    Raises:
        FloatingPointError: if a logit is not finite.
    """
    answers: list[list[int]] = [[] for _ in range(len(texts.last))]
    open_ = list(range(len(answers)))
    while True:
        scores = logits(texts.last)
        if not scores.isfinite().all():
            raise FloatingPointError(f"the logits are not finite: {NOT_FINITE}")
        chosen = scores.argmax(1)
        for i, token in zip(open_, chosen.tolist(), strict=True):
            answers[i].append(token)
        going = [k for k, i in enumerate(open_) if answers[i][-1] != end]
        if not going or len(answers[open_[0]]) == most:
            return answers
        open_ = [open_[k] for k in going]
        if len(going) < len(chosen):
            texts.keep(going)
            if on_keep is not None:
                on_keep(going)
        texts.read(chosen[going])
