"""Time-varying LQR with additive control and few output directions, from adjoint products alone.

x_{t+1} = A_t x_t + u_t, J = Σ_{t<T} (q |V_tᵀ x_t|² + r |u_t|²) + q |V_Tᵀ x_T|². With R = r I and B = I the
Riccati recursion S_t = q V_t V_tᵀ + A_tᵀ (S - S (S + r I)⁻¹ S) A_t, S = S_{t+1}, keeps S_t = W_t W_tᵀ of low
rank: W_t = [√q V_t, A_tᵀ W_{t+1} L⁻ᵀ] with L Lᵀ = I + W_{t+1}ᵀ W_{t+1}/r, by the matrix inversion lemma. So k
directions a step take k T(T+1)/2 products A_tᵀ w in place of the d T columns of the Jacobians, and no d × d
matrix.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.control.solvers.base import Solution, Status

__all__ = ["LowRankGains", "low_rank_riccati"]

_CONDITION = 1e12  # of I + WᵀW/r; beyond it the gains have lost most of their digits


@dataclass(frozen=True, eq=False)
class LowRankGains:
    """The LQR gains of an additive control, factored.

    Two forms of one law. Before the step, u_t = -K_t x_t with K_t = (S_{t+1} + r I)⁻¹ S_{t+1} A_t. After it,
    what the step gave is measured: u_t = -(S_{t+1} + r I)⁻¹ S_{t+1} f_t(x_t), which is the same where f_t is
    A_t, and answers also to what disturbed the step and to what A_t leaves out.

    Attributes:
        factors: W_0 .. W_T, (d, rank) each, with S_t = W_t W_tᵀ.
        pulled: A_tᵀ W_{t+1}, t = 0 .. T-1.
        solved: W_{t+1} (r I + W_{t+1}ᵀ W_{t+1})⁻¹, t = 0 .. T-1.
        control_weight: r.
    """

    factors: list[Float[Tensor, "d _"]]
    pulled: list[Float[Tensor, "d _"]]
    solved: list[Float[Tensor, "d _"]]
    control_weight: float

    @property
    def horizon(self) -> int:
        """T."""
        return len(self.pulled)

    def gain(self, t: int) -> Float[Tensor, "d d"]:
        """Return K_t as a matrix, for small d."""
        return self.solved[t] @ self.pulled[t].T

    def before(self, t: int, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return u_t = -K_t x_t from the deviation before the step."""
        return -(x @ self.pulled[t]) @ self.solved[t].T

    def after(self, t: int, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return u_t from the deviation that the step led to without it."""
        return -(x @ self.factors[t + 1]) @ self.solved[t].T

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> LowRankGains:
        """Cast or move the factors."""

        def cast(part: list[Tensor]) -> list[Tensor]:
            return [x.to(device=device, dtype=dtype) for x in part]

        return LowRankGains(cast(self.factors), cast(self.pulled), cast(self.solved), self.control_weight)


def low_rank_riccati(
    adjoints: Sequence[Callable[[Tensor], Tensor]],
    directions: Sequence[Float[Tensor, "d _"]],
    *,
    state_weight: float = 1.0,
    control_weight: float = 1.0,
) -> Solution:
    """Solve the LQR problem above for its gains.

    One number, one step, all weights 1: S_1 = 1, K = S_1/(S_1 + 1) and S_0 = 1 + S_1 - S_1²/(S_1 + 1).

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> found = low_rank_riccati([lambda w: w], [one, one])
    >>> round(float(found.value.gain(0)), 12), round(found.cost, 12)
    (0.5, 1.5)

    Args:
        adjoints: w ↦ A_tᵀ w for t = 0 .. T-1, on vectors of length d: a `LinearMap.adjoint`, or any vjp.
        directions: V_0 .. V_T, the outputs that are held; they may differ in number.
        state_weight: q, at least 0.
        control_weight: r, above 0.

    Returns:
        A solution with the gains (`LowRankGains`) as value and tr S_0 as cost: what an initial deviation of
        covariance I costs in the mean. `details["products"]` counts the products with A_tᵀ. The
        value is `None` where a linearization is not finite, or outputs and weights leave the gains no digits.

    Raises:
        ValueError: for no step, another number of directions than T + 1, or a weight out of range.
    """
    began = time.perf_counter()
    horizon = len(adjoints)
    if horizon < 1:
        raise ValueError("adjoints: there are none; give A_tᵀ for every step, at least one.")
    if len(directions) != horizon + 1:
        raise ValueError(f"directions: there are {len(directions)}; {horizon} steps need {horizon + 1}.")
    if not (math.isfinite(state_weight) and state_weight >= 0):
        raise ValueError(f"state_weight={state_weight}: must be finite and at least 0.")
    if not (math.isfinite(control_weight) and control_weight > 0):
        raise ValueError(f"control_weight={control_weight}: must be finite and above 0.")
    root = math.sqrt(state_weight)
    factors, pulled, solved = [root * directions[-1]], [], []
    products, condition = 0, 1.0
    for t in reversed(range(horizon)):
        following = factors[0]
        gram = following.T.double() @ following.double() / control_weight
        gram += torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        back = torch.zeros_like(following)
        for i, w in enumerate(following.T):
            back[:, i] = adjoints[t](w)
        products += back.shape[1]
        if not (gram.isfinite().all() and back.isfinite().all()):
            remedy = (
                f"A_tᵀ is not finite at step {t}: look for NaN in the weights, or linearize where the "
                "trajectory stays bounded"
            )
            return _solution(None, math.nan, Status.DIVERGED, remedy, products, condition, began)
        condition = max(condition, float(torch.linalg.cond(gram)))
        if condition > _CONDITION:
            remedy = (
                f"I + WᵀW/r has condition number {condition:.0e} at step {t}: raise control_weight, or lower "
                "state_weight"
            )
            return _solution(None, math.nan, Status.ILL_CONDITIONED, remedy, products, condition, began)
        lower = torch.linalg.cholesky(gram)
        solve = torch.cholesky_solve(following.T.double() / control_weight, lower)
        discounted = torch.linalg.solve_triangular(lower, back.T.double(), upper=False)
        solved.insert(0, solve.T.to(following))
        pulled.insert(0, back)
        factors.insert(0, torch.cat([root * directions[t], discounted.T.to(back)], 1))
    gains = LowRankGains(factors, pulled, solved, control_weight)
    cost = float(factors[0].double().pow(2).sum())
    return _solution(gains, cost, Status.CONVERGED, "", products, condition, began)


def _solution(
    gains: LowRankGains | None,
    cost: float,
    status: Status,
    remedy: str,
    products: int,
    condition: float,
    began: float,
) -> Solution:
    details = {"products": products, "condition": condition}
    return Solution(gains, cost, status, remedy, [], 0.0, time.perf_counter() - began, details)
