"""Parallel adapters (He et al. 2022): a bottleneck beside the FFN or the attention, not behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.bottleneck import ACTIVATIONS, PLACEMENTS, at_least_one, fixed_normal, one_of
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.places import EditPlace, Place
from deltatheory.deltas.targets import name_of

__all__ = ["ParallelAdapter"]


class ParallelAdapter(Delta):
    """y ← y + s U σ(D x) with x and y the input and the output of FFN or attention (He et al. 2022, table 1).

    D = D₀ + δ_D with a fixed random D₀, and U = δ_U, so δ = 0 is the frozen backbone and the Jacobian there
    is not zero. Per place 2kH coordinates. The defaults are the "scaled parallel adapter" of He et al.

    Args:
        backbone: what it changes.
        bottleneck: k, the width of the bottleneck.
        placement: "ffn", "attention" or "both".
        scale: s; 1 is the plain parallel adapter.
        activation: σ, "gelu", "relu" or "tanh".
        seed: of D₀.

    Raises:
        ValueError: for a bottleneck below 1, a scale of 0, or an unknown placement or activation.
    """

    name: ClassVar[str] = "parallel-adapter"
    family: ClassVar[str] = "addition"
    formula: ClassVar[str] = "y ← y + s U σ(D x)"
    acts: ClassVar[str] = "outputs of attention or FFN, from their inputs"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"bottleneck": 3, "placement": "both"},)

    def __init__(
        self,
        backbone: Backbone,
        *,
        bottleneck: int = 8,
        placement: str = "ffn",
        scale: float = 4.0,
        activation: str = "relu",
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        if scale == 0:
            raise ValueError("scale=0: must not be 0, or δ has no effect.")
        self.bottleneck, self.placement = at_least_one("bottleneck", bottleneck), placement
        self.scale, self.activation, self.seed = scale, activation, seed
        self._sigma = one_of("activation", activation, ACTIVATIONS)
        parts = one_of("placement", placement, PLACEMENTS)
        width = backbone.hidden_size
        generator = torch.Generator().manual_seed(seed)
        self._places: list[tuple[str, str, Tensor]] = []
        shapes: dict[str, tuple[int, ...]] = {}
        attentions = backbone.attention_modules
        for t in range(len(backbone.layers)):
            entries = {
                "attention_output": [name_of(backbone, attentions[n]) for n in backbone.attentions_of(t)],
                "ffn_out": [backbone.module_name(t, "ffn_in")],
            }
            for part in parts:
                for entry, end in zip(entries[part], backbone.module_names(t, part), strict=True):
                    start = fixed_normal(backbone, generator, bottleneck, width, variance=1 / width)
                    self._places.append((entry, end, start))
                    shapes |= {f"{end}.D": (bottleneck, width), f"{end}.U": (width, bottleneck)}
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the adapters: each keeps x on its way in and adds to y on its way out."""
        pieces = self.coordinates.split(delta)
        inputs, outputs = {}, {}
        for entry, end, start in self._places:
            keep, add = self._beside(start + pieces[f"{end}.D"], pieces[f"{end}.U"])
            inputs[entry], outputs[end] = keep, add
        return Edit(inputs=inputs, outputs=outputs)

    def _beside(
        self, down: Tensor, up: Tensor
    ) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
        held: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            held[:] = [x]
            return x

        def add(_: Tensor, y: Tensor) -> Tensor:
            return y + self.scale * F.linear(self._sigma(F.linear(held.pop(), down)), up)

        return keep, add

    def tangent_places(self) -> list[Place]:
        """Return the adapters, one by one."""
        return [self._place(*place) for place in self._places]

    def _place(self, entry: str, end: str, start: Tensor) -> EditPlace:
        own = Coordinates({x: self.coordinates.shapes[f"{end}.{x}"] for x in ("D", "U")})

        def edit(d: Tensor) -> Edit:
            at = own.split(d)
            keep, add = self._beside(start.to(d.device) + at["D"], at["U"])
            return Edit(inputs={entry: keep}, outputs={end: add})

        return EditPlace(edit, own.size)

    def specification(self) -> dict:
        """Width, placement, scale, activation and seed."""
        return {
            "delta": self.name,
            "bottleneck": self.bottleneck,
            "placement": self.placement,
            "scale": self.scale,
            "activation": self.activation,
            "seed": self.seed,
        }
