"""One low-dimensional vector that moves several deltas: the unified subspace of Yi et al. (2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.combined import Combined

__all__ = ["UnifiedSubspace", "fit_unified_subspace"]


def fit_unified_subspace(solutions: Sequence[Tensor], d: int) -> list[Tensor]:
    """Return M_1, ..., M_n with S_i ≈ Z M_iᵀ for a shared Z: one z a task gives each method's solution.

    Every S_i is divided by its root mean square, so no method outweighs another; the M_i are the rows of the
    best rank-d approximation of [S_1, ..., S_n] by SVD, scaled back. Nothing is centred: z = 0 is δ = 0.

    Source: the linear form of what Yi et al. (2022, section 3) train as encoders and decoders.

    Args:
        solutions: S_i, shape (tasks, m_i): trained δ of method i, one row a task, the same tasks in each.
        d: dimension of z, 1 <= d <= the rank that tasks and sizes allow.

    Raises:
        ValueError: for no solutions, unequal numbers of tasks, a zero S_i, or d outside its range.

    Solutions that lie on a line give its direction:

    >>> import torch
    >>> z = torch.tensor([[1.0], [2.0]])
    >>> (m,) = fit_unified_subspace([z @ torch.tensor([[3.0, 4.0]])], d=1)
    >>> [round(abs(float(x)), 4) for x in m / m.norm()]
    [0.6, 0.8]
    """
    if not solutions or len({len(s) for s in solutions}) != 1:
        raise ValueError(
            f"solutions: have {[len(s) for s in solutions]} rows; all must have one row for each task."
        )
    scales = [s.square().mean().sqrt() for s in solutions]
    if not all(scale > 0 for scale in scales):
        raise ValueError("solutions: one of them is 0; leave that method out.")
    stacked = torch.cat([s / scale for s, scale in zip(solutions, scales, strict=True)], 1)
    if not 1 <= d <= min(stacked.shape):
        raise ValueError(f"d={d}: must lie in 1..{min(stacked.shape)}, the rank of the stacked solutions.")
    basis = torch.linalg.svd(stacked, full_matrices=False).Vh[:d].T
    parts = basis.split([s.shape[1] for s in solutions])
    return [scale * part for scale, part in zip(scales, parts, strict=True)]


class UnifiedSubspace(Delta):
    """δ_i = M_i δ for several deltas at once, from one δ ∈ R^d (Yi et al. 2022).

    Args:
        backbone: what it changes.
        deltas: as in `Combined`.
        d: dimension; with `bases` it is theirs.
        bases: M_i of shape (m_i, d), one for each delta (see `fit_unified_subspace`); by default they are
            random with orthonormal columns.
        seed: of the random bases.

    Raises:
        ValueError: for bases of other shapes, d outside 1..min m_i, or as `Combined`.
    """

    name: ClassVar[str] = "unified-subspace"
    family: ClassVar[str] = "reparameterization"
    formula: ClassVar[str] = "δ_i = M_i δ"
    acts: ClassVar[str] = "where its parts act"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"deltas": [("lora", {"r": 2}), ("bitfit", {})], "d": 48},)

    def __init__(
        self,
        backbone: Backbone,
        *,
        deltas: Sequence[Delta],
        d: int,
        bases: Sequence[Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.combined = Combined(backbone, deltas=deltas)
        self.exact_zero = self.combined.exact_zero
        sizes = [part.size for part in self.combined.deltas]
        self.fitted, self.seed = bases is not None, seed
        if bases is None:
            if not 1 <= d <= min(sizes):
                raise ValueError(f"d={d}: must lie in 1..{min(sizes)}, the size of the smallest delta.")
            generator = torch.Generator().manual_seed(seed)
            draws = [torch.randn(m, d, generator=generator, dtype=torch.float64) for m in sizes]
            bases = [torch.linalg.qr(draw).Q for draw in draws]
        elif [tuple(basis.shape) for basis in bases] != [(m, d) for m in sizes]:
            shapes = [tuple(basis.shape) for basis in bases]
            raise ValueError(f"bases: have shapes {shapes}; allowed are {[(m, d) for m in sizes]}.")
        self.basis = torch.cat(list(bases)).to(self.combined.initial())
        self.size = d

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the edit of the combination at (M_1 δ, ..., M_n δ)."""
        return self.combined.edit(self.basis @ delta)

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return those of the combination at (M_1 δ, ..., M_n δ)."""
        return self.combined.parameters(self.basis @ delta)

    def specification(self) -> dict:
        """Parts, d and seed; of given bases only that they were: store `basis` beside the results."""
        parts = self.combined.specification()["deltas"]
        origin = {"bases": "given"} if self.fitted else {"seed": self.seed}
        return {"delta": self.name, "deltas": parts, "d": self.size, **origin}
