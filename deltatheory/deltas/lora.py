"""LoRA (Hu et al. 2022): a low-rank change of chosen weight matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Delta
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.targets import linear_modules, matrix_shape

__all__ = ["LoRA"]


class LoRA(Delta):
    """W = W₀ + (α/r) B (A₀ + δ_A), B = δ_B, in every target module (Hu et al. 2022, eq. 3).

    A₀ is random and fixed, so δ = (δ_A, δ_B) = 0 is the frozen backbone and the Jacobian there is not zero.

    Args:
        backbone: what it changes.
        r: rank, 1 <= r <= the smaller side of every target.
        alpha: α; the default α = r makes the factor 1.
        targets: last parts of module names ("query", "q_proj", ...), or ends of dotted names; by default the
            query and value projections.
        seed: of A₀.

    Raises:
        ValueError: for targets that match no linear module (each entry must match), or too large a rank.
    """

    name: ClassVar[str] = "lora"
    family: ClassVar[str] = "reparameterization"
    formula: ClassVar[str] = "W = W₀ + (α/r) B A"
    acts: ClassVar[str] = "weights of chosen linear maps"
    affine: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        r: int = 8,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        modules = linear_modules(backbone, targets)
        self.targets = tuple(modules)
        generator = torch.Generator().manual_seed(seed)
        self._factors: list[tuple[str, Tensor, Tensor, bool]] = []
        shapes: dict[str, tuple[int, ...]] = {}
        for name, module in modules.items():
            rows, columns, transposed = matrix_shape(module)
            if not 1 <= r <= min(rows, columns):
                raise ValueError(f"r={r}: must lie in 1..{min(rows, columns)}, the smaller side of {name!r}.")
            weight: Tensor = module.weight.detach()  # type: ignore[assignment]
            start = torch.randn(r, columns, generator=generator) / math.sqrt(columns)
            self._factors.append((name, weight, start.to(weight), transposed))
            shapes |= {f"{name}.A": (r, columns), f"{name}.B": (rows, r)}
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size
        self.r, self.seed, self.scaling = r, seed, (r if alpha is None else alpha) / r

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the changed weight matrices."""
        pieces = self.coordinates.split(delta)
        changed = {}
        for name, weight, start, transposed in self._factors:
            change = self.scaling * pieces[f"{name}.B"] @ (start + pieces[f"{name}.A"])
            changed[f"{name}.weight"] = weight + (change.T if transposed else change)
        return changed

    def specification(self) -> dict:
        """Rank, factor, targets and seed."""
        return {
            "delta": self.name,
            "r": self.r,
            "scaling": self.scaling,
            "targets": list(self.targets),
            "seed": self.seed,
        }
