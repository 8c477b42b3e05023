"""Let a policy act while any `transformers` model runs: plain forward hooks behind its blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deltatheory._shapes import Int
from deltatheory.control.feedback.controllers import Meter
from deltatheory.control.feedback.hooks import Pass, stacks_of, watching
from deltatheory.control.generation.policies import Memory, StatePolicy, Tokens

__all__ = ["Acting", "acting"]


class Acting:
    """A policy at work on the texts of one generation.

    Args:
        policy: that acts.
        lengths: how many tokens of each text are its prompt; by default those of the first pass.

    Attributes:
        meter: what it has cost; its texts are tokens that were moved.
    """

    def __init__(self, policy: StatePolicy, lengths: Int[Tensor, " B"] | None = None) -> None:
        self.policy, self.meter = policy, Meter()
        self.now: Pass | None = None
        self._memory = Memory()
        encoder = policy.model.get("encoder_blocks", 0)
        behind = [i for i, t in enumerate(policy.layers) if t >= encoder]
        self._begins = {0, *behind[:1]}  # places of the first of its layers in each stack
        # Of the prompts, where an answer passes; of what was read first in each stack by default.
        self._lengths = {} if lengths is None else dict.fromkeys(behind[:1], lengths)
        self._where: Any = None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the texts."""
        chosen, memory = list(rows), self._memory
        self._lengths = {i: length[chosen] for i, length in self._lengths.items()}
        memory.tokens = {name: value[chosen] for name, value in memory.tokens.items()}

    def __call__(self, i: int, x: Tensor, mask: Tensor) -> Tensor | None:
        """Return the states that the policy makes of x behind the i-th of its layers."""
        if i in self._begins:
            self._begin(i, mask.bool())
        if not self._where.any():
            return None
        u = self.policy.correction(i, x, self._where, self._memory)
        u = torch.where(self._where[..., None], u, torch.zeros_like(u))
        self.meter.squares = self.meter.squares + u.detach().square().sum()
        return x + u

    def _begin(self, i: int, real: Tensor) -> None:
        assert self.now is not None
        before = self.now.before
        length = self._lengths.setdefault(i, before + real.sum(1))
        if len(length) != len(real):
            raise ValueError(
                f"acting: began with {len(length)} texts and now sees {len(real)}; open a context for "
                "each generation, without beams."
            )
        self._memory.blocks.clear()
        if not before.any():  # the pass begins with the first tokens: no cache, or the first pass
            self._memory.tokens.clear()
        place = before[:, None] + real.long().cumsum(1) - 1
        self._where = real & _chosen(self.policy.tokens, place, length[:, None])
        self.meter.texts += int(self._where.sum())


def _chosen(tokens: Tokens, place: Tensor, length: Tensor) -> Tensor:
    if tokens == "all":
        return torch.ones_like(place, dtype=torch.bool)
    if tokens == "prompt":
        return place < length
    return place >= (length - 1 if tokens == "last" else length)


@contextmanager
def acting(
    model: nn.Module,
    layers: Iterable[nn.Module],
    policy: StatePolicy,
    lengths: Int[Tensor, " B"] | None = None,
) -> Iterator[Acting]:
    """Let a policy act behind the blocks of a model while the context is open; its hooks go at the end.

    The first pass inside is that of the prompts, on whatever side they are padded; what follows are passes of
    the same texts, with a cache of `transformers` (the newest tokens) or without (all of them again). Either
    way a token is moved alike, so the texts are the same.

    Args:
        model: any `transformers` model, called with its attention mask.
        layers: all its blocks, in order; those of an encoder before its decoder's.
        policy: for a model of this size.
        lengths: how many tokens of each text, or of what a decoder reads, are the prompt, where the first
            pass has more.

    Raises:
        ValueError: for a policy of a model of other sizes; while it acts, for another number of texts.
    """
    config: Any = model.config
    blocks = list(layers)
    stacks = stacks_of(model, blocks)
    here = {
        "hidden_size": config.hidden_size,
        "blocks": len(blocks),
        "encoder_blocks": len(stacks[0][1]) if len(stacks) > 1 else 0,
    }
    for name, own in here.items():
        made = policy.model.get(name, 0)
        if own != made:
            raise ValueError(f"policy: was made for a model with {name}={made}; this one has {own}.")
    at_work = Acting(policy, lengths)
    with watching(model, [blocks[t] for t in policy.layers], at_work) as at_work.now:
        yield at_work
