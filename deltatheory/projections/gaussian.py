"""Dense Gaussian columns, never stored: the reference every cheap construction is measured against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory.projections.base import Projection
from deltatheory.projections.counter import normals_of, words_at

__all__ = ["Gaussian"]

_CHUNK = 1 << 19  # entries of P alive at once on a CPU


class Gaussian(Projection):
    """P_ij ~ N(0, 1/D), independent (Li et al., 2018, with the columns' length 1 in expectation).

    Regenerated in chunks by `apply` and by `adjoint`: D d random numbers each time, so use it where D d <
    1e9.
    Nested: the first columns of a larger P are P, whatever the two dimensions.
    """

    name: ClassVar[str] = "gaussian"
    nested: ClassVar[bool] = True

    def __init__(self, d: int, D: int, *, seed: int) -> None:
        super().__init__(d, D, seed=seed)

    @property
    def isometry(self) -> float:
        """2 e + e^2 with e = (sqrt d + 6) / sqrt D; fails with probability < 4e-8 (Davidson, Szarek 2001).

        The theorem is about exact normals; the entries here are normals rounded to 2^16 quantiles.
        """
        excess = (math.sqrt(self.d) + 6.0) / math.sqrt(self.D)
        return 2 * excess + excess**2

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        for rows in self._row_slices(delta):
            block = torch.zeros_like(out[rows])
            for columns, entries in self._chunks(rows, delta):
                block += delta[columns] @ entries
            block /= math.sqrt(self.D)
            out[rows] = block if base is None else block.add_(base[rows])

    def _gather(self, gradient: Tensor) -> Tensor:
        total = torch.zeros(self.d, dtype=torch.float64, device=gradient.device)
        for rows in self._row_slices(gradient):
            for columns, entries in self._chunks(rows, gradient):
                total[columns] += (entries @ gradient[rows]).double()
        return (total / math.sqrt(self.D)).to(gradient.dtype)

    def _lift(self, delta: Tensor, larger: Any) -> Tensor:
        return torch.nn.functional.pad(delta, (0, larger.d - self.d))

    def _row_slices(self, like: Tensor) -> Iterator[slice]:
        blocks = self._blocks(like.device, multiple=4)
        return (slice(start, min(start + blocks.step, self.D)) for start in blocks)

    def _chunks(self, rows: slice, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """P^T sqrt(D) at some rows, a few columns at a time: (columns, entries of shape (columns, rows))."""
        length = rows.stop - rows.start
        words = torch.arange(rows.start // 4, -(-rows.stop // 4), device=like.device)
        step = max(1, _CHUNK // length)
        for first in range(0, self.d, step):
            columns = torch.arange(first, min(first + step, self.d), device=like.device)
            # A column's words lie together, ahead of the next column's: they do not depend on d.
            positions = columns[:, None] * -(-self.D // 4) + words
            entries = normals_of(words_at(self.seed, "gaussian", positions), like.dtype)[:, :length]
            yield slice(first, first + len(columns)), entries
