"""Hashed projections: every parameter is a signed copy, or a mixture, of few coordinates of delta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from deltatheory._memory import Pieces
from deltatheory.projections.hadamard import hadamard
from deltatheory.projections.segments import PartialAdjoint, Segments
from deltatheory.projections.windows import GROUP, RUN, WindowHash

__all__ = ["Hashed", "HashedPlain"]

_TURNED = 1 << 14  # runs of a gradient that get their signs at once


class _RunHash(WindowHash):
    """Runs that copy windows and nothing else: the mixing is in the table."""

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        rows = self._tables(delta.device).rows
        windows, tail = self._spread(delta)
        cut, step = len(rows) * RUN, self._blocks(delta.device, RUN).step // RUN
        target = out[:cut].view(-1, RUN)
        source = None if base is None else base[:cut].view(-1, RUN)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            if source is None:
                torch.index_select(windows, 0, rows[block], out=target[block])
            else:
                torch.add(source[block], windows.index_select(0, rows[block]), out=target[block])
        out[cut:] = tail if base is None else base[cut:] + tail

    def _gather(self, gradient: Tensor) -> Tensor:
        cut = len(self._tables(gradient.device).rows) * RUN
        if cut:
            # Sums the runs of each window: three times as fast as adding run after run into the table.
            runs, starts = self._ordered_runs(gradient.device)
            sums = embedding_bag(runs, gradient[:cut].view(-1, RUN), starts, mode="sum")
        else:
            sums = gradient.new_zeros(0, RUN)
        return self._fold(sums, gradient[cut:])

    def _segments(self, delta: Tensor) -> Segments:
        return _RunSegments(self, delta.contiguous())

    def _partial_adjoint(self, rows: int, like: Tensor) -> PartialAdjoint:
        return _RunSums(self, rows, like)


class _RunSegments(Segments):
    """Segments made from the table of windows when they are read."""

    def __init__(self, projection: _RunHash, delta: Tensor) -> None:
        self._length, self._pieces = projection.D, Pieces()
        self._rows = projection._tables(delta.device).rows
        self._windows, self._tail = projection._spread(delta)
        self._step = projection._blocks(delta.device, RUN).step

    def _read(self, start: int, stop: int, base: Tensor | None) -> Tensor:
        if base is None:
            return self._piece(start, stop)
        out = self._room(base, self._tail.dtype)
        # A piece at a time stays in cache on its way to the sum.
        for a in range(start, stop, self._step):
            b = min(a + self._step, stop)
            torch.add(base[a - start : b - start], self._piece(a, b), out=out[a - start : b - start])
        return out

    def _piece(self, start: int, stop: int) -> Tensor:
        # Whole runs, to be cut.
        first, last = start // RUN, -(-stop // RUN)
        values = self._windows.index_select(0, self._rows[first:last]).view(-1)
        if last > len(self._rows):
            values = torch.cat([values, self._tail])
        return values if len(values) == stop - start else values[start - first * RUN : stop - first * RUN]


class _RunSums(PartialAdjoint):
    """Sums of the runs of each window, with their signs, folded at the end."""

    def __init__(self, projection: _RunHash, rows: int, like: Tensor) -> None:
        tables = projection._tables(like.device)
        windows = len(tables.entries) // RUN
        super().__init__(like.new_zeros(rows, windows, RUN), projection.D, self._fold)
        self._hash, self._runs = projection, tables.rows
        self._tail = like.new_zeros(rows, projection.D % RUN)
        both = torch.arange(2 * windows, device=like.device)
        self._window, self._sign = both % windows, (1 - 2 * (both // windows)).to(like)[:, None]

    def clear(self) -> None:
        super().clear()
        self._tail.zero_()

    def _add(self, start: int, gradients: Tensor) -> None:
        stop, cut = start + gradients.shape[1], len(self._runs) * RUN
        if stop > cut:
            self._tail[:, max(start - cut, 0) : stop - cut] += gradients[:, max(cut - start, 0) :]
            stop = max(cut, start)
        # Parts of a run at the ends, and the whole runs between them.
        first, last = min(-(-start // RUN) * RUN, stop), stop // RUN * RUN
        for a, b in ((start, first), (first, last), (max(first, last), stop)):
            if a < b:
                self._add_runs(a, gradients[:, a - start : b - start])

    def _add_runs(self, start: int, gradients: Tensor) -> None:
        """Add whole runs, or a part of one."""
        offset, length = start % RUN, min(gradients.shape[1], RUN)
        first, count = start // RUN, gradients.shape[1] // length
        signed = self._runs[first : first + count]
        windows, signs = self._window.index_select(0, signed), self._sign.index_select(0, signed)
        # One gradient after another: its sums stay in cache, and what is turned is small.
        for sums, gradient in zip(self._sums[:, :, offset : offset + length], gradients, strict=True):
            runs = gradient.unflatten(0, (count, length))
            for a in range(0, count, _TURNED):
                part = slice(a, a + _TURNED)
                sums.index_add_(0, windows[part], runs[part] * signs[part])

    def _fold(self, sums: Tensor) -> Tensor:
        rows = zip(sums, self._tail, strict=True)
        return torch.stack([self._hash._fold_unsigned(windows, tail) for windows, tail in rows])


class Hashed(_RunHash):
    """Hashing and a 64 x 64-point Hadamard transform of the hashed values: the default.

    Each parameter mixes thousands of coordinates of delta, as a dense P does, at nearly the price of plain
    hashing; so no few heavy parameters, scattered, in a run or in a channel, fall on the same coordinates.
    (64 points within a run alone would mix what a run of 64 heavy parameters shares with itself only.)
    Exactly isometric. Nested where one d divides the other and both are at most M: 2^14 to 2^16 slots, by
    D.

    Source: Uni-LoRA (Li et al., 2025) for the hash, Ailon and Chazelle (2009) for the Hadamard mixing.
    """

    name: ClassVar[str] = "hashed"

    def __init__(self, d: int, D: int, *, seed: int) -> None:
        super().__init__(d, D, seed=seed, weighted=True)

    def _mix(self, windows: Tensor) -> None:
        within = hadamard(RUN, windows.dtype, windows.device)
        whole = len(windows) // GROUP * GROUP
        # A few groups at a time stay in cache.
        for groups in windows[:whole].view(-1, GROUP, RUN).split(8):
            groups.copy_(within @ (groups @ within))
        # The last windows, fewer than 64, in powers of two.
        while whole < len(windows):
            size = 1 << ((len(windows) - whole).bit_length() - 1)
            part = windows[whole : whole + size]
            part.copy_(hadamard(size, windows.dtype, windows.device) @ part @ within)
            whole += size


class HashedPlain(_RunHash):
    """Hashing with s non-zeros a row; s = 1 is the form of Uni-LoRA (Li et al., 2025).

    Where a few parameters carry most of the gradient, two of them on one coordinate are lost to each other,
    and s = 1 spans a poorer subspace: the loss it reaches was up to 45 % above that of a dense P in
    least-squares trials (and 32 % with 100 heavy parameters and d = 60). Prefer `Hashed` unless speed is
    all. Exactly isometric and nested as `Hashed` is.

    Args:
        d: dimension of the subspace.
        D: dimension of the space.
        seed: of the random numbers.
        s: 1, 2, 4, ... or 64; mixing is an s-point Hadamard transform, so the isometry stays exact.

    Raises:
        ValueError: s is not one of these.

    """

    name: ClassVar[str] = "hashed-plain"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"s": 4})

    def __init__(self, d: int, D: int, *, seed: int, s: int = 1) -> None:
        if s not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"s={s}: the non-zeros a row are a power of two from 1 to 64.")
        super().__init__(d, D, seed=seed, weighted=s > 1, s=s)
        self._points = s

    def _mix(self, windows: Tensor) -> None:
        if self._points > 1:
            parts = windows.view(-1, self._points)
            parts.copy_(parts @ hadamard(self._points, windows.dtype, windows.device))
