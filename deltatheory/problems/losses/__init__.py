"""Losses, by name: each is one module with value, residual, margin and curvature."""

from __future__ import annotations

from deltatheory.problems.losses.base import Loss
from deltatheory.problems.losses.cross_entropy import CrossEntropy

__all__ = ["LOSSES", "CrossEntropy", "Loss", "make_loss"]

LOSSES: dict[str, type[Loss]] = {kind.name: kind for kind in (CrossEntropy,)}


def make_loss(loss: str | Loss) -> Loss:
    """Return the loss of that name, or the one that is given.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(loss, Loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: allowed are {', '.join(map(repr, LOSSES))}.")
    return LOSSES[loss]()
