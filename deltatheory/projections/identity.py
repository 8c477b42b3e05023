"""The identity: full fine-tuning behind the face of a projection."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from deltatheory.projections.base import Projection
from deltatheory.projections.segments import PartialAdjoint, Segments

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

    def _partial_adjoint(self, rows: int, like: Tensor) -> PartialAdjoint:
        return _Given(like.new_zeros(rows, self.D), self.D, self._gather_rows)

    def _gather_rows(self, gradients: Tensor) -> Tensor:
        return gradients


class _Given(PartialAdjoint):
    """Gradients as long as θ, which their total is: it is given away, not copied."""

    def total(self) -> Tensor:
        total = super().total()
        self._sums = total.new_zeros(len(total), 0)
        return total

    def clear(self) -> None:
        if not self._sums.numel():
            self._sums = self._sums.new_empty(len(self._sums), self._length)
        super().clear()
