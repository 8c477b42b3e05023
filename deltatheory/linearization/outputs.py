"""What of the logits is linearized, and where the linearized network starts.

Outputs are one of

- "logits": the differences z_c - z_0, c = 1 .. C-1; cross-entropy sees nothing else.
- "margin": m = z_y - log Σ_{c≠y} exp z_c, in which cross-entropy is softplus(-m) exactly (`Loss.margin`):
  one backward pass an example for any number of classes. With more than two, linearizing m fixes the weights
  of the competitors, and the row of a held-out example then knows which class to raise above all of them
  together: held-out scores of margins are optimistic, those of the others are not.
- "contrast": v·z for one direction v drawn by lot, Σ v_c = 0 and |v|² = 2, the same for all examples: one
  backward pass, and no label. Its kernel stands for that of every difference of logits, as K ⊗ (I - 11ᵀ/C)/2
  for all logits: the sum of the logits serves so in the pseudo-kernel of Mohamadi, Bae and Sutherland (2023).

With two classes the three are the same, but for signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from deltatheory._shapes import Bool, Float, Int
from deltatheory.problems import CrossEntropy, Loss

Outputs = Literal["logits", "margin", "contrast"]

__all__ = ["LinearizationStart", "Outputs", "differences", "output_map", "random_contrast"]


def differences(logits: Float[Tensor, " C"]) -> Float[Tensor, " C-1"]:
    """Return z_c - z_0 for c = 1 .. C-1.

    >>> differences(torch.tensor([1.0, 4.0, 2.0]))
    tensor([3., 1.])
    """
    return logits[1:] - logits[0]


def random_contrast(classes: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Return z ↦ v·z for a direction by lot with Σ v_c = 0 and |v|² = 2, the length of a difference.

    >>> v = random_contrast(5, seed=0)(torch.eye(5, dtype=torch.float64))
    >>> round(float(v.norm()) / 2**0.5, 12), abs(round(float(v.sum()), 12))
    (1.0, 0.0)
    """
    v = torch.randn(classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    v -= v.mean()
    v *= 2**0.5 / v.norm()
    return lambda logits: logits @ v.to(logits)


def output_map(
    outputs: str, loss: Loss, classes: int, seed: int
) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    """Return (logits, label) ↦ the outputs of one example, and how many they are.

    Args:
        outputs: "logits", "margin" or "contrast".
        loss: whose margin it is.
        classes: C.
        seed: of the contrast.

    Raises:
        ValueError: for other outputs.
    """
    if outputs not in get_args(Outputs):
        raise ValueError(f"outputs={outputs!r}: allowed are {', '.join(map(repr, get_args(Outputs)))}.")
    if outputs == "margin":
        return loss.margin, 1
    if outputs == "logits":
        return lambda logits, _: differences(logits), classes - 1
    contrast = random_contrast(classes, seed)
    return lambda logits, _: contrast(logits), 1


@dataclass(frozen=True, eq=False)
class LinearizationStart:
    """Where linearized training starts, and when it solves an example.

    Attributes:
        logits: f(0), shape (n, C); (0, m) for margins.
        labels: shape (n,): the class, or 1 for margins.
        judging_offset: shape (n, C): what is added to the logits before an example is judged. With it they
            are those of a head fitted without the example where heads are fitted (`heads.unseen_logits`), so
            that held-out judgements are such. For margins (0, x): m then has the sign of z_y - max_{c≠y} z_c.
            For "logits" 0.
        loss: ℓ(z, y), which is trained.
    """

    logits: Float[Tensor, "n C"]
    labels: Int[Tensor, " n"]
    judging_offset: Float[Tensor, "n C"]
    loss: Loss = field(default_factory=CrossEntropy)

    @classmethod
    def of_margins(
        cls,
        logits: Float[Tensor, "n C"],
        labels: Int[Tensor, " n"],
        judged: Float[Tensor, "n C"],
        loss: Loss,
    ) -> LinearizationStart:
        """Return the start of margins, as logits (0, m) of two classes.

        Args:
            logits: whose margins are taken.
            labels: y.
            judged: the logits that decide what is solved, `ClassificationProblem.unseen(logits, ...)`.
            loss: whose margins they are.
        """
        margins = loss.margin(logits, labels)
        others = judged.scatter(1, labels[:, None], float("-inf")).amax(1)
        offset = judged.gather(1, labels[:, None])[:, 0] - others - margins
        zero, one = torch.zeros_like(margins), torch.ones_like(labels)
        return cls(torch.stack([zero, margins], 1), one, torch.stack([zero, offset], 1), loss)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int]) -> LinearizationStart:
        """Return the start of some examples, in that order."""
        kept = list(indices)
        return LinearizationStart(self.logits[kept], self.labels[kept], self.judging_offset[kept], self.loss)

    def double(self) -> LinearizationStart:
        """Return the same in float64 on the CPU, for convex fits."""
        logits, offset = (x.double().cpu() for x in (self.logits, self.judging_offset))
        return LinearizationStart(logits, self.labels.cpu(), offset, self.loss)

    def solved(self, logits: Float[Tensor, "*r n C"]) -> Bool[Tensor, "*r n"]:
        """Return which examples some logits solve."""
        return (logits + self.judging_offset).argmax(-1) == self.labels

    def residual(self) -> Float[Tensor, "n C"]:
        """Return -∂ℓ/∂z at f(0): y - softmax(f(0)) for cross-entropy."""
        return self.loss.residual(self.logits, self.labels)
