"""Several deltas at once, or one after the other (Ding et al. 2023, "Combinations")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.places import Place

__all__ = ["Combined", "Stage"]


class Combined(Delta):
    """δ = (δ_0, ..., δ_n): the edits one after the other; on a shared parameter the changes are added.

    Where several edits meet in one place of the forward pass, a later one acts on what the earlier left;
    where they change one parameter it becomes θ₀ + Δ_0 + ... + Δ_n. Training δ trains all at once
    (simultaneously); `stage` gives the problems of training them one after the other (sequentially).

    Args:
        backbone: what it changes.
        deltas: deltas on this backbone; `make_delta` also takes (name, options) for one.

    Raises:
        ValueError: for no delta, or a delta on another backbone.
    """

    name: ClassVar[str] = "combined"
    family: ClassVar[str] = "combination"
    formula: ClassVar[str] = "ψ_n(δ_n) ∘ ... ∘ ψ_0(δ_0)"
    acts: ClassVar[str] = "where its parts act"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = (
        {"deltas": [("lora", {"r": 2}), ("bitfit", {}), ("layernorm", {})]},
        {"deltas": [("lora", {"r": 2}), ("prompt", {"length": 2})]},
    )

    def __init__(self, backbone: Backbone, *, deltas: Sequence[Delta]) -> None:
        super().__init__(backbone)
        if not deltas:
            raise ValueError(f"deltas={deltas!r}: give at least one.")
        self.deltas = tuple(deltas)
        for i, delta in enumerate(self.deltas):
            if delta.backbone is not backbone:
                raise ValueError(f"deltas[{i}]: {delta.name!r} is on another backbone; make it on this one.")
        self.size = sum(delta.size for delta in self.deltas)
        self.exact_zero = all(delta.exact_zero for delta in self.deltas)

    def split(self, delta: Float[Tensor, " m"]) -> tuple[Tensor, ...]:
        """Return (δ_0, ..., δ_n)."""
        return torch.split(delta, [part.size for part in self.deltas])

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return all edits in one."""
        combined = Edit()
        for part, piece in zip(self.deltas, self.split(delta), strict=True):
            own = part.edit(piece)
            parameters = self._added(combined.parameters, own.parameters)
            combined = replace(combined, parameters={}).then(replace(own, parameters=parameters))
        return combined

    def _added(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
        origin = self.backbone.model.get_parameter
        sums = {n: first[n] + (second[n] - origin(n).detach()) for n in first.keys() & second.keys()}
        return {**first, **second, **sums}

    def tangent_places(self) -> list[Place] | None:
        """Return those of the parts: at δ = 0 their effects add up."""
        parts = [part.tangent_places() for part in self.deltas]
        return None if None in parts else [place for places in parts for place in places or []]

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return those of all parts, with the changes of each."""
        changed: dict[str, Tensor] = {}
        for part, piece in zip(self.deltas, self.split(delta), strict=True):
            changed = self._added(changed, part.parameters(piece))
        return changed

    def stage(self, i: int, fixed: Sequence[Tensor]) -> Stage:
        """Return stage i of sequential training: δ_i is free, those before are fixed, those after left out.

        Args:
            i: 0 .. n.
            fixed: δ_0, ..., δ_{i-1}, as trained in the stages before.

        Raises:
            ValueError: for i outside that, or `fixed` of another number or sizes.
        """
        return Stage(self, i, fixed)

    def specification(self) -> dict:
        """Name and the parts' own specifications, as (name, options)."""
        parts = [part.specification() for part in self.deltas]
        return {
            "delta": self.name,
            "deltas": [[p["delta"], {k: v for k, v in p.items() if k != "delta"}] for p in parts],
        }


class Stage(Delta):
    """One delta of a `Combined` on the backbone as earlier stages left it; δ = 0 is that model.

    Attributes:
        combined: the combination up to this stage.
        fixed: (δ_0, ..., δ_{i-1}) as one vector.
    """

    name: ClassVar[str] = "stage"
    family: ClassVar[str] = "combination"
    formula: ClassVar[str] = "ψ_i(δ) ∘ ψ_{i-1}(δ_{i-1}) ∘ ... ∘ ψ_0(δ_0), δ_0 ... δ_{i-1} fixed"
    acts: ClassVar[str] = "where its last part acts"
    affine: ClassVar[bool] = False
    exact_zero: bool = False

    def __init__(self, combined: Combined, i: int, fixed: Sequence[Tensor]) -> None:
        super().__init__(combined.backbone)
        if not 0 <= i < len(combined.deltas):
            raise ValueError(f"i={i}: must lie in 0..{len(combined.deltas) - 1}, the stages.")
        sizes = [part.size for part in combined.deltas[:i]]
        if [x.numel() for x in fixed] != sizes:
            raise ValueError(f"fixed: has sizes {[x.numel() for x in fixed]}; stage {i} needs {sizes}.")
        self.combined = Combined(combined.backbone, deltas=combined.deltas[: i + 1])
        self.size = combined.deltas[i].size
        self.fixed = torch.cat([*(x.detach() for x in fixed), combined.initial()[:0]])

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the edits of the earlier stages and this one's."""
        return self.combined.edit(torch.cat([self.fixed, delta]))

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return those of the earlier stages and this one."""
        return self.combined.parameters(torch.cat([self.fixed, delta]))

    def specification(self) -> dict:
        """Parts and the stage; the fixed δ are results of their own runs and stored there."""
        return {**self.combined.specification(), "delta": self.name, "i": len(self.combined.deltas) - 1}
