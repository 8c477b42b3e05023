"""Let a policy act while any `transformers` model runs: plain forward hooks behind its blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deltatheory._shapes import Int
from deltatheory.control.feedback.controllers import Meter
from deltatheory.control.feedback.hooks import Pass, watching
from deltatheory.control.generation.policies import Memory, StatePolicy, Tokens

__all__ = ["Acting", "acting"]


class Acting:
    """A policy at work on the texts of one generation.

    Args:
        policy: that acts.

    Attributes:
        meter: what it has cost; its texts are tokens that were moved.
    """

    def __init__(self, policy: StatePolicy) -> None:
        self.policy, self.meter = policy, Meter()
        self.now: Pass | None = None
        self._memory = Memory()
        self._lengths: Int[Tensor, " B"] | None = None
        self._where: Any = None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the texts."""
        memory, lengths = self._memory.tokens, self._lengths
        if lengths is not None:
            chosen = torch.tensor(rows, device=lengths.device)
            self._lengths = lengths[chosen]
            self._memory.tokens = {key: value[chosen] for key, value in memory.items()}

    def __call__(self, i: int, x: Tensor, mask: Tensor) -> Tensor | None:
        """Return the states that the policy makes of x behind the i-th of its layers."""
        if i == 0:
            self._begin(mask.bool())
        if not self._where.any():
            return None
        u = self.policy.correction(i, x, self._where, self._memory)
        u = torch.where(self._where[..., None], u, torch.zeros_like(u))
        self.meter.squares = self.meter.squares + u.square().sum()
        return x + u

    def _begin(self, real: Tensor) -> None:
        assert self.now is not None
        before = self.now.before
        if self._lengths is None:
            self._lengths = before + real.sum(1)
        if len(self._lengths) != len(real):
            raise ValueError(
                f"acting: began with {len(self._lengths)} texts and now sees {len(real)}; open a context for "
                "each generation, without beams."
            )
        self._memory.blocks.clear()
        if not before.any():  # the pass begins with the first tokens: no cache, or the first pass
            self._memory.tokens.clear()
        place = before[:, None] + real.long().cumsum(1) - 1
        self._where = real & _chosen(self.policy.tokens, place, self._lengths[:, None])
        self.meter.texts += int(self._where.sum())


def _chosen(tokens: Tokens, place: Tensor, length: Tensor) -> Tensor:
    if tokens == "all":
        return torch.ones_like(place, dtype=torch.bool)
    if tokens == "prompt":
        return place < length
    return place >= (length - 1 if tokens == "last" else length)


@contextmanager
def acting(model: nn.Module, layers: Iterable[nn.Module], policy: StatePolicy) -> Iterator[Acting]:
    """Let a policy act behind the blocks of a model while the context is open; its hooks go at the end.

    The first pass inside is that of the prompts, on whatever side they are padded; what follows are passes of
    the same texts, with a cache of `transformers` (the newest tokens) or without (all of them again). Either
    way a token is moved alike, so the texts are the same.

    Args:
        model: any `transformers` model, called with its attention mask.
        layers: all its blocks, in order.
        policy: for a model of this size.

    Raises:
        ValueError: for a policy of a model of another size; while it acts, for another number of texts.
    """
    config: Any = model.config
    blocks = list(layers)
    for name, here in (("hidden_size", config.hidden_size), ("blocks", len(blocks))):
        if here != policy.model[name]:
            raise ValueError(
                f"policy: was made for a model with {name}={policy.model[name]}; this one has {here}."
            )
    at_work = Acting(policy)
    with watching(model, [blocks[t] for t in policy.layers], at_work) as at_work.now:
        yield at_work
