"""Adapters (Houlsby et al. 2019): small bottlenecks behind attention and FFN of every block."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Options
from deltatheory.deltas.bottleneck import SerialBottleneck, fixed_normal
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.places import EditPlace, Place

__all__ = ["Adapter"]


class Adapter(SerialBottleneck):
    """h ← h + U σ(D h + b_d) + b_u with D = D₀ + δ_D, U = δ_U (Houlsby et al. 2019, section 2.1).

    D₀ is random and fixed, so δ = 0 is the frozen backbone and the Jacobian there is not zero. Per place
    2kH + k + H coordinates. The norms' gains and biases, which Houlsby et al. train too, stay frozen.

    Args:
        backbone: what it changes.
        bottleneck: k, the width of the bottleneck.
        placement: "both", "attention" or "ffn".
        drop: the first so many blocks have no adapter (AdapterDrop, Rücklé et al. 2021).
        activation: σ, "gelu", "relu" or "tanh".
        seed: of D₀.

    Raises:
        ValueError: for a bottleneck below 1, an unknown placement or activation, or no block left.
    """

    name: ClassVar[str] = "adapter"
    formula: ClassVar[str] = "h ← h + U σ(D h + b_d) + b_u"
    acts: ClassVar[str] = "outputs of attention and FFN, before the residual sum"
    examples: ClassVar[tuple[Options, ...]] = ({"bottleneck": 4},)

    def __init__(
        self,
        backbone: Backbone,
        *,
        bottleneck: int = 8,
        placement: str = "both",
        drop: int = 0,
        activation: str = "gelu",
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, bottleneck, placement, drop, activation)
        width = backbone.hidden_size
        generator = torch.Generator().manual_seed(seed)
        self._start: dict[str, Tensor] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.places:
            self._start[name] = fixed_normal(backbone, generator, bottleneck, width, variance=1 / width)
            shapes |= {f"{name}.D": (bottleneck, width), f"{name}.b_d": (bottleneck,)}
            shapes |= {f"{name}.U": (width, bottleneck), f"{name}.b_u": (width,)}
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size
        self.seed = seed

    def matrices(self, delta: Float[Tensor, " m"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return D₀ + δ_D and δ_U of every place."""
        pieces = self.coordinates.split(delta)
        return {
            name: (start + pieces[f"{name}.D"], pieces[f"{name}.U"]) for name, start in self._start.items()
        }

    def tangent_places(self) -> list[Place]:
        """Return the adapters, one by one."""
        return [self._place(name, start) for name, start in self._start.items()]

    def _place(self, name: str, start: Tensor) -> EditPlace:
        own = Coordinates({x: self.coordinates.shapes[f"{name}.{x}"] for x in ("D", "b_d", "U", "b_u")})

        def edit(d: Tensor) -> Edit:
            at = own.split(d)
            return Edit(
                outputs={name: self._behind(start.to(d.device) + at["D"], at["b_d"], at["U"], at["b_u"])}
            )

        return EditPlace(edit, own.size)

    def specification(self) -> dict:
        """Width, placement, blocks left out, activation and seed."""
        return {
            "delta": self.name,
            "bottleneck": self.bottleneck,
            "placement": self.placement,
            "drop": self.drop,
            "activation": self.activation,
            "seed": self.seed,
        }
