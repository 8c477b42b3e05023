"""Plain hashing followed by an orthonormal transform of every block of R^D."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from deltatheory.projections.windows import RUN, WindowHash

__all__ = ["BLOCK", "BlockedHash"]

BLOCK = 1024  # parameters mixed together


class BlockedHash(WindowHash):
    """P = T S E: S E is a plain hash and T = diag(T_1, ..., T_1, T_last) mixes blocks of 1024 parameters.

    T is orthogonal on all of R^D, so P^T P = I exactly. The last block may have any length: nothing is
    padded.
    """

    def __init__(self, d: int, D: int, *, seed: int) -> None:
        # The weights keep the copies of one coordinate from cancelling in T, as they do in a window.
        super().__init__(d, D, seed=seed, weighted=True)

    @abstractmethod
    def _transform(self, blocks: Tensor) -> Tensor:
        """Apply T_1 or T_last to each row of `blocks`, shape (blocks, length), which it may overwrite."""

    @abstractmethod
    def _transpose(self, blocks: Tensor) -> Tensor:
        """Apply the transpose of `_transform`; leaves `blocks` alone."""

    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        rows = self._tables(delta.device).rows
        windows, tail = self._spread(delta)
        for block, length in self._pieces(delta.device):
            values = windows.index_select(0, rows[block.start // RUN : block.stop // RUN]).flatten()
            if block.stop == self.D:
                values = torch.cat([values, tail])
            values = self._transform(values.view(-1, length)).reshape(-1)
            if base is None:
                out[block] = values
            else:
                torch.add(base[block], values, out=out[block])

    def _gather(self, gradient: Tensor) -> Tensor:
        tables = self._tables(gradient.device)
        sums = gradient.new_zeros(2 * (len(tables.entries) // RUN), RUN)
        tail = gradient.new_zeros(0)
        for block, length in self._pieces(gradient.device):
            values = self._transpose(gradient[block].view(-1, length)).reshape(-1)
            rows = tables.rows[block.start // RUN : block.stop // RUN]
            sums.index_add_(0, rows, values[: len(rows) * RUN].view(-1, RUN))
            tail = values[len(rows) * RUN :]
        return self._fold(sums, tail)

    def _pieces(self, device: torch.device) -> Iterator[tuple[slice, int]]:
        """Slices of R^D with the length of the blocks in them; the last, shorter block stands alone."""
        cut, step = self.D // BLOCK * BLOCK, self._blocks(device, BLOCK).step
        for start in range(0, cut, step):
            yield slice(start, min(start + step, cut)), BLOCK
        if cut < self.D:
            yield slice(cut, self.D), self.D - cut
