"""What a low rank can and cannot change: Eckart-Young and LoRA's loss (T15, T16)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    eye,
    random_fractions,
    random_orthogonal,
    rank,
    squared_norm,
    zeros,
)
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T15, T16: one matrix ----

_ENTRIES = {
    "U": "left singular vectors of the needed change E, (n, n)",
    "V": "right ones, (n, n)",
    "s": "singular values, decreasing, (n,)",
    "r": "the rank allowed",
    "M": "update, (n, n)",
    "G": "gradient of the loss at W*, (n, n)",
    "h": "its curvature in every entry, (n, n)",
    "L": "smoothness of the loss",
    "mu": "its strong convexity",
}


def decomposed(seed: int) -> Instance:
    """E = U diag(s) Vᵀ with s decreasing, and r."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    s = sorted(as_fractions(rng.integers(1, 9, n)), reverse=True)
    return {
        "U": random_orthogonal(rng, n),
        "V": random_orthogonal(rng, n),
        "s": as_fractions(s),
        "r": int(rng.integers(1, n)),
    }


def change(x: Instance) -> np.ndarray:
    """Return E = U diag(s) Vᵀ."""
    return x["U"] @ np.diag(x["s"]) @ x["V"].T


def truncated(x: Instance, r: int) -> np.ndarray:
    """Return the first r terms of E."""
    return x["U"][:, :r] @ np.diag(x["s"][:r]) @ x["V"][:, :r].T


def tail(x: Instance) -> Any:
    """Return Σ_{i>r} s_i²."""
    return sum(x["s"][x["r"] :] ** 2)


def singular_values(violator: Sampler) -> Hypothesis:
    """Return the hypothesis that U, s and V are the singular value decomposition of what is needed."""

    def predicate(x: Instance) -> bool:
        unit = eye(len(x["s"]))
        orthogonal = np.all(x["U"].T @ x["U"] == unit) and np.all(x["V"].T @ x["V"] == unit)
        return bool(orthogonal and np.all(x["s"][:-1] >= x["s"][1:]) and x["s"][-1] >= 0)

    statement = r"$E=U\,\mathrm{diag}(s)\,V^\top$ with $U$, $V$ orthogonal and $s\ge0$ decreasing"
    return Hypothesis("singular values", statement, predicate, violator)


def rank_at_most(name: str, violator: Sampler, bound: str = "r") -> Hypothesis:
    """Return the hypothesis that a matrix of the instance has at most this rank."""
    return Hypothesis(
        f"rank of {name}",
        f"$\\mathrm{{rank}}\\,{name}\\le {bound}$",
        lambda x: rank(x[name]) <= x[bound],
        violator,
    )


def _with_update(seed: int) -> Instance:
    """Return a rank-r matrix M near the truncated decomposition."""
    x = decomposed(seed)
    rng = np.random.default_rng(seed + 1)
    n = len(x["s"])
    nudge = eye(n) + random_fractions(rng, n, n, top=1) * F(seed % 3, 20)
    return x | {"M": nudge @ truncated(x, x["r"])}


def _best_update(seed: int) -> Instance:
    x = decomposed(seed)
    return x | {"M": truncated(x, x["r"])}


def _t15(x: Instance):
    return squared_norm(change(x) - x["M"]), tail(x)


T15 = register(
    Theorem(
        id="T15",
        name="best update of rank r",
        latex=r"\|E-M\|_F^2\ge\sum_{i>r}s_i(E)^2\quad\text{for }\mathrm{rank}\,M\le r",
        words="an update of rank r leaves at least the tail of the singular values of a needed change",
        kind="lower",
        entries=meanings(_ENTRIES, "U V s r M"),
        sides=_t15,
        sampler=_with_update,
        hypotheses=(
            rank_at_most("M", with_entries(_best_update, M=change)),
            singular_values(
                with_entries(decomposed, U=lambda x: x["U"] / 10, r=1, M=lambda x: zeros(*x["U"].shape))
            ),
        ),
        mutant=Mutant.scaled(_t15, 1 / JUST_BELOW_ONE, _best_update),
        extremal=_best_update,
        proof="Eckart-Young-Mirsky.",
        source="Eckart and Young 1936",
        certificates=("best_rank_one",),
        status=ProofStatus.searched(),
    )
)


def _loss(x: Instance, away: np.ndarray):
    """f(W* + away) - f(W*) = <G, away> + ½ Σ h_ij away_ij²: G is the gradient at W*."""
    return (x["G"] * away).sum() + (x["h"] * away * away).sum() / 2


def _with_loss(sampler: Sampler, flat: bool = False) -> Sampler:
    """Add a separable quadratic loss with curvatures between mu and L, all of them L (or mu) where flat."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        rng = np.random.default_rng(seed + 2)
        n = len(x["s"])
        mu, L = F(1, 2), F(3)
        h = zeros(n, n) + L if flat else mu + (L - mu) * as_fractions(rng.integers(0, 5, (n, n))) / 4
        return x | {"h": h, "G": zeros(n, n), "mu": mu, "L": L}

    return sample


def _stationary(violator: Sampler) -> Hypothesis:
    return Hypothesis(
        "stationary target", r"$\nabla f(W^*)=0$", lambda x: bool(np.all(x["G"] == 0)), violator
    )


def _t16a(x: Instance):
    return _loss(x, truncated(x, x["r"]) - change(x)), x["L"] / 2 * tail(x)


_flat_loss = _with_loss(decomposed, flat=True)

T16a = register(
    Theorem(
        id="T16a",
        name="loss of the best rank-r update, from above",
        latex=r"\min_{\mathrm{rank}(BA)\le r}f(W_0+BA)-f(W^*)\le\tfrac L2\sum_{i>r}s_i^2(W^*-W_0)",
        words="LoRA of rank r comes as close as the tail of singular values allows; met by the truncated "
        "decomposition",
        kind="tight",
        entries=meanings(_ENTRIES, "U V s r G h L"),
        sides=_t16a,
        sampler=_with_loss(decomposed),
        hypotheses=(
            Hypothesis(
                "L-smooth",
                "$\\nabla f$ is $L$-Lipschitz",
                lambda x: bool(np.all(abs(x["h"]) <= x["L"])),
                with_entries(_flat_loss, L=F(2)),
            ),
            _stationary(with_entries(_flat_loss, G=lambda x: truncated(x, x["r"]) - change(x))),
            singular_values(with_entries(_flat_loss, V=lambda x: 2 * x["V"])),
        ),
        mutant=Mutant.scaled(_t16a, JUST_BELOW_ONE, _flat_loss),
        extremal=_flat_loss,
        proof="T02 at the truncated decomposition, and Eckart-Young.",
        source="own form",
        status=ProofStatus.searched(),
    )
)


def _t16b(x: Instance):
    return _loss(x, x["M"] - change(x)), x["mu"] / 2 * tail(x)


_flat_best = with_entries(_with_loss(_best_update, flat=True), mu=F(3))

T16b = register(
    Theorem(
        id="T16b",
        name="loss of any rank-r update, from below",
        latex=r"f(W_0+BA)-f(W^*)\ge\tfrac\mu2\sum_{i>r}s_i^2(W^*-W_0)",
        words="under strong convexity no update of rank r does better than the tail of singular values",
        kind="lower",
        entries=meanings(_ENTRIES, "U V s r M G h mu"),
        sides=_t16b,
        sampler=_with_loss(_with_update),
        hypotheses=(
            Hypothesis(
                "strongly convex",
                r"$f-\frac\mu2\|W\|_F^2$ is convex, $\mu>0$",
                lambda x: bool(np.all(x["h"] >= x["mu"])) and x["mu"] > 0,
                with_entries(_flat_best, h=lambda x: x["h"] / 3),
            ),
            _stationary(with_entries(_flat_best, G=lambda x: change(x) - x["M"])),
            rank_at_most("M", with_entries(_flat_best, M=change)),
            singular_values(with_entries(_flat_best, U=lambda x: x["U"] / 10, r=1, M=lambda x: 0 * x["M"])),
        ),
        mutant=Mutant.scaled(_t16b, 1 / JUST_BELOW_ONE, _flat_best),
        extremal=_flat_best,
        proof="Strong convexity at W*, and Eckart-Young.",
        source="own form",
        status=ProofStatus.searched(),
    )
)
