"""Compacter (Karimi Mahabadi et al. 2021): adapters of Kronecker products that the blocks share in part."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Options
from deltatheory.deltas.bottleneck import SerialBottleneck, at_least_one, fixed_normal
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.places import EditPlace, Place

__all__ = ["Compacter"]


class Compacter(SerialBottleneck):
    """Adapters with D, U = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ), i = 1..n (Karimi Mahabadi et al. 2021).

    The Aᵢ, n × n, are shared by all matrices of all blocks. Every factor is a fixed random start plus its
    part of δ, but for s of U, which starts at 0: δ = 0 is the frozen backbone and the Jacobian there is not
    zero. With b_d and b_u these are n³ + 2T(2r(k + H) + k + H) coordinates for T blocks.

    Args:
        backbone: what it changes.
        n: number and side of the Aᵢ; divides k and H.
        bottleneck: k, the width of the bottleneck.
        rank: r, the columns of sᵢ and tᵢ.
        seed: of the starts.

    Raises:
        ValueError: for an argument below 1, or an n that divides not both k and H.
    """

    name: ClassVar[str] = "compacter"
    formula: ClassVar[str] = "h ← h + U σ(D h + b_d) + b_u, D, U = Σᵢ Aᵢ ⊗ sᵢ tᵢᵀ"
    acts: ClassVar[str] = "outputs of attention and FFN, before the residual sum"
    examples: ClassVar[tuple[Options, ...]] = ({"n": 2, "bottleneck": 4},)

    def __init__(
        self, backbone: Backbone, *, n: int = 4, bottleneck: int = 8, rank: int = 1, seed: int = 0
    ) -> None:
        super().__init__(backbone, bottleneck, "both", 0, "gelu")
        width = backbone.hidden_size
        if bottleneck % at_least_one("n", n) or width % n:
            raise ValueError(f"n={n}: must divide bottleneck={bottleneck} and the hidden size {width}.")
        self.n, self.rank, self.seed = n, at_least_one("rank", rank), seed
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, variance: float) -> Tensor:
            return fixed_normal(backbone, generator, *shape, variance=variance)

        # The variances make D's entries as large as those of an Adapter's D₀: 1/H.
        self._start = {"A": draw(n, n, n, variance=1 / n)}
        for name in self.places:
            self._start |= {
                f"{name}.D.s": draw(n, bottleneck // n, rank, variance=1 / rank),
                f"{name}.D.t": draw(n, width // n, rank, variance=1 / width),
                f"{name}.U.s": self._start["A"].new_zeros(n, width // n, rank),
                f"{name}.U.t": draw(n, bottleneck // n, rank, variance=1 / bottleneck),
            }
        shapes: dict[str, tuple[int, ...]] = {name: tuple(x.shape) for name, x in self._start.items()}
        for name in self.places:
            shapes |= {f"{name}.b_d": (bottleneck,), f"{name}.b_u": (width,)}
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size

    def factors(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return A, shape (n, n, n), and every place's s and t, by name."""
        pieces = self.coordinates.split(delta)
        return {name: start.to(delta.device) + pieces[name] for name, start in self._start.items()}

    def matrices(self, delta: Float[Tensor, " m"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ), as D and as U, of every place."""
        factors = self.factors(delta)

        def total(which: str) -> Tensor:
            small = factors[f"{which}.s"] @ factors[f"{which}.t"].mT
            return torch.einsum("iab,icd->acbd", factors["A"], small).flatten(2).flatten(0, 1)

        return {name: (total(f"{name}.D"), total(f"{name}.U")) for name in self.places}

    def tangent_places(self) -> list[Place]:
        """Return all adapters as one place: they share A."""
        return [EditPlace(self.edit, self.size)]

    def specification(self) -> dict:
        """Sizes and seed."""
        return {
            "delta": self.name,
            "n": self.n,
            "bottleneck": self.bottleneck,
            "rank": self.rank,
            "seed": self.seed,
        }
