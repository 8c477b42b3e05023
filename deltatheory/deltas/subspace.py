"""The random subspace of Li et al. (2018), θ = θ₀ + Pδ ("DID"), and full fine-tuning, its P = I."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import InPlaceDelta, Options
from deltatheory.deltas.moved import MovedParameters, Movement
from deltatheory.deltas.places import Place, parameter_places
from deltatheory.projections import PartialAdjoint, Projection, Segments, make_projection

__all__ = ["SCOPES", "FullFineTuning", "Subspace", "parameters_of", "project", "scope_names"]

SCOPES = ("blocks", "all")


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


_KNOWN: WeakKeyDictionary[nn.Module, tuple[str, MovedParameters]] = WeakKeyDictionary()


def parameters_of(backbone: Backbone, scope: str) -> MovedParameters:
    """Return the one view of this backbone's parameters in a scope: what moves them stands in one place.

    Raises:
        ValueError: for an unknown scope, or one that differs from an earlier one of the same backbone.
    """
    names = scope_names(backbone, scope)
    known, _ = _KNOWN.get(backbone.model, (scope, None))
    if known != scope:
        raise ValueError(f"scope={scope!r}: this backbone is in use with scope={known!r}; load another.")
    if backbone.model not in _KNOWN:
        roots = [module for module in (backbone.model, backbone.lm_head) if module is not None]
        chosen = {name: backbone.model.get_parameter(name) for name in names}
        _KNOWN[backbone.model] = scope, MovedParameters(roots, chosen)
    return _KNOWN[backbone.model][1]


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
        self.moved = parameters_of(backbone, scope)
        self.projection = make_projection(projection, d, self.moved.size, seed=seed)
        self.size = d
        self._sums: PartialAdjoint | None = None

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return θ₀ + Pδ, cut into the model's parameters."""
        return self.moved.plus(self.moved.split(self.change(delta)))

    def change(self, delta: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return Pδ, differentiable in δ."""
        return project(self.projection, delta)

    def write(self, delta: Float[Tensor, " m"]) -> None:
        """Let the modules run at θ₀ + Pδ, each with its segment of Pδ.

        Raises:
            ValueError: for a model that is spread over devices.
        """
        self.backbone.check_on_one_device(f"delta={self.name!r}")
        self.moved.move(Movement(partial(self._segment, self.projection.segments(delta)), self._collect))

    def write_along(self, delta: Float[Tensor, " m"], v: Float[Tensor, " m"], step: Tensor) -> None:
        """Let the modules run at θ₀ + Pδ + s Pv."""
        lines = self.projection.segments(delta), self.projection.segments(v)
        self.moved.move(Movement(partial(self._along, *lines, step), self._collect))

    def _along(self, at: Segments, along: Segments, step: Tensor, number: int, base: Tensor) -> Tensor:
        return self._segment(at, number, base) + step * self._segment(along, number)

    def _segment(self, segments: Segments, number: int, base: Tensor | None = None) -> Tensor:
        _, start, stop, _ = self.moved.segments[number]
        return segments.read(start, stop, base)

    def _collect(self, number: int, gradient: Tensor) -> None:
        if self._sums:  # a backward pass whose gradient nobody asks for adds to nothing
            self._sums.add(self.moved.segments[number][1], gradient.reshape(1, -1))

    def clear(self) -> None:
        """Set the gradient to zero."""
        if not self._sums:
            self._sums = self.projection.partial_adjoint(1, self.zero()[:1])
        self._sums.clear()

    def gradient(self, delta: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Return Pᵀg."""
        return self._gathered()

    def _gathered(self) -> Tensor:
        """Return Pᵀ of what backward passes have left since `clear`."""
        if self._sums is None:
            raise RuntimeError("gradient() without clear(): what backward() gave was not kept")
        return self._sums.total()[0]

    def restore(self) -> None:
        """θ ← θ₀."""
        self.moved.rest()
        self._sums = None

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
        super().__init__(backbone, d=parameters_of(backbone, scope).size, projection="identity", scope=scope)

    def tangent_places(self) -> list[Place] | None:
        """Return the scope, matrix by matrix and what else is in it block by block."""
        places = parameter_places(self.backbone, self.moved.names)
        return None if places is None else list(places)

    def specification(self) -> dict:
        """Name and scope."""
        return {"delta": self.name, "scope": self.scope}
