"""The structure-aware intrinsic dimension of Aghajanyan et al. (2021): a scale per layer on the subspace."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Options
from deltatheory.deltas.subspace import Subspace

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
        flat = self.origin.flat
        outside = len(backbone.layers)
        index = torch.tensor([layer_of.get(id(named[name]), outside) for name in flat.names])
        self._layer = index.to(backbone.device)
        self._sizes = torch.tensor([stop - start for _, start, stop, _ in flat.segments]).to(backbone.device)
        self._change = torch.empty_like(flat.theta)  # Pz: the scales' gradient needs it

    def _scales(self, delta: Tensor) -> Tensor:
        # One scale an entry of θ, expanded from one an interval.
        return (1 + delta[: self.layers])[self._layer].repeat_interleave(
            self._sizes, output_size=self._change.numel()
        )

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return θ₀ + (1 + λ) ∘ Pz, cut into the model's parameters."""
        change = self.change(delta[self.layers :])
        return self.origin.flat.split(self.origin.theta0 + self._scales(delta) * change)

    def write(self, delta: Float[Tensor, " m"]) -> None:
        """θ ← θ₀ + (1 + λ) ∘ Pz."""
        self.projection.apply(delta[self.layers :].contiguous(), out=self._change)
        theta = self.origin.flat.theta
        for (_, start, stop, _), layer in zip(self.origin.flat.segments, self._layer.tolist(), strict=True):
            torch.add(
                self.origin.theta0[start:stop],
                self._change[start:stop],
                alpha=1 + float(delta[layer]),
                out=theta[start:stop],
            )

    def gradient(self, delta: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Return (⟨g_i, (Pz)_i⟩ for each layer i, Pᵀ((1 + λ) ∘ g)) at the δ last written."""
        g = self.origin.flat.gradient
        scales = torch.zeros(self.layers, dtype=g.dtype, device=g.device)
        for (_, start, stop, _), layer in zip(self.origin.flat.segments, self._layer.tolist(), strict=True):
            scales[layer] += g[start:stop] @ self._change[start:stop]
            g[start:stop] *= 1 + float(delta[layer])
        return torch.cat([scales, self.projection.adjoint(g)])

    def specification(self) -> dict:
        """Name, d (scales included), projection, seed and scope."""
        return {**super().specification(), "d": self.size}
