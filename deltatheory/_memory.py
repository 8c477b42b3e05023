"""Memory that is free but still the process's, and memory that is used again."""

from __future__ import annotations

import ctypes
import sys
import weakref

import numpy as np
import torch
from torch import Tensor

__all__ = ["Pieces", "give_back"]

_ALIGNED = 64  # as torch does, on which the last bit of a product may depend


def give_back() -> None:
    """Give the system what is free: glibc keeps small pieces, beside which large tensors find no room."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


class Pieces:
    """Vectors in memory that is taken again as soon as no tensor is left in it.

    In the heap, what a weight leaves that lived for a moment is cut up by the next small activation, and the
    next weight takes new memory: a decoder's, formed one after another, took three times what was alive.
    On a GPU the allocator of torch does this.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def empty_like(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a vector as long as another, on its device; what is in it is arbitrary."""
        if like.device.type != "cpu":
            return torch.empty_like(like, dtype=dtype)
        size = len(like) * dtype.itemsize
        fitting = [i for i, piece in enumerate(self._free) if len(piece) >= size]
        if fitting:
            piece = self._free.pop(min(fitting, key=lambda i: len(self._free[i])))
        else:
            self._free.clear()
            piece = np.empty(size + _ALIGNED, np.uint8)  # a tensor made inside of jvp would be one of its own
            piece = piece[-piece.ctypes.data % _ALIGNED :]
        part = piece[:size]  # lives as long as a tensor in it
        weakref.finalize(part, self._free.append, piece).atexit = False
        return torch.from_numpy(part).view(dtype)
