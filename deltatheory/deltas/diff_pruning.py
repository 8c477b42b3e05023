"""Diff pruning (Guo et al. 2021): a change of every parameter, made sparse by gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.subspace import scope_names

__all__ = ["DiffPruning"]


class DiffPruning(Delta):
    """θ = θ₀ + z(α) ∘ w, z = clip(l + (u − l) σ(α), 0, 1), α = start + δ_α, w = δ_w (Guo et al. 2021,
    section 3.1).

    δ = (w, δ_α). The gate is the hard concrete one without its noise, so the change is a function of δ alone;
    at w = 0 it is none. α is what Guo et al. write as α and Louizos et al. (2018) as log α.

    Args:
        backbone: what it changes.
        scope: "blocks" or "all", as in `Subspace`.
        stretch: (l, u), l < 0 and u > 1; the default is that of Louizos et al., Guo et al. have (-1.5, 1.5).
        start: α at δ = 0; with the defaults the gates start at z = 1/2.

    Raises:
        ValueError: for an unknown scope, another stretch, or a start where all gates are closed.
    """

    name: ClassVar[str] = "diff-pruning"
    family: ClassVar[str] = "specification"
    formula: ClassVar[str] = "θ = θ₀ + z(α) ∘ w"
    acts: ClassVar[str] = "every parameter of the scope"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({}, {"scope": "all"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        scope: str = "blocks",
        stretch: Sequence[float] = (-0.1, 1.1),
        start: float = 0.0,
    ) -> None:
        super().__init__(backbone)
        if not (len(stretch) == 2 and stretch[0] < 0 and stretch[1] > 1):
            raise ValueError(f"stretch={stretch!r}: must be (l, u) with l < 0 and u > 1.")
        low, high = stretch
        if not start > math.log(-low / high):
            raise ValueError(f"start={start}: must be above {math.log(-low / high):.4g}, or every gate is 0.")
        self.scope, self.stretch, self.start = scope, (low, high), start
        names = scope_names(backbone, scope)
        self._origin = {name: backbone.model.get_parameter(name).detach() for name in names}
        self.coordinates = Coordinates({name: tuple(p.shape) for name, p in self._origin.items()})
        self.size = 2 * self.coordinates.size

    def gate(
        self, delta: Float[Tensor, " m"], uniform: Float[Tensor, " D"] | None = None
    ) -> Float[Tensor, " D"]:
        """Return z(α), or a sample z(α + ln u − ln(1 − u)) of the noisy gate for u uniform in (0, 1)."""
        alpha = self.start + delta.tensor_split(2)[1]
        if uniform is not None:
            alpha = alpha + uniform.log() - (-uniform).log1p()
        low, high = self.stretch
        return (low + (high - low) * alpha.sigmoid()).clamp(0, 1)

    def penalty(self, delta: Float[Tensor, " m"]) -> Float[Tensor, ""]:
        """Return the expected number of open noisy gates, Σ σ(α − ln(−l/u)), Guo et al.'s relaxed L0."""
        low, high = self.stretch
        return torch.sigmoid(self.start + delta.tensor_split(2)[1] - math.log(-low / high)).sum()

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return θ₀ + z(α) ∘ w, cut into the model's parameters."""
        change = self.coordinates.split(self.gate(delta) * delta.tensor_split(2)[0])
        return {name: origin + change[name] for name, origin in self._origin.items()}

    def specification(self) -> dict:
        """Name, scope, stretch and start."""
        return {
            "delta": self.name,
            "scope": self.scope,
            "stretch": list(self.stretch),
            "start": self.start,
        }
