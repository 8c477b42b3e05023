"""Uni-LoRA (Li et al. 2025): all LoRA factors of a model from one short vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.subspace import project
from deltatheory.projections import make_projection

__all__ = ["UniLoRA"]


class UniLoRA(Delta):
    """(δ_A, δ_B of every target) = Pδ, P: R^d → R^D fixed, D the size of the LoRA (Li et al. 2025).

    A = A₀ + δ_A as in `LoRA`, so δ = 0 is the frozen backbone and the Jacobian there is not zero.

    Args:
        backbone: what it changes.
        d: 1 <= d <= D.
        r: rank, as in `LoRA`.
        alpha: as in `LoRA`.
        targets: as in `LoRA`.
        projection: key in `deltatheory.projections.PROJECTIONS`; with "hashed-plain", the form of the paper,
            every entry of a factor is one coordinate of δ, scaled.
        seed: of A₀ and P.

    Raises:
        ValueError: for d outside 1..D, an unknown projection, or as `LoRA`.
    """

    name: ClassVar[str] = "unilora"
    family: ClassVar[str] = "reparameterization"
    formula: ClassVar[str] = "W = W₀ + (α/r) B A, (A − A₀, B) = Pδ"
    acts: ClassVar[str] = "weights of chosen linear maps"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"d": 128, "r": 2},)

    def __init__(
        self,
        backbone: Backbone,
        *,
        d: int,
        r: int = 4,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        projection: str = "hashed-plain",
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.lora = LoRA(backbone, r=r, alpha=alpha, targets=targets, seed=seed)
        self.projection = make_projection(projection, d, self.lora.size, seed=seed)
        self.size = d

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return that of the LoRA at Pδ."""
        return self.lora.edit(project(self.projection, delta))

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the weight matrices with the change merged into them."""
        return self.lora.parameters(project(self.projection, delta))

    def specification(self) -> dict:
        """Name, d, projection, and r, α, targets and seed of the LoRA."""
        lora = self.lora
        return {
            "delta": self.name,
            "d": self.size,
            "r": lora.r,
            "alpha": lora.alpha,
            "targets": list(lora.targets),
            "projection": self.projection.name,
            "seed": lora.seed,
        }
