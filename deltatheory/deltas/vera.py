"""VeRA (Kopiczko et al. 2024): two trained vectors a matrix between random factors shared by all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.targets import linear_modules, matrix_shape

__all__ = ["VeRA"]


class VeRA(Delta):
    """y = W₀ x + diag(b) B diag(s) A x, b = δ_b, s = start + δ_s (Kopiczko et al. 2024, eq. 2).

    A and B are random, fixed and shared by all targets: one has the first columns of A and the
    first rows of B, which are as large as the largest target asks. Both are uniform with variance 2 / fan-in.

    Args:
        backbone: what it changes.
        r: rank, r >= 1; it may exceed the sides of a target.
        targets: as in `LoRA`.
        start: s at δ = 0, not 0 (there the Jacobian would vanish).
        seed: of A and B.

    Raises:
        ValueError: for targets that match no linear module (each entry must match), r < 1, or start = 0.
    """

    name: ClassVar[str] = "vera"
    family: ClassVar[str] = "reparameterization"
    formula: ClassVar[str] = "W = W₀ + diag(b) B diag(s) A"
    acts: ClassVar[str] = "weights of chosen linear maps"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"r": 8},)

    def __init__(
        self,
        backbone: Backbone,
        *,
        r: int = 256,
        targets: Sequence[str] | None = None,
        start: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        if r < 1:
            raise ValueError(f"r={r}: must be at least 1.")
        if start == 0:
            raise ValueError("start=0: must not be 0, or b and s would have no gradient at δ = 0.")
        modules = linear_modules(backbone, targets)
        self._shapes = {name: matrix_shape(module) for name, module in modules.items()}
        self._weights: dict[str, Tensor] = {n: m.weight.detach() for n, m in modules.items()}  # type: ignore[misc]
        rows, columns, _ = map(max, zip(*self._shapes.values(), strict=True))
        generator = torch.Generator().manual_seed(seed)
        a = (2 * torch.rand(r, columns, generator=generator) - 1) * math.sqrt(6 / columns)
        b = (2 * torch.rand(rows, r, generator=generator) - 1) * math.sqrt(6 / r)
        self.A, self.B = (x.to(backbone.device, backbone.wide_dtype) for x in (a, b))
        self.targets, self.r, self.start, self.seed = tuple(modules), r, start, seed
        self.coordinates = Coordinates(
            {f"{n}.{key}": (k,) for n, (out, *_) in self._shapes.items() for key, k in (("s", r), ("b", out))}
        )
        self.size = self.coordinates.size

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the terms diag(b) B diag(s) A x."""
        pieces = self.coordinates.split(delta)
        terms = {}
        for name, (rows, columns, _) in self._shapes.items():
            s, b = self.start + pieces[f"{name}.s"], pieces[f"{name}.b"]
            terms[name] = partial(_product, self.A[:, :columns], s, self.B[:rows], b)
        return Edit(terms=terms)

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the weight matrices with the change merged into them."""
        pieces = self.coordinates.split(delta)
        changed = {}
        for name, (rows, columns, transposed) in self._shapes.items():
            s, b = self.start + pieces[f"{name}.s"], pieces[f"{name}.b"]
            change = b[:, None] * (self.B[:rows] @ (s[:, None] * self.A[:, :columns]))
            changed[f"{name}.weight"] = self._weights[name] + (change.T if transposed else change)
        return changed

    def specification(self) -> dict:
        """Rank, targets, start and seed."""
        return {
            "delta": self.name,
            "r": self.r,
            "targets": list(self.targets),
            "start": self.start,
            "seed": self.seed,
        }


def _product(a: Tensor, s: Tensor, b_matrix: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return diag(b) B diag(s) A x."""
    return b * F.linear(s * F.linear(x, a), b_matrix)
