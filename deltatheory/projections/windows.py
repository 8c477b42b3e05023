"""Hashing by windows: runs of parameters copy windows of a small table made from delta.

The common part of the hashed and of the blocked constructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from deltatheory.projections.base import Projection
from deltatheory.projections.counter import permutation, signs, uniform_bits

__all__ = ["GROUP", "RUN", "WindowHash"]

RUN = 64  # parameters that copy one window of the table
GROUP = 64  # windows that are used together
_SLOTS = (1 << 14, 1 << 16)  # least and most slots delta is spread over, where d and D allow
_PART = 1 << 18  # runs that are drawn at once
_TABLE = 1 << 18  # at most so many entries in all permuted copies of the slots: they stay in a core's cache


class _Tables(NamedTuple):
    """What the map keeps. A signed index i stands for coordinate i of (delta, -delta); so for windows."""

    entries: (
        Tensor  # int32: signed coordinate in every entry of the windows, then of the D mod 64 last parameters
    )
    rows: Tensor  # (D // 64,) int32: signed window every run copies
    scale: Tensor  # (d,) float64: 1 / length of a column before scaling


class WindowHash(Projection):
    """P = S H E: E spreads delta over slots and lays them out in windows, H mixes these, S copies them.

    Slot k of M belongs to bucket floor(k d / M). Signed random permutations of the slots are cut into
    windows of 64 entries and groups of 64 windows. Every run of 64 parameters copies one window, with a
    random sign; 64 runs in a row copy the windows of one group in random order, and M / 4096 such in a row
    use every slot once. The last D mod 4096 parameters have windows of their own.

    H, orthogonal within each group, acts on the table, which is small, not on R^D; its transpose acts on
    the sums of the runs of each window. Mixing therefore costs next to nothing, and dividing by the length
    of each column makes P^T P = I exactly. Buckets split when d is multiplied, hence the nesting.

    Mixed copies are first weighted, the j-th of a window by sqrt((449 + 2 j) / 512): with equal weights the
    copies of a coordinate may cancel (one parameter in ten for 64 points and d = 1), and that parameter
    would never move. No signed sum of some of the 64 weights vanishes: no two of the integers have the same
    square-free part.
    """

    nested: ClassVar[bool] = True

    def __init__(self, d: int, D: int, *, seed: int, weighted: bool, **options: Any) -> None:
        super().__init__(d, D, seed=seed, **options)
        self._weighted = weighted
        self._order: tuple[Tensor, Tensor] | None = None
        # A power of two near D / 16, so that it is the same for all d up to it; at most one slot a parameter.
        slots = min(max(_SLOTS[0], 1 << max(0, D.bit_length() - 5)), _SLOTS[1])
        self._slots = min(D, max(slots, 1 << (d - 1).bit_length()))
        self._copies = max(1, min(D // RUN, _TABLE) // self._slots)

    @property
    def isometry(self) -> float:
        """Exactly isometric."""
        return 0.0

    def _mix(self, windows: Tensor) -> None:
        """Apply H, which is symmetric, to the windows in place; shape (windows, 64)."""

    def _spread(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Make the windows, (2 windows, 64), the second half with turned signs, and the tail, (D mod 64,)."""
        tables = self._tables(delta.device)
        scaled = (delta * tables.scale).to(delta.dtype)
        signed = torch.cat([scaled, -scaled])
        count = len(tables.entries) // RUN
        both = delta.new_empty(2, count, RUN)
        windows = both[0]
        torch.index_select(signed, 0, tables.entries[: count * RUN], out=windows.view(-1))
        tail = signed.index_select(0, tables.entries[count * RUN :])
        if self._weighted:
            weights = _squared_weights().sqrt().to(delta)
            windows *= weights
            tail *= weights[: len(tail)]
        self._mix(windows)
        torch.neg(windows, out=both[1])
        return both.view(-1, RUN), tail

    def _fold(self, windows: Tensor, tail: Tensor) -> Tensor:
        """Apply the transpose of `_spread`; overwrites the windows."""
        windows, negative = windows.chunk(2)
        windows -= negative
        return self._fold_unsigned(windows, tail)

    def _fold_unsigned(self, windows: Tensor, tail: Tensor) -> Tensor:
        """`_fold` of windows that have their signs in the values, (windows, 64)."""
        tables = self._tables(tail.device)
        self._mix(windows)
        if self._weighted:
            weights = _squared_weights().sqrt().to(tail)
            windows *= weights
            tail = tail * weights[: len(tail)]
        # In float64, since thousands of entries may fall in one bucket; in parts, for the copies' sake.
        total = torch.zeros(2 * self.d, dtype=torch.float64, device=tail.device)
        flat = windows.flatten()
        for entries, values in zip(
            tables.entries[: len(flat)].split(1 << 15), flat.split(1 << 15), strict=True
        ):
            total.index_add_(0, entries, values.double())
        total.index_add_(0, tables.entries[len(flat) :], tail.double())
        positive, negative = total.chunk(2)
        return ((positive - negative) * tables.scale).to(tail.dtype)

    def _lift(self, delta: Tensor, larger: WindowHash) -> Tensor:
        if larger.d % self.d or larger._slots != self._slots:
            raise ValueError(f"larger.d={larger.d}: must be a multiple of d={self.d}, at most {self._slots}.")
        scale = self._tables(delta.device).scale
        values = (delta * scale).repeat_interleave(larger.d // self.d)
        return (values / larger._tables(delta.device).scale).to(delta.dtype)

    def _build(self, device: torch.device) -> _Tables:
        seed, slots, copies = self.seed, self._slots, self._copies
        shared = slots // (GROUP * RUN) * GROUP * RUN
        rest = self.D % (GROUP * RUN)
        orders = [permutation(seed, f"slots {c}", slots, device) for c in range(copies)]
        # The last parameters get the slots left over where each slot is used once, else the first of a
        # fresh order.
        last = orders[0][shared:] if slots == self.D else permutation(seed, "last", slots, device)[:rest]
        order = torch.cat([o[:shared] for o in orders] + [last])
        bucket = torch.arange(slots, device=device) * self.d // slots
        coordinates = bucket[order]
        minus = signs(seed, "slot signs", 0, len(order), device) < 0

        windows = len(order) // RUN
        rows = self._signed_rows(windows, shared // RUN, device)
        used = torch.bincount(rows, minlength=2 * windows).view(2, windows).sum(0).double()
        weights = _squared_weights().to(device)
        if not self._weighted:
            weights = torch.ones_like(weights)
        # Multiples of 1 / 512: these sums are exact, so the order a GPU adds in does not matter.
        squares = torch.cat([(used[:, None] * weights).flatten(), weights[: self.D % RUN]])
        total = torch.zeros(self.d, dtype=torch.float64, device=device).index_add_(0, coordinates, squares)
        return _Tables((coordinates + self.d * minus).int(), rows, total.rsqrt())

    def _signed_rows(self, windows: int, width: int, device: torch.device) -> Tensor:
        """Signed window every run copies, int32; the first `width` windows use every slot once, and so on."""
        parts, start = [], 0
        for rows in self._rows(width, device):
            turned = signs(self.seed, "run signs", start, len(rows), device) < 0
            parts.append((rows + windows * turned).int())
            start += len(rows)
        return torch.cat(parts)

    def _rows(self, width: int, device: torch.device) -> Iterator[Tensor]:
        """Window of every run, in parts of whole stretches: what is sorted at once is small beside R^D."""
        whole = self.D // (GROUP * RUN)  # groups of runs
        stretch = max(1, width // GROUP)  # groups that use every slot once
        step = max(1, _PART // (GROUP * stretch)) * stretch
        for start in range(0, whole, step):
            stop = min(start + step, whole)
            groups = torch.arange(start, stop, device=device)
            chosen = _shuffled(start, stop, stretch, self.seed, "groups", device)
            chosen += groups // stretch % self._copies * stretch
            within = _shuffled(start * GROUP, stop * GROUP, GROUP, self.seed, "runs", device)
            yield chosen.repeat_interleave(GROUP) * GROUP + within
        yield torch.arange(self.D // RUN - whole * GROUP, device=device) + self._copies * width

    def _ordered_runs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sort the runs by signed window, and say where each begins; made where first needed."""
        if self._order is None or self._order[0].device != device:
            tables = self._tables(device)
            lengths = torch.bincount(tables.rows, minlength=2 * (len(tables.entries) // RUN))
            runs = torch.argsort(tables.rows, stable=True).int()
            self._order = runs, (lengths.cumsum(0) - lengths).int()
        return self._order


def _shuffled(start: int, stop: int, stretch: int, seed: int, stream: str, device: torch.device) -> Tensor:
    """Shuffle 0 .. stretch - 1 for each stretch of start .. stop - 1, by one sort of (stretch, random word).

    Both ends are multiples of `stretch`, but for the end of all: the last stretch may be shorter.
    """
    words = (uniform_bits(seed, stream, start, stop - start, device) >> 24) & ((1 << 40) - 1)
    number = torch.arange(stop - start, device=device) // stretch
    return torch.argsort((number << 40) | words, stable=True) % stretch


def _squared_weights() -> Tensor:
    # Near 1: unequal weights make the rows of a run correlated, by at most 1 / 16 here.
    return 1 + (2 * torch.arange(RUN, dtype=torch.float64) + 1 - RUN) / 512
