"""Which of several kernels to add up: greedy maximization of a log determinant, which knows no labels."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float

__all__ = ["Selection", "greedy_log_det", "log_det_gain"]

_EPSILON = 1e-2  # ε as a share of the mean diagonal of Σ W_i: what is moved less than a tenth counts as fixed


def log_det_gain(
    gramians: Mapping[str, Float[Tensor, "o o"]], chosen: Sequence[str], epsilon: float
) -> float:
    """Return f(S) - f(∅) = log det(I + Σ_{i∈S} W_i/ε).

    Args:
        gramians: name ↦ W_i, symmetric and positive semidefinite.
        chosen: S.
        epsilon: ε.

    >>> log_det_gain({"a": torch.eye(3), "b": torch.eye(3)}, ["a", "b"], 2.0) / math.log(2)  # det 2I = 2³
    3.0
    """
    if not chosen:
        return 0.0
    total = torch.stack([gramians[name] for name in chosen]).sum(0).double() / epsilon
    return float(torch.logdet(torch.eye(len(total), dtype=total.dtype, device=total.device) + total))


@dataclass(frozen=True)
class Selection:
    """Places in the order in which greedy maximization takes them.

    Attributes:
        chosen: names.
        gains: what each added to f when it was taken; they do not grow.
        value: f(S) - f(∅), their sum: at least (1 - 1/e) of the most that any set of this size has.
        evaluations: determinants that were computed.
        epsilon: ε.
    """

    chosen: list[str]
    gains: list[float]
    value: float
    evaluations: int
    epsilon: float


def greedy_log_det(
    gramians: Mapping[str, Float[Tensor, "o o"]], count: int, *, epsilon: float | None = None
) -> Selection:
    """Choose `count` places by greedy maximization of f(S) = log det(εI + Σ_{i∈S} W_i).

    f is monotone and submodular, so f(S) - f(∅) is at least 1 - 1/e of the optimum (Nemhauser, Wolsey &
    Fisher 1978; for Gramians Summers, Cortesi & Lygeros 2016, whose claim of the same for -tr W⁻¹ is false).
    An old gain bounds the new one from above, so that most need not be computed again (Minoux 1978).

    Args:
        gramians: name ↦ W_i.
        count: size of S, at most the number of places.
        epsilon: ε; a hundredth of the mean diagonal of Σ W_i by default.

    Raises:
        ValueError: for a count outside 1 .. number of places, an ε that is not positive, or Gramians that are
            all 0.

    >>> W = {"weak": torch.diag(torch.tensor([1.0, 0.0])), "strong": torch.diag(torch.tensor([0.0, 4.0]))}
    >>> greedy_log_det(W, 2).chosen
    ['strong', 'weak']
    """
    check_number("count", count, whole=True)
    if epsilon is not None:
        check_number("epsilon", epsilon, above=0)
    if not 1 <= count <= len(gramians):
        raise ValueError(f"count={count}: must lie in 1..{len(gramians)}, the number of places.")
    if epsilon is None:
        epsilon = _EPSILON * float(torch.stack([w.diagonal().mean() for w in gramians.values()]).sum())
        if epsilon == 0:
            raise ValueError("gramians: are all 0; no place moves an output.")
    names = list(gramians)
    bounds = [(-math.inf, k) for k in range(len(names))]  # the order of the places breaks ties
    fresh = [-1] * len(names)  # for how many chosen places a bound was computed
    chosen: list[str] = []
    gains: list[float] = []
    value, evaluations = 0.0, 0
    while len(chosen) < count:
        bound, k = heapq.heappop(bounds)
        if fresh[k] < len(chosen):
            gain = log_det_gain(gramians, [*chosen, names[k]], epsilon) - value
            evaluations += 1
            fresh[k] = len(chosen)
            heapq.heappush(bounds, (-gain, k))
        else:
            chosen.append(names[k])
            gains.append(-bound)
            value -= bound
    return Selection(chosen, gains, value, evaluations, epsilon)
