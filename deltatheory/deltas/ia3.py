"""(IA)³ (Liu et al. 2022): keys, values and the FFN's inner activations, rescaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.places import EditPlace, Place
from deltatheory.deltas.targets import matrix_shape, name_of

__all__ = ["IA3"]

# One module for queries, keys and values: whether the three of each head lie together in its output.
_FUSED = {"c_attn": False, "query_key_value": True}


class IA3(Delta):
    """k ← l_k ⊙ k, v ← l_v ⊙ v, h ← l_ff ⊙ h with l = 1 + δ (Liu et al. 2022, section 3.3).

    k and v are the outputs of their linear maps, before any normalisation or rotation (as in `peft`); h is
    the input of the FFN's last map. So it is W ← diag(l) W₀ of the first two (and their biases) and
    W ← W₀ diag(l) of the last. Per block as many coordinates as k, v and h are wide; a decoder's attention to
    a memory has an l_k and an l_v of its own.

    Args:
        backbone: what it changes.
    """

    name: ClassVar[str] = "ia3"
    family: ClassVar[str] = "addition"
    formula: ClassVar[str] = "k ← l_k ⊙ k, v ← l_v ⊙ v, h ← l_ff ⊙ h, l = 1 + δ"
    acts: ClassVar[str] = "keys, values and the inner activations of the FFN"
    affine: ClassVar[bool] = False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        shapes: dict[str, tuple[int, ...]] = {}
        for t, attention in backbone.attention_modules.items():
            if self._fused(attention):
                key = value = matrix_shape(getattr(attention, self._fused(attention)))[0] // 3
            else:
                key, value = (
                    matrix_shape(backbone.model.get_submodule(backbone.module_name(t, part)))[0]
                    for part in ("key", "value")
                )
            shapes |= {f"{t}.key": (key,), f"{t}.value": (value,)}
            if t < len(backbone.layers):
                inner = matrix_shape(backbone.model.get_submodule(backbone.module_name(t, "ffn_out")))[1]
                shapes[f"{t}.ffn"] = (inner,)
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size

    @staticmethod
    def _fused(attention: torch.nn.Module) -> str:
        return next((name for name in _FUSED if hasattr(attention, name)), "")

    def scales(self, delta: Float[Tensor, " m"]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the factors on the inputs and on the outputs of linear maps, by the maps' names."""
        factors = {name: 1 + x for name, x in self.coordinates.split(delta).items()}
        inputs, outputs = {}, {}
        for t, attention in self.backbone.attention_modules.items():
            key, value = factors[f"{t}.key"], factors[f"{t}.value"]
            fused = self._fused(attention)
            if fused:
                name = f"{name_of(self.backbone, attention)}.{fused}"
                outputs[name] = self._joined(fused, key, value)
            else:
                outputs |= {
                    self.backbone.module_name(t, "key"): key,
                    self.backbone.module_name(t, "value"): value,
                }
            if f"{t}.ffn" in factors:
                inputs[self.backbone.module_name(t, "ffn_out")] = factors[f"{t}.ffn"]
        return inputs, outputs

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the factors on keys, values and inner activations."""
        inputs, outputs = self.scales(delta)
        return Edit(
            inputs={name: scale.mul for name, scale in inputs.items()},
            outputs={name: self._after(scale) for name, scale in outputs.items()},
        )

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return weights and biases with the factors merged into them."""
        inputs, outputs = self.scales(delta)
        changed: dict[str, Tensor] = {}
        for name, scale in {**inputs, **outputs}.items():
            module = self.backbone.model.get_submodule(name)
            rows = (name in outputs) != matrix_shape(module)[2]
            weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
            changed[f"{name}.weight"] = weight * (scale[:, None] if rows else scale)
            if name in outputs and bias is not None:
                changed[f"{name}.bias"] = bias * scale
        return changed

    def _joined(self, fused: str, key: Tensor, value: Tensor) -> Tensor:
        """Put 1 for the query, l_k and l_v in the order of the fused output."""
        parts = torch.ones_like(key), key, value
        if not _FUSED[fused]:
            return torch.cat(parts)
        config: Any = self.backbone.model.config
        return torch.stack([x.view(config.num_attention_heads, -1) for x in parts], 1).flatten()

    @staticmethod
    def _after(scale: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda _, y: y * scale

    def tangent_places(self) -> list[Place]:
        """Return all factors as one place."""
        return [EditPlace(self.edit, self.size)]

    def specification(self) -> dict:
        """Only the name: there is nothing to choose."""
        return {"delta": self.name}
