"""What a loss is to everything that trains, linearizes or controls: a function of outputs and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from deltatheory._shapes import Bool, Float, Int

__all__ = ["Loss"]


class Loss(ABC):
    """ℓ(z, y) of outputs z ∈ R^C of one answer y, convex in z, and its first two derivatives in z.

    All functions take outputs of shape (..., C) and answers of shape (...), and are differentiable in z.

    Attributes:
        name: key in `LOSSES`.
    """

    name: ClassVar[str]

    @abstractmethod
    def values(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return ℓ of each answer."""

    @abstractmethod
    def residual(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, "*n C"]:
        """Return -∂ℓ/∂z, the way downhill."""

    @abstractmethod
    def curvature(
        self, outputs: Float[Tensor, "*n C"], change: Float[Tensor, "*n C"]
    ) -> Float[Tensor, "*n C"]:
        """Return ∂²ℓ/∂z² · v for a change v of the outputs: what Gauss-Newton takes for the Hessian."""

    def margin(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return m(z, y), larger the better, with ℓ = ψ(m) for a convex and falling ψ of one number.

        Raises:
            ValueError: for a loss that is no function of one margin, as one is until it says otherwise.
        """
        raise ValueError(f"loss={self.name!r}: is no function of one margin; take the logits for outputs.")

    def of_margin(
        self, margins: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """Return ψ(m), -ψ'(m) and ψ''(m), with ℓ = ψ(`margin`).

        Raises:
            ValueError: as `margin`.
        """
        raise ValueError(f"loss={self.name!r}: is no function of one margin; take the logits for outputs.")

    def right(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Return whether the largest output is that of the answer."""
        return outputs.argmax(-1) == answers

    def mean(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the mean of ℓ over all answers."""
        return self.values(outputs, answers).mean()

    def total(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the sum of ℓ over all answers."""
        return self.values(outputs, answers).sum()
