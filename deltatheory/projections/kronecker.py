"""A Kronecker product of two thin orthonormal matrices, with random signs on both sides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from deltatheory.projections.base import Projection
from deltatheory.projections.counter import gaussian, signs

__all__ = ["Kronecker"]

_PERIOD = (1 << 16) - 1  # of the outer signs; odd, so that it fits no row length of a model


class _Tables(NamedTuple):
    inner: Tensor  # (d,) float64: signs of delta
    outer: Tensor  # (period + longest block,) float32: signs of the parameters, repeated
    right: Tensor  # (a, p) float32: A


class Kronecker(Projection):
    """P = S (B (x) A) S' with A (a x p) and B (b x q) orthonormal, p q >= d, a b >= D, and signs S, S'.

    Parameter j a + i is s_ji sum_kl B_jk A_il delta_kl: a product of a (q x p) by small matrices, after the
    `rkron` of Lotfi et al. (2022), but with a b >= D, so that no parameter is left over, and with
    orthonormal factors. q is about sqrt(d) / 6 and a parameter costs q products. The price: a parameters in
    a row share one row of B and span p = d / q dimensions, and parameters a apart span q; heavy parameters
    in such a place see a poorer subspace (`subspace_quality` 0.6 in a run, 1 where they are scattered).

    B = G W with G made from the counter whenever it is needed; only W (q x q) and A are kept. Not nested.
    """

    name: ClassVar[str] = "kronecker"

    def __init__(self, d: int, D: int, *, seed: int) -> None:
        super().__init__(d, D, seed=seed)
        self._q = 1 + math.isqrt(d) // 6
        self._p = -(-d // self._q)
        self._a = max(self._p, min(max(self._p, 512) | 1, D // self._q))
        self._b = -(-D // self._a)
        gram = torch.zeros(self._q, self._q, dtype=torch.float64)
        step = max(1, (1 << 16) // self._q)
        for start in range(0, self._b, step):
            rows = self._left(start, min(start + step, self._b), torch.zeros(1, dtype=torch.float64))
            gram += rows.T @ rows
        # Columns of G W are orthonormal for W = R^-T, gram = R R^T.
        self._whiten = torch.linalg.inv(torch.linalg.cholesky(gram)).T

    @property
    def isometry(self) -> float:
        """The squared norm of the last row of B, whose cells beyond D are missing from P; else 0. Certain."""
        if self._a * self._b == self.D:
            return 0.0
        row = self._left(self._b - 1, self._b, torch.zeros(1, dtype=torch.float64)) @ self._whiten
        return min(1.0, row.square().sum().item())

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        tables = self._tables(delta.device)
        grid = pad(delta * tables.inner.to(delta), (0, self._p * self._q - self.d)).view(self._q, self._p)
        grid = self._whiten.to(delta) @ grid @ tables.right.to(delta.dtype).T
        left = self._left(0, self._b, delta)
        for rows, block, flips in self._pieces(delta):
            values = (left[block] @ grid).view(-1)[: len(flips)]
            if base is None:
                torch.mul(values, flips, out=out[rows])
            else:
                torch.add(base[rows], values.mul_(flips), out=out[rows])

    def _gather(self, gradient: Tensor) -> Tensor:
        tables = self._tables(gradient.device)
        grid = gradient.new_zeros(self._q, self._a)
        left = self._left(0, self._b, gradient)
        for rows, block, flips in self._pieces(gradient):
            values = gradient[rows] * flips
            if len(values) % self._a:
                values = pad(values, (0, -len(values) % self._a))
            grid.addmm_(left[block].T, values.view(-1, self._a))
        grid = self._whiten.to(gradient).T @ grid @ tables.right.to(gradient.dtype)
        return grid.view(-1)[: self.d] * tables.inner.to(gradient)

    def _build(self, device: torch.device) -> _Tables:
        # Factorised on the CPU in float64, so that a GPU gets the same A.
        values = gaussian(self.seed, "A", 0, self._a * self._p, dtype=torch.float64).view(self._a, self._p)
        flips = signs(self.seed, "outer", 0, _PERIOD, device)
        longest = min(self.D, self._steps(device).step)
        return _Tables(
            inner=signs(self.seed, "inner", 0, self.d, device, torch.float64),
            outer=flips.repeat(1 + -(-longest // _PERIOD))[: _PERIOD + longest].clone(),
            right=torch.linalg.qr(values).Q.float().to(device),
        )

    def _steps(self, device: torch.device) -> range:
        return self._blocks(device, multiple=self._a)

    def _pieces(self, like: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Slices of R^D, the rows of B they belong to, and their outer signs."""
        outer, steps = self._tables(like.device).outer, self._steps(like.device)
        for start in steps:
            rows = slice(start, min(start + steps.step, self.D))
            phase = start % _PERIOD
            block = slice(start // self._a, -(-rows.stop // self._a))
            yield rows, block, outer[phase : phase + rows.stop - start].to(like.dtype)

    def _left(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Rows start to stop - 1 of G, shape (rows, q)."""
        count = (stop - start) * self._q
        return gaussian(self.seed, "B", start * self._q, count, like.device, like.dtype).view(-1, self._q)
