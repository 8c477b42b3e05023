"""Ladder side-tuning (Sung et al. 2022): a small network beside the frozen one that reads its states."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.bottleneck import at_least_one, fixed_normal
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.targets import name_of

__all__ = ["LadderSide"]


class LadderSide(Delta):
    """x_T ← x_T + U s_T with s_t = m_t + gelu(W_t m_t + b_t), m_t = μ_t D_t x_t + (1 - μ_t) s_{t-1}.

    Ladder side-tuning (Sung et al. 2022) with one dense map per token as the side block; s_0 = D_0 x_0, x_t
    is the frozen backbone's state after block t and μ_t = sigmoid(δ_μ). D_t and W_t are fixed random starts
    plus their parts of δ, b_t and U = δ_U start at 0: δ = 0 is the frozen backbone and the Jacobian there is
    not zero. (T + 2)wH + T(w² + w + 1) coordinates for T blocks.

    The taps x_t are detached, so no derivative goes back through the blocks. The Jacobian in δ is exact all
    the same: the x_t do not depend on δ. Where another delta changes the blocks, its derivative leaves out
    its way through the taps. s_t is no part of x_t: `Backbone.step`, the map of one block, leaves it out.

    Args:
        backbone: what it changes.
        width: w, the width of the side network.
        seed: of the starts.

    Raises:
        ValueError: for a width below 1, or an encoder-decoder.
    """

    name: ClassVar[str] = "ladder"
    family: ClassVar[str] = "addition"
    formula: ClassVar[str] = "x_T ← x_T + U s_T, s_t = side_t(x_t, s_{t-1})"
    acts: ClassVar[str] = "the output of the last block, from the outputs of all"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"width": 8},)

    def __init__(self, backbone: Backbone, *, width: int = 8, seed: int = 0) -> None:
        super().__init__(backbone)
        if backbone.kind == "encoder-decoder":
            raise ValueError(
                f"delta={self.name!r}: reads the blocks of one stack one after the other, and "
                f"{backbone.name!r} is an encoder-decoder; take another delta."
            )
        self.width, self.seed = at_least_one("width", width), seed
        self._blocks = [name_of(backbone, layer) for layer in backbone.layers]
        hidden = backbone.hidden_size
        generator = torch.Generator().manual_seed(seed)
        self._start: dict[str, Tensor] = {}
        shapes: dict[str, tuple[int, ...]] = {"U": (hidden, width)}
        for t in range(len(self._blocks) + 1):
            self._start[f"{t}.D"] = fixed_normal(backbone, generator, width, hidden, variance=1 / hidden)
            if t:
                self._start[f"{t}.W"] = fixed_normal(backbone, generator, width, width, variance=1 / width)
                shapes |= {f"{t}.b": (width,), f"{t}.mu": ()}
        shapes |= {name: tuple(x.shape) for name, x in self._start.items()}
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return the taps of the blocks and the sum after the last."""
        pieces = self.coordinates.split(delta)
        maps = {name: start + pieces[name] for name, start in self._start.items()}
        side: list[Tensor] = []  # the newest s_t of the pass under way

        def begin(x: Tensor) -> Tensor:
            side[:] = [F.linear(x.detach(), maps["0.D"])]
            return x

        def rung(t: int) -> Callable[[Tensor, Tensor], Tensor]:
            def read(_: Tensor, x: Tensor) -> Tensor:
                gate = torch.sigmoid(pieces[f"{t}.mu"])
                mixed = gate * F.linear(x.detach(), maps[f"{t}.D"]) + (1 - gate) * side.pop()
                state = mixed + F.gelu(F.linear(mixed, maps[f"{t}.W"], pieces[f"{t}.b"]))
                if t == len(self._blocks):
                    return x + F.linear(state, pieces["U"])
                side.append(state)
                return x

            return read

        outputs = {name: rung(t) for t, name in enumerate(self._blocks, 1)}
        return Edit(inputs={self._blocks[0]: begin}, outputs=outputs)

    def specification(self) -> dict:
        """Width and seed."""
        return {"delta": self.name, "width": self.width, "seed": self.seed}
