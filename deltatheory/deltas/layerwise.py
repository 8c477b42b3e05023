"""The structure-aware intrinsic dimension of Aghajanyan et al. (2021): a scale per layer on the subspace."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Options
from deltatheory.deltas.moved import Movement
from deltatheory.deltas.subspace import Subspace
from deltatheory.projections import Segments

__all__ = ["LayerwiseSubspace"]


class LayerwiseSubspace(Subspace):
    """θ_i = θ₀_i + (1 + λ_i) (Pz)_i, δ = (λ, z): m of the d coordinates scale the m layers ("SAID").

    A layer is a transformer block; what lies outside the blocks is one more layer. The scales start at 1,
    that is λ = 0, and δ = 0 is the frozen backbone (Aghajanyan et al. 2021, section 3.2).

    Args:
        backbone: what it changes.
        d: coordinates in all, scales included: more than the number of layers.
        projection: key in `deltatheory.projections.PROJECTIONS`.
        seed: of P.
        scope: as in `Subspace`.

    Raises:
        ValueError: for d not above the number of layers, or as `Subspace`.
    """

    name: ClassVar[str] = "layerwise-subspace"
    formula: ClassVar[str] = "θ_i = θ₀_i + (1 + λ_i) (Pz)_i"
    acts: ClassVar[str] = "every parameter of the scope"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"d": 64}, {"d": 12, "scope": "all"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        d: int,
        projection: str = "hashed",
        seed: int = 0,
        scope: str = "blocks",
    ) -> None:
        layer_of = {id(p): i for i, layer in enumerate(backbone.layers) for p in layer.parameters()}
        layers = len(backbone.layers) + (scope == "all")
        if d <= layers:
            raise ValueError(f"d={d}: must be above {layers}, one scale for each layer.")
        super().__init__(backbone, d=d - layers, projection=projection, seed=seed, scope=scope)
        self.size, self.layers = d, layers
        named = dict(backbone.model.named_parameters())
        outside = len(backbone.layers)
        self._layer = [layer_of.get(id(named[name]), outside) for name in self.moved.names]

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return θ₀ + (1 + λ) ∘ Pz, cut into the model's parameters."""
        scales, pieces = 1 + delta[: self.layers], self.moved.split(self.change(delta[self.layers :]))
        layers = zip(self._layer, pieces.items(), strict=True)
        return self.moved.plus({name: scales[layer] * piece for layer, (name, piece) in layers})

    def write(self, delta: Float[Tensor, " m"]) -> None:
        """Let the modules run at θ₀ + (1 + λ) ∘ Pz."""
        segments = self.projection.segments(delta[self.layers :])
        scales = (1 + delta[: self.layers]).tolist()
        form, collect = partial(self._scaled, segments, scales), partial(self._slopes, segments, scales)
        self.moved.move(Movement(form, collect))

    def write_along(self, delta: Float[Tensor, " m"], v: Float[Tensor, " m"], step: Tensor) -> None:
        """Let the modules run at θ₀ + (1 + λ + s μ) ∘ Pz + s (1 + λ) ∘ Py for v = (μ, y)."""
        at, along = (self.projection.segments(x[self.layers :]) for x in (delta, v))
        scales, slopes = 1 + delta[: self.layers], v[: self.layers]
        form = partial(self._scaled_along, at, along, scales + step * slopes, step * scales)
        self.moved.move(Movement(form, self._collect))

    def _scaled_along(
        self, at: Segments, along: Segments, scales: Tensor, steps: Tensor, number: int, base: Tensor
    ) -> Tensor:
        layer = self._layer[number]
        return base + scales[layer] * self._segment(at, number) + steps[layer] * self._segment(along, number)

    def _scaled(self, segments: Segments, scales: Sequence[float], number: int, base: Tensor) -> Tensor:
        return torch.add(base, self._segment(segments, number), alpha=scales[self._layer[number]])

    def _slopes(self, segments: Segments, scales: Sequence[float], number: int, gradient: Tensor) -> None:
        """Add ⟨g_i, (Pz)_i⟩ to the slope of the scale, and (1 + λ_i) g_i to what P is applied to."""
        layer, change = self._layer[number], self._segment(segments, number)
        self._slope[layer] += gradient.reshape(-1).to(change.dtype) @ change
        self._collect(number, scales[layer] * gradient)

    def clear(self) -> None:
        """Set the gradient to zero."""
        super().clear()
        self._slope = self.initial()[: self.layers]

    def gradient(self, delta: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Return (⟨g_i, (Pz)_i⟩ for each layer i, Pᵀ((1 + λ) ∘ g))."""
        return torch.cat([self._slope, self._gathered()])

    def specification(self) -> dict:
        """Name, d (scales included), projection, seed and scope."""
        return {**super().specification(), "d": self.size}
