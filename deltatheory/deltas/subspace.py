"""The random subspace of Li et al. (2018), θ = θ₀ + Pδ ("DID"), and full fine-tuning, its P = I."""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import InPlaceDelta, Options
from deltatheory.deltas.flat import FlatParameters, flatten_parameters
from deltatheory.deltas.places import Place, parameter_places
from deltatheory.projections import Projection, make_projection

__all__ = ["SCOPES", "FlatOrigin", "FullFineTuning", "Subspace", "project", "scope_names"]

SCOPES = ("blocks", "all")


class FlatOrigin:
    """A backbone's parameters θ as one vector in place, and θ₀, the values they had before any delta.

    Attributes:
        flat: θ and its gradient.
        theta0: shape (D,).
    """

    _known: ClassVar[WeakKeyDictionary] = WeakKeyDictionary()

    def __init__(self, flat: FlatParameters) -> None:
        self.flat = flat
        self.theta0 = flat.theta.clone()

    @classmethod
    def of(cls, backbone: Backbone, scope: str) -> FlatOrigin:
        """Return the one origin of this backbone and scope; a second flattening would tear the first apart.

        Raises:
            ValueError: for an unknown scope, one that differs from an earlier one of the same backbone, or
                weights in half precision, which would round θ₀ + Pδ.
        """
        names = scope_names(backbone, scope)
        if backbone.dtype != backbone.wide_dtype:
            raise ValueError(
                f"dtype={str(backbone.dtype).removeprefix('torch.')!r}: full fine-tuning and subspaces write "
                "θ into the weights, which would round it: load them in 'float32', or take 'lora'."
            )
        known, origin = cls._known.get(backbone.model, (scope, None))
        if known != scope:
            raise ValueError(f"scope={scope!r}: this backbone is in use with scope={known!r}; load another.")
        if origin is None or origin.left(backbone):
            origin = cls(flatten_parameters(backbone.model, names))
            cls._known[backbone.model] = scope, origin
        return origin

    def left(self, backbone: Backbone) -> bool:
        """Whether `backbone.to(...)` has taken the parameters out of θ."""
        name, *_ = self.flat.names
        return backbone.model.get_parameter(name).data_ptr() != self.flat.theta.data_ptr()


def scope_names(backbone: Backbone, scope: str) -> list[str]:
    """Return the names of the parameters in a scope, in the model's order.

    Raises:
        ValueError: for an unknown scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope={scope!r}: allowed are {', '.join(SCOPES)}.")
    blocks = {id(p) for p in backbone.layers.parameters()}
    named = backbone.model.named_parameters()
    if scope == "blocks":
        return [name for name, p in named if id(p) in blocks]
    # A pooler's weights do not act on the hidden states: they would count in D and do nothing.
    return [name for name, _ in named if not name.startswith("pooler.")]


class _Project(torch.autograd.Function):
    """δ ↦ Pδ for autograd and its transforms: linear, so each derivative is P or Pᵀ again."""

    @staticmethod
    def forward(delta: Tensor, projection: Projection, transpose: bool) -> Tensor:
        return projection.adjoint(delta) if transpose else projection.apply(delta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.projection, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        return _Project.apply(gradients[0], ctx.projection, not ctx.transpose), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Project.apply(tangents[0], ctx.projection, ctx.transpose)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, delta: Tensor, projection: Projection, transpose: bool) -> Any:
        rows = delta.movedim(in_dims[0], 0)
        return torch.stack([_Project.apply(row, projection, transpose) for row in rows]), 0


def project(projection: Projection, delta: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
    """Return Pδ, differentiable in δ."""
    change: Any = _Project.apply(delta, projection, False)
    return change


class Subspace(InPlaceDelta):
    """θ = θ₀ + Pδ with a fixed random P: R^d → R^D (Li et al. 2018, eq. 2; "DID" in Aghajanyan et al. 2021).

    Args:
        backbone: what it changes.
        d: dimension of the subspace, 1 <= d <= D.
        projection: key in `deltatheory.projections.PROJECTIONS`.
        seed: of P.
        scope: "blocks" (the transformer blocks; embeddings stay) or "all" parameters that act.

    Raises:
        ValueError: for d outside 1..D, an unknown projection or scope.
    """

    name: ClassVar[str] = "subspace"
    family: ClassVar[str] = "reparameterization"
    formula: ClassVar[str] = "θ = θ₀ + Pδ"
    acts: ClassVar[str] = "every parameter of the scope"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"d": 64}, {"d": 12, "scope": "all"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        d: int,
        projection: str = "hashed",
        seed: int = 0,
        scope: str = "blocks",
    ) -> None:
        super().__init__(backbone)
        self.scope = scope
        self.origin = FlatOrigin.of(backbone, scope)
        self.projection = make_projection(projection, d, self.origin.theta0.numel(), seed=seed)
        self.size = d

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return θ₀ + Pδ, cut into the model's parameters."""
        return self.origin.flat.split(self.origin.theta0 + self.change(delta))

    def change(self, delta: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return Pδ, differentiable in δ."""
        return project(self.projection, delta)

    def write(self, delta: Float[Tensor, " m"]) -> None:
        """θ ← θ₀ + Pδ."""
        self.projection.apply(delta, out=self.origin.flat.theta, base=self.origin.theta0)

    def clear(self) -> None:
        """Set the gradient to zero."""
        self.origin.flat.zero_gradient()

    def gradient(self, delta: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Return Pᵀg."""
        return self.projection.adjoint(self.origin.flat.gradient)

    def restore(self) -> None:
        """θ ← θ₀."""
        self.origin.flat.theta.copy_(self.origin.theta0)

    def specification(self) -> dict:
        """Name, d, projection, seed and scope."""
        p = self.projection
        return {"delta": self.name, "d": p.d, "projection": p.name, "seed": p.seed, "scope": self.scope}


class FullFineTuning(Subspace):
    """θ = θ₀ + δ: every parameter in the scope is tuned.

    Args:
        backbone: what it changes.
        scope: as in `Subspace`.
    """

    name: ClassVar[str] = "full"
    family: ClassVar[str] = "full"
    formula: ClassVar[str] = "θ = θ₀ + δ"
    acts: ClassVar[str] = "every parameter of the scope"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({}, {"scope": "all"})

    def __init__(self, backbone: Backbone, *, scope: str = "blocks") -> None:
        D = FlatOrigin.of(backbone, scope).theta0.numel()
        super().__init__(backbone, d=D, projection="identity", scope=scope)

    def tangent_places(self) -> list[Place] | None:
        """Return the scope, matrix by matrix and what else is in it block by block."""
        return parameter_places(self.backbone, self.origin.flat.names)

    def specification(self) -> dict:
        """Name and scope."""
        return {"delta": self.name, "scope": self.scope}
