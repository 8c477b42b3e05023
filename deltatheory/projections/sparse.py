"""Sparse random columns, a few non-zeros in every row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory.projections.base import Projection
from deltatheory.projections.counter import uniform_bits

__all__ = ["Sparse"]

_SHIFT = 33  # leaves 31 bits, which times d stay below 2^63


class Sparse(Projection):
    """s non-zeros a row, one in each of s groups of columns, independent over rows (Nelson and Nguyen, 2013).

    P_ij = +-sqrt(columns of the group / D). Drawing by rows moves every parameter; columns of density 1 /
    sqrt D (Li et al., 2018) leave exp(-d / sqrt D) of them frozen, 97 % at D = 1e7 and d = 100. Nothing is
    stored. Nested where one d divides the other and s divides both: the columns of a group split.

    Args:
        d: dimension of the subspace.
        D: dimension of the space.
        seed: of the random numbers.
        s: non-zeros a row, at least 1; d of them where d is less.

    Raises:
        ValueError: s is less than 1.

    """

    name: ClassVar[str] = "sparse"
    nested: ClassVar[bool] = True

    def __init__(self, d: int, D: int, *, seed: int, s: int = 8) -> None:
        super().__init__(d, D, seed=seed, s=s)
        if s < 1:
            raise ValueError(f"s={s}: a row needs at least one non-zero, s >= 1.")
        self._groups = [g * d // min(s, d) for g in range(min(s, d) + 1)]

    @property
    def isometry(self) -> float:
        """The t with 2 d exp(-D t^2 / (d (2 + 2 t / 3))) = 1e-6: fails with that probability (Tropp, 2012).

        Matrix Bernstein for P^T P - I, a sum over independent rows, each of squared norm d / D.
        """
        rate = math.log(2 * self.d / 1e-6) * self.d / self.D
        return rate / 3 + math.sqrt(rate**2 / 9 + 2 * rate)

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        for rows, entries in self._rows(delta):
            block = torch.zeros_like(out[rows])
            for columns, values in entries:
                block += delta.index_select(0, columns).mul_(values)
            out[rows] = block if base is None else block.add_(base[rows])

    def _gather(self, gradient: Tensor) -> Tensor:
        total = torch.zeros(self.d, dtype=torch.float64, device=gradient.device)
        for rows, entries in self._rows(gradient):
            for columns, values in entries:
                total.index_add_(0, columns, values.mul_(gradient[rows]).double())
        return total.to(gradient.dtype)

    def _lift(self, delta: Tensor, larger: Any) -> Tensor:
        if larger.d % self.d or self.d % (len(self._groups) - 1) or len(larger._groups) != len(self._groups):
            raise ValueError(f"larger.d={larger.d}: must be a multiple of d={self.d}, and both of s.")
        times = larger.d // self.d
        return delta.repeat_interleave(times) / math.sqrt(times)

    def _rows(self, like: Tensor) -> Iterator[tuple[slice, Iterator[tuple[Tensor, Tensor]]]]:
        """Slices of rows, and for each the (columns, values) of one non-zero a row, group after group."""
        blocks = self._blocks(like.device)
        for start in blocks:
            rows = slice(start, min(start + blocks.step, self.D))
            yield rows, (self._entries(g, rows, like) for g in range(len(self._groups) - 1))

    def _entries(self, group: int, rows: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self._groups[group], self._groups[group + 1]
        words = uniform_bits(self.seed, f"sparse {group}", rows.start, rows.stop - rows.start, like.device)
        # Column from the high 31 bits by scaling, so that a larger d only splits them; sign from the lowest
        # bit.
        columns = first + (((words >> _SHIFT) & ((1 << 31) - 1)) * (last - first) >> 31)
        values = (1 - 2 * (words & 1)).to(like.dtype).mul_(math.sqrt((last - first) / self.D))
        return columns, values
