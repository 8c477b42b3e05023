"""How far a network's logits are from the linearized ones, in units of the change that those foretell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.problems import ClassificationProblem

__all__ = ["linearization_error", "relative_error"]

_CHUNK = 32


def relative_error(missed: Float[Tensor, "n C"], linear: Float[Tensor, "n C"]) -> float:
    """Return ‖f(δ) - f(0) - J δ‖ / ‖J δ‖ of logits less their mean over the classes.

    Cross-entropy does not see that mean.

    Args:
        missed: f(δ) - f(0) - J δ.
        linear: J δ.

    >>> linear = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    >>> relative_error(0.5 * linear + 7, linear)
    0.5
    """
    missed, linear = (x - x.mean(1, keepdim=True) for x in (missed, linear))
    return float(missed.norm() / linear.norm().clamp(min=1e-12))


def linearization_error(
    problem: ClassificationProblem, delta: Float[Tensor, " m"], indices: Sequence[int]
) -> float:
    """Return `relative_error` at δ over some training examples, with J at δ = 0 by forward mode.

    Args:
        problem: the network.
        delta: δ.
        indices: of training examples.
    """
    tangents, zero = [], problem.delta.zero()
    for start in range(0, len(indices), _CHUNK):
        batch, _ = problem.batch(problem.train, indices[start : start + _CHUNK])
        tangents.append(problem.jvp(zero, delta, batch))
    before, moved = (torch.cat(parts) for parts in zip(*tangents, strict=True))
    after = problem.predict(delta, problem.train.subset(indices))
    problem.restore()
    return relative_error(after - before - moved, moved)
