"""The identity: full fine-tuning behind the face of a projection."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from deltatheory.projections.base import Projection
from deltatheory.projections.segments import Segments

__all__ = ["Identity"]


class Identity(Projection):
    """P = I: delta is theta - theta0. `adjoint` returns its argument itself, not a copy.

    Raises:
        ValueError: d is not D.

    """

    name: ClassVar[str] = "identity"

    def __init__(self, d: int, D: int, *, seed: int = 0) -> None:
        super().__init__(d, D, seed=seed)
        if d != D:
            raise ValueError(f"d={d}: the identity needs d = D = {D}.")

    @property
    def isometry(self) -> float:
        """Exactly isometric."""
        return 0.0

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        if base is None:
            out.copy_(delta)
        else:
            torch.add(base, delta, out=out)

    def _gather(self, gradient: Tensor) -> Tensor:
        return gradient

    def _segments(self, delta: Tensor) -> Segments:
        return Segments(delta)

    def _gather_rows(self, gradients: Tensor) -> Tensor:
        return gradients
