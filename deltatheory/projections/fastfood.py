"""Fastfood, in blocks no longer than delta needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from deltatheory.projections.base import Projection
from deltatheory.projections.counter import gaussian, permutation, signs
from deltatheory.projections.hadamard import hadamard_rows

__all__ = ["Fastfood"]

_LEAST = 1024  # points of the shortest block
_LARGEST = 4.5**2  # above the square of any entry of G: `counter.gaussian` has a finite range


class Fastfood(Projection):
    """Blocks sqrt(L / D) H G Pi H B of L = 2^k >= d rows, their first d columns (Le, Sarlos and Smola, 2013).

    H is the orthonormal Hadamard matrix, B random signs and G random normals, both new for each block, Pi
    one random permutation; the rows' random lengths of the paper are left out, as is usual for subspaces
    (Li et al., 2018). The blocks are stacked, so D is not padded to a power of two, and nothing grows with
    D.
    Nested: the first columns of a larger P are P, while both d are at most L, the power of two from 1024 on.
    """

    name: ClassVar[str] = "fastfood"
    nested: ClassVar[bool] = True

    def __init__(self, d: int, D: int, *, seed: int) -> None:
        super().__init__(d, D, seed=seed)
        self._length = max(_LEAST, 1 << (d - 1).bit_length())

    @property
    def isometry(self) -> float:
        """The t of the matrix Bernstein inequality (Tropp, 2012) at probability 1e-6 of failure.

        P^T P - I is a sum over the D / L independent blocks, each at most 4.5^2 L / D with E G^4 = 3; so
        the bound says little before there are hundreds of blocks.
        """
        rate = math.log(2 * self.d / 1e-6) * self._length / self.D
        return rate * _LARGEST / 3 + math.sqrt((rate * _LARGEST / 3) ** 2 + 6 * rate)

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        order = self._tables(delta.device)
        for rows, flips, normals in self._pieces(delta):
            blocks = hadamard_rows(pad(delta, (0, self._length - self.d)) * flips)
            values = hadamard_rows(blocks[:, order] * normals).view(-1)[: rows.stop - rows.start]
            values *= math.sqrt(self._length / self.D)
            out[rows] = values if base is None else values.add_(base[rows])

    def _gather(self, gradient: Tensor) -> Tensor:
        order = self._tables(gradient.device)
        total = torch.zeros(self.d, dtype=torch.float64, device=gradient.device)
        for rows, flips, normals in self._pieces(gradient):
            values = pad(gradient[rows], (0, normals.numel() - (rows.stop - rows.start))).view_as(normals)
            blocks = torch.empty_like(normals)
            blocks[:, order] = hadamard_rows(values) * normals
            total += (hadamard_rows(blocks) * flips).sum(0)[: self.d].double()
        return (total * math.sqrt(self._length / self.D)).to(gradient.dtype)

    def _lift(self, delta: Tensor, larger: Any) -> Tensor:
        if larger._length != self._length:
            raise ValueError(f"larger.d={larger.d}: must be at most {self._length}, the block of d={self.d}.")
        return pad(delta, (0, larger.d - self.d))

    def _build(self, device: torch.device) -> Tensor:
        return permutation(self.seed, "order", self._length, device)

    def _pieces(self, like: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of R^D with the B and G of the blocks in them, shape (blocks, L)."""
        pieces = self._blocks(like.device, multiple=self._length)
        for start in pieces:
            stop = min(start + pieces.step, self.D)
            whole = -(-(stop - start) // self._length) * self._length
            flips = signs(self.seed, "B", start, whole, like.device, like.dtype)
            normals = gaussian(self.seed, "G", start, whole, like.device, like.dtype)
            yield slice(start, stop), flips.view(-1, self._length), normals.view(-1, self._length)
