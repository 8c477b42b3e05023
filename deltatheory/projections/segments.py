"""P δ and Pᵀ g a segment of R^D at a time, for parameters that are never one vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deltatheory._memory import Pieces
from deltatheory._shapes import Float

__all__ = ["PartialAdjoint", "Segments"]


class Segments:
    """P δ at one δ, read in any order: (P δ)[start:stop].

    This one keeps all of P δ. A construction that can make a segment from its tables overrides `_read`.

    Args:
        whole: P δ, shape (D,).
    """

    def __init__(self, whole: Float[Tensor, " D"]) -> None:
        self._whole = whole
        self._length = len(whole)
        self._pieces = Pieces()

    def read(self, start: int, stop: int, base: Float[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        """Return base + (P δ)[start:stop].

        Args:
            start: of the segment.
            stop: its end.
            base: of any float type, of which the sum has the larger. 0 when not given, and then what is
                returned is not to be written to.

        Raises:
            ValueError: unless 0 <= start <= stop <= D.
        """
        check_segment(start, stop, self._length)
        return self._read(start, stop, base)

    def _read(self, start: int, stop: int, base: Tensor | None) -> Tensor:
        segment = self._whole[start:stop]
        return segment if base is None else torch.add(base, segment, out=self._room(base, segment.dtype))

    def _room(self, base: Tensor, dtype: torch.dtype) -> Tensor:
        """Return where a sum with base goes: weights, formed one after another, in the same memory."""
        return self._pieces.empty_like(base, torch.promote_types(base.dtype, dtype))


class PartialAdjoint:
    """Σ over segments of Pᵀ g, for several gradients g at once whose segments come in any order.

    This one keeps the gradients whole. A construction that can add up segments overrides `_add`.

    Args:
        sums: zeros that the gradients are added to, one row each; here of shape (rows, D).
        length: D.
        gather: sums ↦ Pᵀ of the gradients, shape (rows, d).
    """

    def __init__(self, sums: Tensor, length: int, gather: Callable[[Tensor], Tensor]) -> None:
        self._sums, self._length, self._gather = sums, length, gather

    def add(self, start: int, gradients: Float[Tensor, "rows n"]) -> None:
        """Add the entries start .. start + n - 1 of every gradient; other entries count as 0.

        Args:
            start: of the segment.
            gradients: of any float type; summed in the type asked for.

        Raises:
            ValueError: for another number of rows, or a segment that is not within 0 .. D.
        """
        rows, length = gradients.shape
        if rows != len(self._sums):
            raise ValueError(f"gradients.shape={tuple(gradients.shape)}: must have {len(self._sums)} rows.")
        check_segment(start, start + length, self._length)
        self._add(start, gradients.detach().to(self._sums.dtype))

    def total(self) -> Float[Tensor, "rows d"]:
        """Return Pᵀ of what was added. This uses the sums up: `clear` before the next ones."""
        return self._gather(self._sums)

    def clear(self) -> None:
        """Begin again at zero."""
        self._sums.zero_()

    def _add(self, start: int, gradients: Tensor) -> None:
        self._sums[:, start : start + gradients.shape[1]] += gradients


def check_segment(start: int, stop: int, length: int) -> None:
    """Refuse what is no segment of a vector.

    Raises:
        ValueError: unless 0 <= start <= stop <= length.
    """
    if not 0 <= start <= stop <= length:
        raise ValueError(
            f"start={start}, stop={stop}: a segment of R^{length} has 0 <= start <= stop <= {length}."
        )
