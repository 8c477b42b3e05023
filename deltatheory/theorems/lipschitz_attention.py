"""How fast attention turns: to a fixed context, to itself, on a ball (T44-T46)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.exact import Dual, exactly, eye, fractions, is_psd, positive
from deltatheory.theorems.intervals import exp, sqrt
from deltatheory.theorems.making import JUST_BELOW_ONE, edited, expanded, scaled, searched, square
from deltatheory.theorems.theorem import Hypothesis, Instance, Mutant, Theorem, register

F = Fraction


# ---- T44: attention to a fixed context ----


def _context(seed: int) -> Instance:
    """Return weights at the query, keys and values of a fixed context, and two directions."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    x = {"w": positive(rng, n), "K": fractions(rng, n, d), "V": fractions(rng, n, d)}
    x |= {"u": fractions(rng, d) + F(1, 9), "z": fractions(rng, d) + F(1, 9), "own_key": F(0)}
    return x | {"scale": F(1)}


def _two_keys(seed: int) -> Instance:
    """Return two equally likely keys and values, opposite: equality."""
    s = F(seed + 1)
    ends = exactly([[s, 0], [-s, 0]])
    x = {"w": exactly([1, 1]), "K": ends, "V": ends, "u": exactly([1, 0]), "z": exactly([1, 0])}
    return x | {"own_key": F(0), "scale": F(1)}


def _diameter(points: np.ndarray) -> Any:
    """Return the squared diameter."""
    return max(square(a - b) for a in points for b in points)


def _form(x: Instance) -> Any:
    """Return uᵀ J z: the covariance of values and keys, and what moves if the key of token 1 is the query."""
    p = x["w"] / sum(x["w"])
    keys = x["scale"] * x["K"]
    covariance = (p[:, None] * (x["V"] - p @ x["V"])).T @ (keys - p @ keys)
    return x["u"] @ covariance @ x["z"] + x["own_key"] * p[0] * (x["u"] @ x["z"])


def _fixed_keys(violator) -> Hypothesis:
    return Hypothesis(
        "fixed context",
        "keys and values do not depend on the query (in self-attention they do)",
        lambda x: x["own_key"] == 0,
        violator,
    )


def _unscaled(violator) -> Hypothesis:
    return Hypothesis(
        "scores", "the scores are $Kx$, not a multiple", lambda x: abs(x["scale"]) <= 1, violator
    )


def _t44a(x: Instance):
    bound = _diameter(x["K"]) * _diameter(x["V"]) * square(x["u"]) * square(x["z"]) / 16
    return _form(x) ** 2, bound


T44a = register(
    Theorem(
        id="T44a",
        name="attention to a fixed context, by diameters",
        latex=r"\|\partial_x\textstyle\sum_j\mathrm{softmax}(Kx)_jv_j\|\le\tfrac14\mathrm{diam}(K)\,\mathrm{diam}(V)",
        words="how fast attention turns depends on how far keys and values are apart, not on their number; "
        "compared squared",
        kind="tight",
        sides=_t44a,
        sampler=_context,
        hypotheses=(
            _fixed_keys(edited(_two_keys, own_key=F(1))),
            _unscaled(edited(_two_keys, scale=F(2))),
        ),
        mutant=scaled(_t44a, JUST_BELOW_ONE, _two_keys),
        extremal=_two_keys,
        proof="J is a covariance; Cauchy-Schwarz, and Popoviciu for each factor.",
        source="own form; Popoviciu 1935",
        status=searched(),
    )
)


def _with_norms(make):
    """Add bounds on ‖K‖² and ‖V‖², those of Frobenius; exact for matrices of rank one."""

    def maker(seed: int) -> Instance:
        x = make(seed)
        K2, V2 = square(x["K"]), square(x["V"])
        return x | {"K2": K2, "V2": V2}

    return maker


def _t44b(x: Instance):
    return _form(x) ** 2, x["K2"] * x["V2"] * square(x["u"]) * square(x["z"]) / 4


def _spectral(name: str, violator) -> Hypothesis:
    return Hypothesis(
        f"norm of {name}",
        rf"$\|{name}\|\le$ the constant",
        lambda x: is_psd(x[f"{name}2"] * eye(x[name].shape[1]) - x[name].T @ x[name]),
        violator,
    )


_two_normed = _with_norms(_two_keys)

T44b = register(
    Theorem(
        id="T44b",
        name="attention to a fixed context, by norms",
        latex=r"\|\partial_x\textstyle\sum_j\mathrm{softmax}(Kx)_jv_j\|\le\tfrac12\|K\|\,\|V\|",
        words="the norms of the key and value matrices bound how fast attention turns; compared squared",
        kind="tight",
        sides=_t44b,
        sampler=_with_norms(_context),
        hypotheses=(
            _fixed_keys(edited(_two_normed, own_key=F(1))),
            _unscaled(edited(_two_normed, scale=F(2))),
            _spectral("K", edited(_two_normed, K2=lambda x: x["K2"] / 2)),
            _spectral("V", edited(_two_normed, V2=lambda x: x["V2"] / 2)),
        ),
        mutant=scaled(_t44b, JUST_BELOW_ONE, _two_normed),
        extremal=_two_normed,
        proof="J = Vᵀ (diag p - ppᵀ) K, and T43a.",
        source="own form",
        status=searched(),
    )
)


# ---- T45: self-attention is not globally Lipschitz ----


def _three_tokens(seed: int) -> Instance:
    s = F(seed + 1, 2)
    return {"s": s, "tokens": exactly([0, s, -s]), "score": "dot product"}


def _t45(x: Instance):
    """Return df_1/dx_1 at tokens (0, s, -s) by forward mode: scores are 0 there, where exp is 1 + score."""
    tokens = x["tokens"]
    one = 1 + 0 * tokens[0]
    x1 = Dual(tokens[0], one)
    moving = [x1, *map(Dual.of, tokens[1:])]
    by_distance = x["score"] == "distance"
    scores = [-((x1 - t) * (x1 - t)) if by_distance else x1 * t for t in moving]
    weights = [Dual(exp(s.value), exp(s.value) * s.slope) if s.value else 1 + s for s in scores]
    return _weighted(weights, moving).slope, one / 3 + 2 * x["s"] ** 2 / 3


def _weighted(weights: list, values: list) -> Any:
    total = sum(w * v for w, v in zip(weights, values, strict=True))
    return total / sum(weights)


T45 = register(
    Theorem(
        id="T45",
        name="self-attention is not globally Lipschitz",
        latex=r"\partial f_1/\partial x_1=\tfrac13+\tfrac23s^2\quad\text{at tokens }(0,s,-s)",
        words="with dot-product scores the derivative grows like the square of the tokens",
        kind="identity",
        sides=_t45,
        sampler=_three_tokens,
        hypotheses=(
            Hypothesis(
                "dot product",
                "the scores are products (with distances instead, L2 attention, constants exist)",
                lambda x: x["score"] == "dot product",
                edited(_three_tokens, score="distance"),
            ),
            Hypothesis(
                "tokens 0, s, -s",
                "the tokens are $(0,s,-s)$",
                lambda x: [*x["tokens"]] == [0, x["s"], -x["s"]],
                edited(_three_tokens, tokens=lambda x: exactly([0, x["s"], x["s"]])),
            ),
        ),
        mutant=Mutant(
            "minus the spread of the tokens",
            lambda x: (_t45(x)[0], (2 + 0 * x["s"]) / 3 - _t45(x)[1]),
            _three_tokens,
        ),
        proof="At x_1 = 0 all weights are 1/3; the quotient rule.",
        source="after Kim et al. 2021",
        status=expanded("for every s"),
        exact_check=lambda: all(a == b for a, b in (_t45(_three_tokens(k)) for k in range(100))),
    )
)


# ---- T46: self-attention on a ball ----


def _self_attention(seed: int) -> Instance:
    """Return tokens in B_R, M = Wq Wkᵀ/√d, V, a direction, and bounds a >= ‖M‖, v >= ‖V‖."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    X, M, V = (fractions(rng, *s, top=2) for s in ((n, 2), (2, 2), (2, 2)))
    X, R = X / 2, max(sum(abs(row)) for row in X) / 2
    a, v = sum(abs(M).ravel()), sum(abs(V).ravel()) + F(1, 9)
    return {"X": X, "R": R, "M": M, "V": V, "a": a, "v": v, "dX": fractions(rng, n, 2) + F(1, 9)}


def _t46(x: Instance):
    """Return the squared length of the tangent and of its bound."""
    X, dX, M, n = x["X"], x["dX"], x["M"], len(x["X"])
    values, dvalues = X @ x["V"].T, dX @ x["V"].T
    total: Any = 0
    for i in range(n):
        scores, dscores = X @ (M.T @ X[i]), X @ (M.T @ dX[i]) + dX @ (M.T @ X[i])
        weights = np.array([exp(s) for s in scores])
        p = weights / sum(weights)
        dp = p * (dscores - p @ dscores)
        total = total + square(dp @ values + p @ dvalues)
    r = x["a"] * x["R"] ** 2
    root = sqrt(n + 0 * x["R"])
    return total, (x["v"] * (root * (1 + r) + r)) ** 2 * square(dX)


def _one_sided(seed: int) -> Instance:
    """Return two tokens at ±1 with no scores: all tokens move together, and ‖V‖ √n is not needed."""
    x = {"X": exactly([[1, 0], [-1, 0]]), "R": F(1), "M": eye(2) * 0, "V": eye(2), "a": F(0), "v": F(1)}
    return x | {"dX": exactly([[1, 0], [1, 0]])}


def _steep(seed: int) -> Instance:
    """Return the three tokens of T45, far out."""
    s = F(seed + 5)
    x = {"X": exactly([[0, 0], [s, 0], [-s, 0]]), "R": s, "M": eye(2), "V": eye(2), "a": F(1), "v": F(1)}
    return x | {"dX": exactly([[1, 0], [0, 0], [0, 0]])}


T46 = register(
    Theorem(
        id="T46",
        name="self-attention on a ball",
        latex=r"\mathrm{Lip}(f|_{B_R^n})\le\|V\|\big(\sqrt n(1+aR^2)+aR^2\big),\ a=\|W_qW_k^\top\|/\sqrt d",
        words="with n tokens of norm at most R dot-product self-attention is Lipschitz; squared, on tangents",
        kind="upper",
        sides=_t46,
        sampler=_self_attention,
        hypotheses=(
            Hypothesis(
                "ball",
                r"$\|x_i\|\le R$",
                lambda x: all(square(row) <= x["R"] ** 2 for row in x["X"]),
                edited(_steep, R=F(1)),
            ),
            Hypothesis(
                "score matrix",
                r"$\|W_qW_k^\top\|/\sqrt d\le a$",
                lambda x: is_psd(x["a"] ** 2 * eye(2) - x["M"].T @ x["M"]),
                edited(_steep, a=F(1, 100), R=lambda x: x["R"]),
            ),
            Hypothesis(
                "norm of V",
                r"$\|V\|\le v$",
                lambda x: is_psd(x["v"] ** 2 * eye(2) - x["V"].T @ x["V"]),
                edited(_one_sided, v=F(1, 2)),
            ),
        ),
        mutant=Mutant(
            "no score terms: ‖V‖ √n",
            lambda x: (_t46(x)[0], x["v"] ** 2 * len(x["X"]) * square(x["dX"])),
            _steep,
        ),
        proof="Values move: ‖p‖ <= √n on the stack; queries move: a covariance, a R²; keys move: √n a R².",
        source="own; after Castin et al. 2024, whose form (recalled) is larger",
        status=searched(),
    )
)
