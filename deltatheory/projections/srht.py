"""Subsampled randomised Hadamard transform, in blocks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from deltatheory.projections.blocked import BlockedHash
from deltatheory.projections.hadamard import hadamard_rows

__all__ = ["SRHT"]


class SRHT(BlockedHash):
    """Signed copies of delta, Hadamard-transformed in blocks of 1024 (Ailon and Chazelle, 2009).

    The last block is cut into powers of two, so nothing is padded. Exactly isometric and nested as `Hashed`
    is.
    """

    name: ClassVar[str] = "srht"

    def _transform(self, blocks: Tensor) -> Tensor:
        length, parts, start = blocks.shape[1], [], 0
        while start < length:
            size = 1 << ((length - start).bit_length() - 1)
            parts.append(hadamard_rows(blocks[:, start : start + size]))
            start += size
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _transpose(self, blocks: Tensor) -> Tensor:
        return self._transform(blocks)  # symmetric
