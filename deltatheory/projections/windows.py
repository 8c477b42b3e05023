"""Hashing by windows: runs of parameters copy windows of a small table made from delta.

The common part of the hashed and of the blocked constructions.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from deltatheory.projections.base import Projection
from deltatheory.projections.counter import permutation, signs, uniform_bits
from deltatheory.projections.hadamard import hadamard

__all__ = ["WindowHash"]

_RUN = 64  # parameters that copy one window of a table
_MASTER = 1 << 14  # slots delta is spread over, unless d is larger
_TABLE = 1 << 18  # at most so many entries in all permuted copies of the slots: they stay in a core's cache


class _Tables(NamedTuple):
    """What the map keeps. A signed index i stands for coordinate i of (delta, -delta); so for windows."""

    entries: Tensor  # (windows * 64,) int32: signed coordinate in every entry of the table of windows
    rows: Tensor  # (D // 64,) int32: signed window every run copies
    runs: Tensor  # (D // 64,) int32: the runs ordered by window, for the adjoint
    starts: Tensor  # (2 * windows,) int32: where each window begins in `runs`
    tail: Tensor  # (D % 64,) int32: signed coordinate of the parameters after the last run
    scale: Tensor  # (d,) float64: 1 / length of a column whose entries are the bare weights


class WindowHash(Projection):
    """P = H S E: E spreads delta over M slots, S copies windows of signed permutations of them, H mixes each window.

    Slot k belongs to bucket floor(k d / M). The slots are laid out in a table of signed random permutations, cut into
    windows of 64; every run of 64 parameters copies one window, with a random sign, so that each stretch of M
    parameters uses every slot once. H is an s-point orthonormal Hadamard matrix on the windows. It acts on the table,
    which is small, not on R^D, and its transpose on the sum of the runs of a window: mixing costs next to nothing.

    Copies of different slots never meet and H is orthogonal on each window, so dividing by the length of each column
    makes P^T P = I exactly. Buckets split when d is multiplied, hence the nesting.

    Where windows are mixed, the copies in a window are first weighted by w_j = sqrt(1/2 + (2j + 1) / 128). These are
    multiples of square roots of square-free integers, no signed sum of which vanishes: with equal weights the copies
    of one coordinate can cancel (one parameter in ten, at d = 1), and that parameter would never move.
    """

    nested: ClassVar[bool] = True

    def __init__(self, d: int, D: int, *, seed: int, points: int, weighted: bool, **options: Any) -> None:
        super().__init__(d, D, seed=seed, **options)
        self._points, self._weighted = points, weighted
        # A power of two from 2^14 on; where that is more than D, one slot a parameter.
        self._slots = min(D, max(_MASTER, 1 << (d - 1).bit_length()))
        self._copies = max(1, min(-(-D // (4 * self._slots)), _TABLE // self._slots))

    @property
    def isometry(self) -> float:
        """Exactly isometric."""
        return 0.0

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        tables = self._tables(delta.device)
        scaled = (delta * tables.scale).to(delta.dtype)
        signed = torch.cat([scaled, -scaled])
        windows = signed.index_select(0, tables.entries).view(-1, _RUN)
        if self._weighted:
            windows = windows @ self._mixer(delta)
        windows = torch.cat([windows, -windows])
        runs, step = len(tables.rows), self._blocks(delta.device, _RUN).step // _RUN
        target = out[: runs * _RUN].view(-1, _RUN)
        for start in range(0, runs, step):
            block = slice(start, start + step)
            if base is None:
                torch.index_select(windows, 0, tables.rows[block], out=target[block])
            else:
                values = windows.index_select(0, tables.rows[block])
                torch.add(base[: runs * _RUN].view(-1, _RUN)[block], values, out=target[block])
        tail = signed.index_select(0, tables.tail)
        out[runs * _RUN :] = tail if base is None else base[runs * _RUN :] + tail

    def _gather(self, gradient: Tensor) -> Tensor:
        tables = self._tables(gradient.device)
        cut = len(tables.rows) * _RUN
        # Summed in float64 from here: thousands of entries may fall in one bucket.
        total = torch.zeros(2 * self.d, dtype=torch.float64, device=gradient.device)
        total.index_add_(0, tables.tail, gradient[cut:].double())
        if cut:
            sums = embedding_bag(tables.runs, gradient[:cut].view(-1, _RUN), tables.starts, mode="sum")
            positive, negative = sums.chunk(2)
            windows = positive - negative
            if self._weighted:
                windows = windows @ self._mixer(gradient).T
            total.index_add_(0, tables.entries, windows.flatten().double())
        positive, negative = total.chunk(2)
        return ((positive - negative) * tables.scale).to(gradient.dtype)

    def _lift(self, delta: Tensor, larger: WindowHash) -> Tensor:
        if larger.d % self.d or larger._slots != self._slots:
            raise ValueError(f"larger.d={larger.d}: must be a multiple of d={self.d}, at most {self._slots}.")
        scale = self._tables(delta.device).scale
        values = (delta * scale).repeat_interleave(larger.d // self.d)
        return (values / larger._tables(delta.device).scale).to(delta.dtype)

    def _mixer(self, like: Tensor) -> Tensor:
        blocks = torch.block_diag(*[hadamard(self._points)] * (_RUN // self._points))
        return (_squared_weights().sqrt()[:, None] * blocks).to(like)

    def _build(self, device: torch.device) -> _Tables:
        seed, slots, copies = self.seed, self._slots, self._copies
        orders = torch.stack([permutation(seed, f"slots {c}", slots, device) for c in range(copies)])
        cut = slots // _RUN * _RUN  # all slots, except where there is one slot a parameter
        bucket = torch.arange(slots, device=device) * self.d // slots
        minus = (signs(seed, "slot signs", 0, copies * slots, device) < 0).view(copies, slots)
        signed = bucket[orders] + self.d * minus
        windows = copies * (cut // _RUN)

        rows = self._rows(device, cut // _RUN)
        flip = signs(seed, "run signs", 0, len(rows), device) < 0
        used = torch.bincount(rows, minlength=windows)
        rows = rows + windows * flip
        starts = torch.bincount(rows, minlength=2 * windows).cumsum(0)
        rest = self.D % _RUN
        # The leftover slots of the one permutation, or the first of a fresh one.
        last = orders[0, cut:] if cut < slots else permutation(seed, "tail", slots, device)[:rest]
        last_minus = signs(seed, "tail signs", 0, rest, device) < 0

        squares = (
            _squared_weights().to(device) if self._weighted else torch.ones(_RUN, device=device).double()
        )
        # Multiples of 1 / 128: these sums are exact, so the order a GPU adds in does not matter.
        total = torch.zeros(self.d, dtype=torch.float64, device=device)
        total.index_add_(0, bucket[orders[:, :cut]].flatten(), (used[:, None] * squares).flatten())
        total.index_add_(0, bucket[last], torch.ones(rest, device=device).double())
        return _Tables(
            entries=signed[:, :cut].flatten().int(),
            rows=rows.int(),
            runs=torch.argsort(rows, stable=True).int(),
            starts=(starts - torch.bincount(rows, minlength=2 * windows)).int(),
            tail=(bucket[last] + self.d * last_minus).int(),
            scale=total.rsqrt(),
        )

    def _rows(self, device: torch.device, width: int) -> Tensor:
        """Window of every run: stretch after stretch, all windows of one permutation in random order."""
        runs = torch.arange(self.D // _RUN, device=device)
        if not width:
            return runs
        stretch = runs // width
        # Sorting by (stretch, random word) shuffles within each stretch in one pass.
        words = (uniform_bits(self.seed, "runs", 0, len(runs), device) >> 24) & ((1 << 40) - 1)
        order = torch.argsort((stretch << 40) | words, stable=True)
        rows = torch.empty_like(runs)
        rows[order] = stretch % self._copies * width + runs % width
        return rows


def _squared_weights() -> Tensor:
    return 0.5 + (2 * torch.arange(_RUN, dtype=torch.float64) + 1) / (2 * _RUN)
