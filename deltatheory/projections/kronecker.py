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

_PERIOD = 1 << 16  # least period of the outer signs, a whole number of rows of a


class _Tables(NamedTuple):
    inner: Tensor  # (d,) float64: signs of delta
    outer: Tensor  # (period,) float32: signs of the parameters, repeated
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
        self._period = -(-_PERIOD // self._a) * self._a
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
        for rows, left, flips in self._pieces(delta):
            length = rows.stop - rows.start
            # Straight into out where the rows are whole and base cannot be overwritten.
            direct = base is None and length % self._a == 0
            target = out[rows] if direct else delta.new_empty(len(left) * self._a)
            values = torch.mm(left, grid, out=target.view(-1, self._a)).view(-1)[:length]
            values.view(-1, len(flips)).mul_(flips)
            if base is not None:
                torch.add(base[rows], values, out=out[rows])
            elif not direct:
                out[rows] = values

    def _gather(self, gradient: Tensor) -> Tensor:
        tables = self._tables(gradient.device)
        grid = gradient.new_zeros(self._q, self._a)
        for rows, left, flips in self._pieces(gradient):
            values = (gradient[rows].view(-1, len(flips)) * flips).view(-1)
            if len(values) % self._a:
                values = pad(values, (0, -len(values) % self._a))
            grid.addmm_(left.T, values.view(-1, self._a))
        grid = self._whiten.to(gradient).T @ grid @ tables.right.to(gradient.dtype)
        return grid.view(-1)[: self.d] * tables.inner.to(gradient)

    def _build(self, device: torch.device) -> _Tables:
        # Factorised on the CPU in float64, so that a GPU gets the same A.
        values = gaussian(self.seed, "A", 0, self._a * self._p, dtype=torch.float64).view(self._a, self._p)
        return _Tables(
            inner=signs(self.seed, "inner", 0, self.d, device, torch.float64),
            outer=signs(self.seed, "outer", 0, self._period, device),
            right=torch.linalg.qr(values).Q.float().to(device),
        )

    def _pieces(self, like: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of R^D, the rows of G they belong to, and their outer signs, which may be repeated."""
        outer = self._tables(like.device).outer.to(like.dtype)
        steps = self._blocks(like.device, multiple=4 * self._period)
        cut = self.D // self._period * self._period  # the last signs are cut short
        starts = [*range(0, cut, steps.step), *([cut] if cut < self.D else [])]
        for start, stop in zip(starts, [*starts[1:], self.D], strict=True):
            left = self._left(start // self._a, -(-stop // self._a), like)
            yield slice(start, stop), left, outer[: stop - start]

    def _left(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Rows start to stop - 1 of G, shape (rows, q)."""
        count = (stop - start) * self._q
        return gaussian(self.seed, "B", start * self._q, count, like.device, like.dtype).view(-1, self._q)
