"""What a loss is to everything that trains, linearizes or controls: a function of outputs and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from scipy.optimize import brentq
from torch import Tensor

from deltatheory._shapes import Bool, Float, Int

__all__ = ["Loss"]


_LARGEST_SCALE = 2.0**20  # in units of the outputs' size: where all answers are right ℓ falls for ever


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
        raise self._no_margin()

    def of_margin(
        self, margins: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """Return ψ(m), -ψ'(m) and ψ''(m), with ℓ = ψ(`margin`).

        Raises:
            ValueError: as `margin`.
        """
        raise self._no_margin()

    def _no_margin(self) -> ValueError:
        return ValueError(
            f"loss={self.name!r}: is no function of one margin; take 'cross-entropy', or outputs='logits' "
            "where outputs can be chosen."
        )

    def right(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Return whether the largest output is that of the answer."""
        return outputs.argmax(-1) == answers

    def mean(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the mean of ℓ over all answers."""
        return self.values(outputs, answers).mean()

    def total(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the sum of ℓ over all answers."""
        return self.values(outputs, answers).sum()

    def best_scale(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> float:
        """Return the s ≥ 0 with the least mean of ℓ(s z, y), which is convex in s; 1/s is the temperature.

        The loss at that scale ("after temperature scaling", Guo et al. 2017) says how well outputs tell the
        answers apart and not how sure they are: it does not rise where training goes on and only the outputs
        grow, and is at most that of z = 0.

        >>> import torch
        >>> from deltatheory.problems.losses import CrossEntropy
        >>> z, y = torch.tensor([[0.0, 4.0]] * 4, dtype=torch.float64), torch.tensor([1, 1, 1, 0])
        >>> round(CrossEntropy().best_scale(z, y), 6) == round(float(torch.tensor(3.0).log() / 4), 6)
        True
        """
        z, y = outputs.detach().double().cpu(), answers.cpu()
        size = float(z.std())

        def slope(scale: float) -> float:
            return -float((self.residual(scale * z, y) * z).sum(-1).mean())

        if not size > 0 or slope(0.0) >= 0:
            return 0.0
        high = 1 / size
        while slope(high) < 0:
            high *= 2
            if high * size > _LARGEST_SCALE:
                return high
        return float(brentq(slope, 0.0, high))  # pyright: ignore[reportArgumentType]
