"""Deltas that tune chosen parameters and leave the others: by name, biases, normalizations, last blocks."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import ClassVar

from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.places import Place, parameter_places
from deltatheory.deltas.subspace import scope_names

__all__ = ["BitFit", "LastLayers", "LayerNormOnly", "Modules", "RandomModules", "Selected"]


class Selected(Delta):
    """θ_S = θ₀_S + δ for a set S of whole parameters.

    Attributes:
        matched: name ↦ number of entries of each parameter in S.
    """

    family: ClassVar[str] = "specification"
    formula: ClassVar[str] = "θ_S = θ₀_S + δ"
    affine: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, names: Sequence[str]) -> None:
        super().__init__(backbone)
        self._origin = {name: backbone.model.get_parameter(name).detach() for name in names}
        self.coordinates = Coordinates({name: tuple(p.shape) for name, p in self._origin.items()})
        self.size = self.coordinates.size
        self.matched = {name: p.numel() for name, p in self._origin.items()}

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return θ₀_S + δ."""
        pieces = self.coordinates.split(delta)
        return {name: origin + pieces[name].to(origin.device) for name, origin in self._origin.items()}

    def tangent_places(self) -> list[Place] | None:
        """Return S, matrix by matrix and what else is in it block by block."""
        places = parameter_places(self.backbone, list(self._origin))
        return None if places is None else list(places)

    def specification(self) -> dict:
        """Name."""
        return {"delta": self.name}


class Modules(Selected):
    """Tune the parameters whose names match patterns; a pooler is left out, it does not act.

    Args:
        backbone: what it changes.
        patterns: shell-style, on whole parameter names: "*.query.*", "encoder.layer.1.*".

    Raises:
        ValueError: for no pattern, or one that matches no parameter.
    """

    name: ClassVar[str] = "modules"
    acts: ClassVar[str] = "parameters chosen by name"
    examples: ClassVar[tuple[Options, ...]] = ({"patterns": ["*.1.*weight"]},)

    def __init__(self, backbone: Backbone, *, patterns: Sequence[str]) -> None:
        if isinstance(patterns, str) or not patterns:
            raise ValueError(f"patterns={patterns!r}: give a list of at least one.")
        known = scope_names(backbone, "all")
        missed = [p for p in patterns if not any(fnmatchcase(name, p) for name in known)]
        if missed:
            raise ValueError(
                f"patterns has {missed[0]!r}, which matches none of the {len(known)} parameters, such as "
                f"{known[-1]!r} ({len(missed)} of {len(patterns)} patterns match none)."
            )
        super().__init__(backbone, [n for n in known if any(fnmatchcase(n, p) for p in patterns)])
        self.patterns = tuple(patterns)

    def specification(self) -> dict:
        """Name and patterns."""
        return {"delta": self.name, "patterns": list(self.patterns)}


class BitFit(Selected):
    """Tune every bias (Ben Zaken et al. 2022, section 3).

    Args:
        backbone: what it changes.

    Raises:
        ValueError: for a model without biases.
    """

    name: ClassVar[str] = "bitfit"
    formula: ClassVar[str] = "b = b₀ + δ"
    acts: ClassVar[str] = "biases"

    def __init__(self, backbone: Backbone) -> None:
        names = [n for n in scope_names(backbone, "all") if n.rsplit(".", 1)[-1] == "bias"]
        if not names:
            raise ValueError(f"backbone={backbone.name!r}: has no bias; take 'layernorm' or 'lora'.")
        super().__init__(backbone, names)


class LayerNormOnly(Selected):
    """Tune scales and shifts of the normalizations in the blocks, LayerNorm or RMSNorm.

    Source: Zhao et al. 2024, "Tuning LayerNorm in Attention".

    Args:
        backbone: what it changes.

    Raises:
        ValueError: for blocks without normalization parameters.
    """

    name: ClassVar[str] = "layernorm"
    formula: ClassVar[str] = "(γ, β) = (γ₀, β₀) + δ"
    acts: ClassVar[str] = "normalizations in the blocks"

    def __init__(self, backbone: Backbone) -> None:
        modules = dict(backbone.model.named_modules())
        names = [
            name
            for name in scope_names(backbone, "blocks")
            if "norm" in type(modules[name.rpartition(".")[0]]).__name__.lower()
        ]
        if not names:
            raise ValueError(f"backbone={backbone.name!r}: has no normalization parameters in its blocks.")
        super().__init__(backbone, names)


class LastLayers(Selected):
    """Tune the last k blocks whole.

    Source: Howard and Ruder 2018 (from the last layer on), Lee et al. 2019.

    Args:
        backbone: what it changes.
        k: 1 .. number of blocks.

    Raises:
        ValueError: for k outside that.
    """

    name: ClassVar[str] = "last-layers"
    acts: ClassVar[str] = "every parameter of the last k blocks"
    examples: ClassVar[tuple[Options, ...]] = ({"k": 1},)

    def __init__(self, backbone: Backbone, *, k: int = 1) -> None:
        if not 1 <= k <= len(backbone.layers):
            raise ValueError(f"k={k}: must lie in 1..{len(backbone.layers)}, the number of blocks.")
        inside = {id(p) for layer in list(backbone.layers)[-k:] for p in layer.parameters()}
        names = [n for n, p in backbone.model.named_parameters() if id(p) in inside]
        super().__init__(backbone, names)
        self.k = k

    def specification(self) -> dict:
        """Name and k."""
        return {"delta": self.name, "k": self.k}


class RandomModules(Selected):
    """Tune weight matrices of the blocks that are drawn by lot, across all layers.

    Source: Ding et al. 2023, section 4.4 (selective module tuning).

    Args:
        backbone: what it changes.
        share: of the matrices; at least one is drawn.
        seed: of the draw.

    Raises:
        ValueError: for a share outside (0, 1].
    """

    name: ClassVar[str] = "random-modules"
    acts: ClassVar[str] = "weight matrices drawn by lot"
    examples: ClassVar[tuple[Options, ...]] = ({"share": 0.2},)

    def __init__(self, backbone: Backbone, *, share: float = 0.1, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: must lie in (0, 1].")
        shapes = {name: backbone.model.get_parameter(name).shape for name in scope_names(backbone, "blocks")}
        matrices = [name for name, shape in shapes.items() if len(shape) == 2]
        super().__init__(backbone, Random(seed).sample(matrices, max(1, round(share * len(matrices)))))
        self.share, self.seed = share, seed

    def specification(self) -> dict:
        """Name, share and seed."""
        return {"delta": self.name, "share": self.share, "seed": self.seed}
