"""What training leaves as a policy while a model generates: a prefix in plain tensors, any trained delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.backbones import Edit
from deltatheory.backbones.edit import with_prefix
from deltatheory.control.generation.contrast import fingerprint
from deltatheory.control.generation.policies import GenerationPolicy, LayerPolicy
from deltatheory.deltas import Delta, WithHead

__all__ = ["Prefix", "TunedDelta"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Prefix(LayerPolicy):
    """attention(q, [P_K; K], [P_V; V]) in some blocks, for all tokens (Li & Liang 2021, eq. 3).

    It is that of a block to its own tokens; positions count from the text's first.

    Attributes:
        key: P_K of every layer, for h key heads of width e.
        value: P_V.
    """

    kind: ClassVar[str] = "prefix"
    law: ClassVar[str] = (
        "in layers[i] all tokens attend to [key[i]; their keys] and [value[i]; their values], as to a cache "
        "of k tokens before the text, whose positions still count from 0"
    )
    key: Float[Tensor, "n h k e"]
    value: Float[Tensor, "n h k e"]

    def tensors(self) -> dict[str, Tensor]:
        """Return keys and values."""
        return {"key": self.key, "value": self.value}

    def edit(self) -> Edit:
        """Return the prefixes by block."""
        pairs = zip(self.layers, self.key, self.value, strict=True)
        return Edit(attention={t: with_prefix(key, value) for t, key, value in pairs})


@dataclass(frozen=True, eq=False)
class TunedDelta(GenerationPolicy):
    """The network at s δ, δ any trained delta: its effect on generated text, stronger or weaker.

    Scaled differences of weights are those of task arithmetic (Ilharco et al. 2023, arXiv 2212.04089). On
    disk it is a file of `save_delta`.

    Attributes:
        delta: the kind of change, and its backbone.
        values: δ.
        strength: s; 1 is the trained model.

    Raises:
        ValueError: for a strength that is no number, or a delta with a head, which generated text has not.
    """

    delta: Delta
    values: Float[Tensor, " m"]
    strength: int | float = 1.0
    model: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        check_number("strength", self.strength)
        if isinstance(self.delta, WithHead):
            raise ValueError(
                f"delta has a trained head ({self.delta.head!r}), and text has none: leave it out."
            )
        object.__setattr__(self, "model", fingerprint(self.delta.backbone))

    def edit(self) -> Edit:
        """Return the edit at s δ."""
        return self.delta.edit(self.strength * self.values)
