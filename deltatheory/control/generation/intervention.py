"""Low-rank interventions of hidden states, as representation fine-tuning learns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.control.generation.policies import Memory, StatePolicy

__all__ = ["LowRankIntervention"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRankIntervention(StatePolicy):
    """u = Rᵀ(W x + b - R x): what the rows of R read becomes W x + b, where they are orthonormal.

    LoReFT (Wu et al. 2024, arXiv 2404.03592), described from memory; there it moves chosen tokens of the
    prompt.

    Attributes:
        direction: R of every layer, r rows.
        source: W.
        offset: b.
    """

    kind: ClassVar[str] = "low-rank-intervention"
    law: ClassVar[str] = "x + direction[i]ᵀ (source[i] x + offset[i] - direction[i] x)"
    direction: Float[Tensor, "n r H"]
    source: Float[Tensor, "n r H"]
    offset: Float[Tensor, "n r"]

    def tensors(self) -> dict[str, Tensor]:
        """Return R, W and b."""
        return {"direction": self.direction, "source": self.source, "offset": self.offset}

    def correction(self, i: int, x: Tensor, where: Tensor, memory: Memory) -> Tensor:
        """Return Rᵀ(W x + b - R x)."""
        rotation, source, offset = (one[i].to(x) for one in (self.direction, self.source, self.offset))
        return (x @ (source - rotation).T + offset) @ rotation
