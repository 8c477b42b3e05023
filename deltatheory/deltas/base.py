"""What every delta promises: a map δ ↦ the backbone's parameters, with δ = 0 the frozen backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.places import Place

__all__ = ["Delta", "InPlaceDelta", "Options"]

Options = Mapping[str, Any]  # the arguments of a delta's class beside its backbone


class Delta(ABC):
    """A parameter-efficient change of a frozen backbone, θ = ψ(δ) with δ ∈ R^m and ψ(0) = θ₀ exactly.

    A kind of delta is one subclass in one file and one line in `deltatheory.deltas.DELTAS`. It defines
    `size` and `edit` (or `parameters`, where all it does is to change those); training and theory use nothing
    else.

    Attributes:
        name: key in `DELTAS`.
        family: "addition", "specification" or "reparameterization" (Ding et al. 2023).
        formula: ψ in one line.
        acts: where in a layer it acts.
        affine: whether the map of a controlled layer is affine in δ, at a fixed input of the layer.
        exact_zero: whether δ = 0 is the frozen backbone; only for a raw prompt or prefix it is not, and then
            δ = 0 is the backbone with its start prompt.
        examples: options of each variant that is to be held to the laws, small enough for a network of two
            narrow blocks; with the first a small network learns an easy task.
        backbone: what it changes.
        size: m, the number of coordinates of δ.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    formula: ClassVar[str]
    acts: ClassVar[str]
    affine: ClassVar[bool]
    examples: ClassVar[tuple[Options, ...]] = ({},)
    exact_zero: bool = True
    size: int

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def initial(self) -> Float[Tensor, " m"]:
        """Return δ = 0, where training starts."""
        return torch.zeros(self.size, device=self.backbone.device, dtype=self.backbone.wide_dtype)

    def zero(self) -> Float[Tensor, " m"]:
        """Return δ = 0 as one number m times, which takes no memory and is not to be written to."""
        return torch.zeros(1, device=self.backbone.device, dtype=self.backbone.wide_dtype).expand(self.size)

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return what the forward pass does differently at δ, differentiable in δ."""
        return Edit(parameters=self.parameters(delta))

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the entries of `backbone.model.named_parameters()` that are changed, or would be by a merge.

        Differentiable in δ.
        """
        return {}

    def tangent_places(self) -> list[Place] | None:
        """Return where δ acts at δ = 0, every coordinate that acts once, or `None` where that is not said.

        J Jᵀ is then the sum of what the places add, and `linearization.tangent_kernels` needs no row of J.
        """
        return None

    @abstractmethod
    def specification(self) -> dict:
        """Return what, with δ, rebuilds the change: plain JSON values."""


class InPlaceDelta(Delta):
    """A delta that can also write θ(δ) into the model's own storage, for training at large D.

    Between `write` and `restore` the backbone's module *is* the tuned model.
    """

    @abstractmethod
    def write(self, delta: Float[Tensor, " m"]) -> None:
        """θ ← ψ(δ) in the model's storage."""

    @abstractmethod
    def clear(self) -> None:
        """Set the gradient that `backward()` adds to back to zero."""

    @abstractmethod
    def gradient(self, delta: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Return ∂ψᵀ g for the gradient g that `backward()` has left since `clear()`; g is used up.

        δ must be what was last written.
        """

    @abstractmethod
    def write_along(self, delta: Float[Tensor, " m"], v: Float[Tensor, " m"], step: Tensor) -> None:
        """θ ← ψ(δ) + s ∂ψ v, differentiable in the step s, in forward mode."""

    @abstractmethod
    def restore(self) -> None:
        """θ ← θ₀."""
