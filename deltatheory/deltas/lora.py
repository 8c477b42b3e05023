"""LoRA (Hu et al. 2022): a low-rank change of chosen weight matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.patterns import check_patterns
from deltatheory.deltas.places import Place, WeightPlace
from deltatheory.deltas.targets import linear_modules, matrix_shape

__all__ = ["LoRA"]


class LoRA(Delta):
    """y = W₀ x + (α/r) B (A₀ + δ_A) x, B = δ_B, in every target module (Hu et al. 2022, eq. 3).

    A₀ is random and fixed, so δ = (δ_A, δ_B) = 0 is the frozen backbone and the Jacobian there is not zero.
    The term stands beside W₀, which stays as it was loaded: no matrix of its size is formed. With weights in
    half precision no entry of W₀ rounds the change away, but the output, W₀ x rounded and the term, is
    rounded once more. `parameters` are the merged weights, with which the tuned model needs no further
    matrices.

    Args:
        backbone: what it changes.
        r: rank, 1 <= r <= the smaller side of every target.
        alpha: α, of which every target has the factor α/r with its own rank; the default makes it 1.
        targets: last parts of module names ("query", "q_proj", ...), or ends of dotted names; by default the
            query and value projections.
        rank_pattern: ranks other than r, by the end of the target's dotted name, a regular expression; the
            first that matches counts.
        seed: of A₀.

    Raises:
        ValueError: for targets that match no linear module (each entry must match), a pattern that matches
            no target, or too large a rank.
    """

    name: ClassVar[str] = "lora"
    family: ClassVar[str] = "reparameterization"
    formula: ClassVar[str] = "W = W₀ + (α/r) B A"
    acts: ClassVar[str] = "weights of chosen linear maps"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"r": 2},)

    def __init__(
        self,
        backbone: Backbone,
        *,
        r: int = 8,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        rank_pattern: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        modules = linear_modules(backbone, targets)
        self.targets = tuple(modules)
        self.rank_pattern = dict(rank_pattern or {})
        self.ranks = _ranks(self.targets, r, self.rank_pattern)
        self.r, self.alpha, self.seed = r, alpha, seed
        generator = torch.Generator().manual_seed(seed)
        self._factors: list[tuple[str, Tensor, Tensor, bool]] = []
        shapes: dict[str, tuple[int, ...]] = {}
        for name, module in modules.items():
            rows, columns, transposed = matrix_shape(module)
            r = self.ranks[name]
            if not 1 <= r <= min(rows, columns):
                raise ValueError(f"r={r}: must lie in 1..{min(rows, columns)}, the smaller side of {name!r}.")
            weight: Tensor = module.weight.detach()  # type: ignore[assignment]
            start = torch.randn(r, columns, generator=generator) / math.sqrt(columns)
            start = start.to(backbone.device, backbone.wide_dtype)
            self._factors.append((name, weight, start, transposed))
            shapes |= {f"{name}.A": (r, columns), f"{name}.B": (rows, r)}
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size

    def scaling(self, name: str) -> float:
        """Return α/r of a target."""
        return 1.0 if self.alpha is None else self.alpha / self.ranks[name]

    def factors(self, delta: Float[Tensor, " m"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return A = A₀ + δ_A and B = δ_B of every target, differentiable in δ."""
        pieces = self.coordinates.split(delta)
        return {n: (start + pieces[f"{n}.A"], pieces[f"{n}.B"]) for n, _, start, _ in self._factors}

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the terms (α/r) B A x."""
        return Edit(
            terms={n: partial(_product, a, self.scaling(n) * b) for n, (a, b) in self.factors(delta).items()}
        )

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the weight matrices with the change merged into them."""
        factors = self.factors(delta)
        changed = {}
        for name, weight, _, transposed in self._factors:
            a, b = factors[name]
            change = (self.scaling(name) * b @ a).to(weight.device)
            changed[f"{name}.weight"] = weight + (change.T if transposed else change)
        return changed

    def tangent_places(self) -> list[Place]:
        """Return the targets, whose weights move by δ_B (α/r) A₀; δ_A acts in the second order."""
        return [WeightPlace(name, self.scaling(name) * start) for name, _, start, _ in self._factors]

    def specification(self) -> dict:
        """Ranks, α, targets and seed."""
        return {
            "delta": self.name,
            "r": self.r,
            "alpha": self.alpha,
            "targets": list(self.targets),
            "rank_pattern": self.rank_pattern,
            "seed": self.seed,
        }


def _product(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return B A x."""
    return F.linear(F.linear(x, a), b)


def _ranks(targets: Sequence[str], r: int, pattern: Mapping[str, int]) -> dict[str, int]:
    check_patterns(pattern, targets, "rank_pattern")
    try:
        matched = {p: [n for n in targets if re.fullmatch(rf"(.*\.)?({p})", n)] for p in pattern}
    except re.error as error:
        raise ValueError(f"rank_pattern has {error.pattern!r}, no regular expression: {error}.") from error
    missed = [p for p, names in matched.items() if not names]
    if missed:
        raise ValueError(
            f"rank_pattern has {missed[0]!r}, which matches none of the {len(targets)} targets, such as "
            f"{targets[0]!r} ({len(missed)} of {len(pattern)} patterns match none)."
        )
    return {name: next((pattern[p] for p in pattern if name in matched[p]), r) for name in targets}
