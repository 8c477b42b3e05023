"""A head that is trained beside a delta."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Edit
from deltatheory.deltas.base import Delta
from deltatheory.deltas.coordinates import Coordinates

__all__ = ["WithHead"]


class WithHead(Delta):
    """δ = (δ_ψ, δ_h): the change ψ(δ_ψ) of the backbone, and φ = φ₀ + δ_h in the head that reads it.

    It is not in `DELTAS`, since it comes with a head: `Setup.problem(..., train_head=True)` and `load_delta`
    make it.

    Args:
        delta: ψ.
        head: kind of the head, a key of `deltatheory.problems.HEADS`.
        start: φ₀, the head's parameters by name.

    Raises:
        ValueError: for a head without parameters of its own.
    """

    name: ClassVar[str] = "with-head"
    family: ClassVar[str] = "combination"
    formula: ClassVar[str] = "ψ(δ_ψ), φ₀ + δ_h"
    acts: ClassVar[str] = "where its delta acts, and in the head"
    affine: ClassVar[bool] = False

    def __init__(self, delta: Delta, head: str, start: Mapping[str, Tensor]) -> None:
        super().__init__(delta.backbone)
        if not start:
            raise ValueError(f"train_head=True: head={head!r} has no parameters beside the model's own.")
        self.delta, self.head = delta, head
        self.start = {name: p.detach().to(self.backbone.device) for name, p in start.items()}
        self.coordinates = Coordinates({name: tuple(p.shape) for name, p in self.start.items()})
        self.size = delta.size + self.coordinates.size
        self.exact_zero = delta.exact_zero

    def split(self, delta: Float[Tensor, " m"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return δ_ψ, and φ₀ + δ_h by name."""
        inner, offset = torch.split(delta, [self.delta.size, self.coordinates.size])
        offsets = self.coordinates.split(offset)
        return inner, {name: p + offsets[name] for name, p in self.start.items()}

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the delta's edit with the head's parameters."""
        inner, head = self.split(delta)
        return replace(self.delta.edit(inner), head=head)

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the parameters of the backbone's change."""
        return self.delta.parameters(self.split(delta)[0])

    def specification(self) -> dict:
        """Return that of the delta, with kind, shapes and digest of the head it starts from."""
        digest = hashlib.sha256()
        for p in self.start.values():
            digest.update(p.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        shapes = {name: list(shape) for name, shape in self.coordinates.shapes.items()}
        head = {"kind": self.head, "parameters": shapes, "start_sha256": digest.hexdigest()}
        return {**self.delta.specification(), "trained_head": head}
