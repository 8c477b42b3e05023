"""How far disturbances carry a state: drift of a frozen stack, contraction under switching (T40, T41)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    eye,
    inverse,
    is_psd,
    random_fractions,
    random_full_rank,
    random_orthogonal,
    random_positive,
    zeros,
)
from deltatheory.theorems.instances import Instance, with_entries
from deltatheory.theorems.intervals import sqrt
from deltatheory.theorems.splines import Spline
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T40: drift of a frozen stack ----


def _stack(seed: int) -> Instance:
    """Return scalar layers that are splines, disturbances e_t, and two starts that agree."""
    rng = np.random.default_rng(seed)
    T = int(rng.integers(1, 5))
    K = random_positive(rng, T, top=3)
    layers = [Spline((F(-1), F(1)), (F(0), F(0), F(0)), k * (-1) ** (seed % 2), F(0)) for k in K]
    bends = [Spline((F(-1), F(0), F(1)), (F(0), k, -k, F(0)), F(0), F(0)) for k in K]
    start = random_fractions(rng, 1)[0]
    chosen = [layers[t] if rng.integers(2) else bends[t] for t in range(T)]
    return {"f": chosen, "K": K, "e": random_fractions(rng, T), "x0": start, "y0": start}


def _gain(seed: int) -> Instance:
    """Return linear layers with positive gains and disturbances: equality."""
    K = as_fractions([seed + 2, 2, 3])
    layers = [Spline((F(0),), (F(0), F(0)), k, F(0)) for k in K]
    return {"f": layers, "K": K, "e": as_fractions([1, 1, 1]), "x0": F(0), "y0": F(0)}


def _t40(x: Instance):
    a, b, drift = x["x0"], x["y0"], 0 * x["x0"]
    for f, K, e in zip(x["f"], x["K"], x["e"], strict=True):
        a, b, drift = f.value(a), f.value(b) + e, K * drift + abs(e)
    return abs(a - b), drift


T40 = register(
    Theorem(
        id="T40",
        name="drift of a frozen stack",
        latex=r"\|x_T-\tilde x_T\|\le\sum_t\prod_{s>t}K_s\|e_t\|",
        words="changes injected after the layers grow at most with the Lipschitz constants of later layers; "
        "instances have one feature",
        kind="tight",
        entries={
            "f": "layers of one feature, T splines",
            "K": "their Lipschitz constants, (T,)",
            "e": "changes after the layers, (T,)",
            "x0": "start",
            "y0": "start of the changed run",
        },
        sides=_t40,
        sampler=_stack,
        hypotheses=(
            Hypothesis(
                "K_t",
                "$f_t$ is $K_t$-Lipschitz everywhere the two runs go",
                lambda x: all(
                    f.largest_derivative is not None and f.largest_derivative <= k
                    for f, k in zip(x["f"], x["K"], strict=True)
                ),
                with_entries(_gain, K=lambda x: x["K"] - 1),
            ),
            Hypothesis(
                "same start", "$x_0=\\tilde x_0$", lambda x: x["x0"] == x["y0"], with_entries(_gain, y0=F(1))
            ),
        ),
        mutant=Mutant.scaled(_t40, JUST_BELOW_ONE, _gain),
        extremal=_gain,
        proof="Induction over layers.",
        source="classical (Gronwall)",
        certificates=("gronwall",),
        status=ProofStatus.searched(),
    )
)


# ---- T41: contraction ----


def _switched(seed: int) -> Instance:
    """Return matrices that contract by rho in a common norm P = SᵀS, mixtures of them, and disturbances."""
    rng = np.random.default_rng(seed)
    S, rho = random_full_rank(rng, 2, 2), F(int(rng.integers(1, 10)), 10)
    vertices = [inverse(S) @ (rho * random_orthogonal(rng, 2)) @ S for _ in range(2)]
    weights = as_fractions(rng.integers(0, 5, 3)) / 4
    path = [w * vertices[0] + (1 - w) * vertices[1] for w in weights]
    x = {"P": S.T @ S, "rho": rho, "vertices": vertices, "path": path, "weights": weights}
    return x | {"gap": random_fractions(rng, 2), "w": random_fractions(rng, 3, 2)}


def _p_norm(x: Instance, v: np.ndarray) -> Any:
    return sqrt(v @ x["P"] @ v)


def _t41(x: Instance):
    gap, bound = x["gap"], _p_norm(x, x["gap"])
    for A, w in zip(x["path"], x["w"], strict=True):
        gap, bound = A @ gap + w, x["rho"] * bound + _p_norm(x, w)
    return _p_norm(x, gap), bound


def _contracts(x: Instance) -> bool:
    shrinking = (is_psd(x["rho"] ** 2 * x["P"] - A.T @ x["P"] @ A) for A in x["vertices"])
    return x["rho"] >= 0 and is_psd(x["P"]) and all(shrinking)


def _contracting(seed: int) -> Instance:
    vertices = [eye(2) / 2] * 2
    x = {"P": eye(2), "rho": F(1, 2), "vertices": vertices, "path": vertices, "weights": as_fractions([1, 1])}
    return x | {"gap": as_fractions([seed + 1, 0]), "w": as_fractions([[1, 0], [1, 0]])}


def _switching(seed: int) -> Instance:
    """Return two matrices with spectral radius 1/2 whose product grows."""
    up = as_fractions([[F(1, 2), 2], [0, F(1, 2)]])
    x = _contracting(seed) | {"vertices": [up, up.T], "path": [up, up.T], "weights": as_fractions([1, 0])}
    return x | {"rho": F(9, 10), "gap": as_fractions([0, seed + 1]), "w": zeros(2, 2)}


T41 = register(
    Theorem(
        id="T41",
        name="contraction in a common norm",
        latex=r"A_i^\top PA_i\preceq\rho^2P\ \Rightarrow\ "
        r"\|x_T-\bar x_T\|_P\le\rho^T\|x_0-\bar x_0\|_P+\sum_t\rho^{T-1-t}\|w_t\|_P",
        words="one quadratic norm in which every vertex contracts bounds the drift under all switching",
        kind="tight",
        entries={
            "P": "norm ‖x‖² = xᵀPx, (n, n)",
            "rho": "ρ",
            "vertices": "two matrices, (n, n)",
            "path": "A_t of every step",
            "weights": "share of the first vertex in each, (T,)",
            "gap": "x_0 - xbar_0, (n,)",
            "w": "disturbances, (T, n)",
        },
        sides=_t41,
        sampler=_switched,
        hypotheses=(
            Hypothesis(
                "common norm",
                r"$A_i^\top PA_i\preceq\rho^2P$ at every vertex, $P\succeq0$, $\rho\ge0$ "
                "(spectral radius below 1 is not enough)",
                _contracts,
                _switching,
            ),
            Hypothesis(
                "convex hull",
                "every $A_t$ is a mixture of the vertices",
                lambda x: all(
                    0 <= w <= 1 and bool(np.all(w * x["vertices"][0] + (1 - w) * x["vertices"][1] == A))
                    for A, w in zip(x["path"], x["weights"], strict=True)
                ),
                with_entries(_contracting, path=[eye(2) * 2] * 2),
            ),
        ),
        mutant=Mutant.scaled(_t41, JUST_BELOW_ONE, _contracting),
        extremal=_contracting,
        proof="‖A_t v‖_P <= rho ‖v‖_P by convexity of A ↦ AᵀPA; induction.",
        source="classical (Lyapunov)",
        certificates=("switched", "reflections"),
        status=ProofStatus.searched(),
    )
)
