"""The tensors that one flat δ holds."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from deltatheory._shapes import Float

__all__ = ["Coordinates"]


class Coordinates:
    """Names and shapes of tensors, in the order in which they lie in a flat δ.

    Attributes:
        shapes: name ↦ shape.
        size: m, the number of coordinates.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self._sizes = [prod(shape) for shape in self.shapes.values()]
        self.size = sum(self._sizes)

    def split(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return views of δ by name.

        >>> import torch
        >>> Coordinates({"a": (2,), "b": (1, 2)}).split(torch.arange(4.0))
        {'a': tensor([0., 1.]), 'b': tensor([[2., 3.]])}
        """
        pieces = torch.split(delta, self._sizes)
        return {n: x.view(shape) for (n, shape), x in zip(self.shapes.items(), pieces, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, " m"]:
        """Return the flat δ of tensors by name.

        >>> import torch
        >>> Coordinates({"a": (1,), "b": (2,)}).join({"b": torch.ones(2), "a": torch.zeros(1)})
        tensor([0., 1., 1.])
        """
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])
