"""Orthonormal Hadamard matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from deltatheory._shapes import Float

__all__ = ["hadamard"]


def hadamard(n: int) -> Float[Tensor, "n n"]:
    """Make the Walsh-Hadamard matrix over sqrt n, symmetric and orthogonal (Sylvester, 1867); n = 2^k."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < n:
        matrix = torch.kron(matrix, step)
    return matrix / n**0.5
