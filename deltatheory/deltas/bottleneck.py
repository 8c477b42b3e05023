"""What adapters share: where they go, their activations, and the serial bottleneck."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta
from deltatheory.deltas.coordinates import Coordinates

__all__ = ["ACTIVATIONS", "PLACEMENTS", "SerialBottleneck", "at_least_one", "fixed_normal", "one_of"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}
# The linear maps whose outputs go into the residual sum.
PLACEMENTS = {
    "both": ("attention_output", "ffn_out"),
    "attention": ("attention_output",),
    "ffn": ("ffn_out",),
}


def one_of(argument: str, value: str, allowed: Mapping[str, Any]) -> Any:
    """Return `allowed[value]`.

    Raises:
        ValueError: for another value.
    """
    if value not in allowed:
        raise ValueError(f"{argument}={value!r}: allowed are {', '.join(allowed)}.")
    return allowed[value]


def at_least_one(argument: str, value: int) -> int:
    """Return the value.

    Raises:
        ValueError: if it is below 1.
    """
    if value < 1:
        raise ValueError(f"{argument}={value}: must be at least 1.")
    return value


def fixed_normal(backbone: Backbone, generator: torch.Generator, *shape: int, variance: float) -> Tensor:
    """Draw N(0, variance) on the CPU, the same numbers for every device, and put it where δ is."""
    drawn = torch.randn(shape, generator=generator) * variance**0.5
    return drawn.to(backbone.device, backbone.wide_dtype)


class SerialBottleneck(Delta):
    """h ← h + U σ(D h + b_d) + b_u after the last linear map of attention and FFN, before the residual sum.

    In a decoder that reads a memory, its attention to that has one too.

    A subclass says by `matrices` what D and U are; its coordinates hold b_d and b_u of every place.

    Args:
        backbone: what it changes.
        bottleneck: k, the rows of D.
        placement: "both", "attention" or "ffn".
        drop: so many blocks, from the first, are left as they are.
        activation: σ, "gelu", "relu" or "tanh".

    Attributes:
        places: names of the linear maps whose output is changed.
        coordinates: what δ holds.

    Raises:
        ValueError: for a bottleneck below 1, an unknown placement or activation, or no block left.
    """

    family: ClassVar[str] = "addition"
    affine: ClassVar[bool] = False
    coordinates: Coordinates

    def __init__(
        self, backbone: Backbone, bottleneck: int, placement: str, drop: int, activation: str
    ) -> None:
        super().__init__(backbone)
        blocks = len(backbone.layers)
        if not 0 <= drop < blocks:
            raise ValueError(
                f"drop={drop}: must lie in 0..{blocks - 1}; {backbone.name!r} has {blocks} blocks."
            )
        self.bottleneck, self.placement = at_least_one("bottleneck", bottleneck), placement
        self.drop, self.activation = drop, activation
        self._sigma = one_of("activation", activation, ACTIVATIONS)
        parts = one_of("placement", placement, PLACEMENTS)
        self.places = [
            name for t in range(drop, blocks) for part in parts for name in backbone.module_names(t, part)
        ]

    @abstractmethod
    def matrices(self, delta: Float[Tensor, " m"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return D, shape (k, H), and U, shape (H, k), of every place."""

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the adapters behind their places."""
        pieces = self.coordinates.split(delta)
        changes = {}
        for name, (down, up) in self.matrices(delta).items():
            changes[name] = self._behind(down, pieces[f"{name}.b_d"], up, pieces[f"{name}.b_u"])
        return Edit(outputs=changes)

    def _behind(
        self, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda _, h: h + F.linear(self._sigma(F.linear(h, down, down_bias)), up, up_bias)
