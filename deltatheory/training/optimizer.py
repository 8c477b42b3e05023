"""An optimizer of one long vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from deltatheory._shapes import Float

__all__ = ["SegmentedOptimizer"]

_SEGMENT = 1 << 22  # numbers that are moved at once: torch's AdamW makes two more vectors of their length


class SegmentedOptimizer:
    """An elementwise optimizer of δ that moves it in place, one segment after another, to the same bits.

    Args:
        make: (tensors) ↦ an optimizer of them.
        delta: δ.
    """

    def __init__(self, make: Callable[[Sequence[Tensor]], torch.optim.Optimizer], delta: Tensor) -> None:
        self._segments = delta.split(_SEGMENT)
        self._optimizer = make(self._segments)

    def step(self, gradient: Float[Tensor, " m"], rate: float) -> None:
        """Move δ by the gradient at a learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for segment, own in zip(self._segments, gradient.split(_SEGMENT), strict=True):
            segment.grad = own
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are kept beside δ: as long as it, or single numbers."""
        kept = self._kept().items()
        return {name: torch.cat(parts) if parts[0].dim() else parts[0] for name, parts in kept}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the tensors of `state`."""
        for i, segment in enumerate(self._segments):
            self._optimizer.state[segment] = {
                # AdamW counts its steps in a tensor that stays on the CPU.
                name: x.to(segment).split(_SEGMENT)[i] if x.dim() else x.clone()
                for name, x in state.items()
            }

    @property
    def state_bytes(self) -> int:
        """The bytes of the state."""
        kept = self._kept().values()
        return sum(x.nbytes for parts in kept for x in (parts if parts[0].dim() else parts[:1]))

    def _kept(self) -> dict[str, list[Tensor]]:
        states = [self._optimizer.state[segment] for segment in self._segments]
        names = [name for name, x in states[0].items() if isinstance(x, Tensor)]
        return {name: [state[name] for state in states] for name in names}
