"""Orthonormal Hadamard matrices."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from deltatheory._shapes import Float

__all__ = ["hadamard", "hadamard_rows"]


@lru_cache(maxsize=64)
def hadamard(n: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "n n"]:
    """Make the Walsh-Hadamard matrix over sqrt n, symmetric and orthogonal (Sylvester, 1867); n = 2^k.

    The matrix is kept and shared: do not write to it.

    >>> (hadamard(4, torch.float64, torch.device("cpu")) * 2).int().tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < n:
        matrix = torch.kron(matrix, step)
    return (matrix / n**0.5).to(device=device, dtype=dtype)


def hadamard_rows(rows: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Hadamard-transform each row, orthonormally; n = 2^k.

    H = H_a (x) H_b with a b = n: two small matrix products a row, faster here than butterflies.

    >>> hadamard_rows(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    length = rows.shape[1]
    inner = 1 << (length.bit_length() // 2)
    parts = rows.reshape(-1, length // inner, inner)
    outer = hadamard(length // inner, rows.dtype, rows.device)
    return (outer @ (parts @ hadamard(inner, rows.dtype, rows.device))).view(-1, length)
