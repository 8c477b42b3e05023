"""Cross-entropy of the softmax: the loss of classification and of the next token."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, softplus

from deltatheory._shapes import Float, Int
from deltatheory.problems.losses.base import Loss

__all__ = ["CrossEntropy"]


class CrossEntropy(Loss):
    """ℓ(z, y) = log Σ_c exp z_c - z_y = log(1 + exp(-m)), m = z_y - log Σ_{c≠y} exp z_c.

    With p = softmax(z): -∂ℓ/∂z = e_y - p, and ∂²ℓ/∂z² = diag(p) - p pᵀ.

    >>> import torch
    >>> loss, z, y = CrossEntropy(), torch.zeros(1, 4, dtype=torch.float64), torch.tensor([2])
    >>> round(float(loss.mean(z, y)), 6) == round(float(torch.tensor(4.0).log()), 6)  # ln C at z = 0
    True
    >>> loss.residual(z, y).tolist()
    [[-0.25, -0.25, 0.75, -0.25]]
    """

    name: ClassVar[str] = "cross-entropy"

    def values(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return -log p_y."""
        flat = cross_entropy(outputs.flatten(0, -2), answers.flatten(), reduction="none")
        return flat.view(answers.shape)

    def residual(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, "*n C"]:
        """Return e_y - p."""
        return one_hot(answers, outputs.shape[-1]) - outputs.softmax(-1)

    def curvature(
        self, outputs: Float[Tensor, "*n C"], change: Float[Tensor, "*n C"]
    ) -> Float[Tensor, "*n C"]:
        """Return (diag(p) - p pᵀ) v."""
        weighted = outputs.softmax(-1) * change
        return weighted - outputs.softmax(-1) * weighted.sum(-1, keepdim=True)

    def margin(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return z_y - log Σ_{c≠y} exp z_c, in which the loss is softplus(-m) exactly."""
        own = one_hot(answers, outputs.shape[-1]).bool()
        others = outputs.masked_fill(own, float("-inf")).logsumexp(-1)
        return outputs.gather(-1, answers[..., None])[..., 0] - others

    def of_margin(
        self, margins: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """Return softplus(-m), σ(-m) and σ(m) σ(-m), precise for large margins too."""
        return softplus(-margins), torch.sigmoid(-margins), torch.sigmoid(margins) * torch.sigmoid(-margins)

    def mean(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the mean, in torch's own order of addition."""
        return cross_entropy(outputs.flatten(0, -2), answers.flatten())

    def total(self, outputs: Float[Tensor, "*n C"], answers: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the sum, in torch's own order of addition."""
        return cross_entropy(outputs.flatten(0, -2), answers.flatten(), reduction="sum")
