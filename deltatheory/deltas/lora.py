"""LoRA (Hu et al. 2022): a low-rank change of chosen weight matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Delta

__all__ = ["LoRA"]

# The attention projections of query and value in the families that `load_backbone` takes.
_QUERY_VALUE = ("query", "value", "q_proj", "v_proj", "c_attn", "query_key_value")


class LoRA(Delta):
    """W = W₀ + (α/r) B (A₀ + δ_A), B = δ_B, in every target module (Hu et al. 2022, eq. 3).

    A₀ is random and fixed, so δ = (δ_A, δ_B) = 0 is the frozen backbone and the Jacobian there is not zero.

    Args:
        backbone: what it changes.
        r: rank, 1 <= r <= the smaller side of every target.
        alpha: α; the default α = r makes the factor 1.
        targets: last parts of module names ("query", "q_proj", ...), or ends of dotted names; by default the
            query and value projections.
        seed: of A₀.

    Raises:
        ValueError: for targets that match no linear module (each entry must match), or too large a rank.
    """

    name: ClassVar[str] = "lora"
    family: ClassVar[str] = "reparameterization"
    formula: ClassVar[str] = "W = W₀ + (α/r) B A"

    def __init__(
        self,
        backbone: Backbone,
        *,
        r: int = 8,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        modules = _matching(backbone, targets)
        self.targets = tuple(modules)
        generator = torch.Generator().manual_seed(seed)
        self._factors: list[tuple[str, Tensor, Tensor, bool]] = []
        self._sizes: list[int] = []
        for name, module in modules.items():
            weight: Tensor = module.weight.detach()  # type: ignore[assignment]
            # GPT-2's Conv1D keeps its matrix as (in, out).
            transposed = type(module).__name__ == "Conv1D"
            rows, columns = weight.shape[::-1] if transposed else weight.shape
            if not 1 <= r <= min(rows, columns):
                raise ValueError(f"r={r}: must lie in 1..{min(rows, columns)}, the smaller side of {name!r}.")
            start = torch.randn(r, columns, generator=generator) / math.sqrt(columns)
            self._factors.append((f"{name}.weight", weight, start.to(weight), transposed))
            self._sizes += [start.numel(), rows * r]
        self.size = sum(self._sizes)
        self.r, self.seed, self.scaling = r, seed, (r if alpha is None else alpha) / r

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the changed weight matrices."""
        pieces = iter(torch.split(delta, self._sizes))
        changed = {}
        for name, weight, start, transposed in self._factors:
            a = start + next(pieces).view_as(start)
            change = self.scaling * next(pieces).view(-1, self.r) @ a
            changed[name] = weight + (change.T if transposed else change)
        return changed

    def specification(self) -> dict:
        """Rank, factor, targets and seed."""
        return {
            "delta": self.name,
            "r": self.r,
            "scaling": self.scaling,
            "targets": list(self.targets),
            "seed": self.seed,
        }


def _matching(backbone: Backbone, targets: Sequence[str] | None) -> dict[str, nn.Module]:
    linear = {
        name: module
        for name, module in backbone.model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
        and getattr(module, "weight").ndim == 2  # noqa: B009
        and not isinstance(module, nn.Embedding)
        and not name.startswith("pooler.")
    }

    def matches(entry: str) -> dict[str, Any]:
        return {name: m for name, m in linear.items() if name == entry or name.endswith("." + entry)}

    entries = targets if targets is not None else [e for e in _QUERY_VALUE if matches(e)]
    found: dict[str, nn.Module] = {}
    for entry in entries:
        if not matches(entry):
            known = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise ValueError(f"targets has {entry!r}, which matches no linear module; there are {known}.")
        found.update(matches(entry))
    if not found:
        raise ValueError(f"targets={targets!r}: give at least one.")
    return {name: found[name] for name in linear if name in found}
