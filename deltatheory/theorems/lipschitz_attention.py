"""How fast attention turns: to a fixed context, to itself, on a ball (T44-T46)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    Dual,
    as_fractions,
    eye,
    is_psd,
    one_like,
    random_fractions,
    random_positive,
    squared_norm,
    zeros,
)
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.intervals import exp, sqrt
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T44: attention to a fixed context ----

_CONTEXT = {
    "w": "weights exp(score) at the query, (n,)",
    "K": "keys, (n, d)",
    "V": "values, (n, e)",
    "u": "direction of the output, (e,)",
    "z": "direction of the query, (d,)",
    "own_key": "how far the first key moves with the query",
    "scale": "factor of the scores",
    "K2": "bound on ‖K‖²",
    "V2": "bound on ‖V‖²",
}


def _context(seed: int) -> Instance:
    """Return weights at the query, keys and values of a fixed context, and two directions."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    x = {"w": random_positive(rng, n), "K": random_fractions(rng, n, d), "V": random_fractions(rng, n, d)}
    x |= {"u": random_fractions(rng, d) + F(1, 9), "z": random_fractions(rng, d) + F(1, 9), "own_key": F(0)}
    return x | {"scale": F(1)}


def _two_keys(seed: int) -> Instance:
    """Return two equally likely keys and values, opposite: equality."""
    s = F(seed + 1)
    ends = as_fractions([[s, 0], [-s, 0]])
    x = {
        "w": as_fractions([1, 1]),
        "K": ends,
        "V": ends,
        "u": as_fractions([1, 0]),
        "z": as_fractions([1, 0]),
    }
    return x | {"own_key": F(0), "scale": F(1)}


def _diameter(points: np.ndarray) -> Any:
    """Return the squared diameter."""
    return max(squared_norm(a - b) for a in points for b in points)


def _form(x: Instance) -> Any:
    """Return uᵀ J z: the covariance of values and keys, and what moves if the key of token 1 is the query."""
    p = x["w"] / sum(x["w"])
    keys = x["scale"] * x["K"]
    covariance = (p[:, None] * (x["V"] - p @ x["V"])).T @ (keys - p @ keys)
    return x["u"] @ covariance @ x["z"] + x["own_key"] * p[0] * (x["u"] @ x["z"])


def _fixed_keys(violator: Sampler) -> Hypothesis:
    return Hypothesis(
        "fixed context",
        "keys and values do not depend on the query (in self-attention they do); the weights are positive",
        lambda x: x["own_key"] == 0 and min(x["w"]) > 0,
        violator,
    )


def _unscaled(violator: Sampler) -> Hypothesis:
    return Hypothesis(
        "scores", "the scores are $Kx$, not a multiple", lambda x: abs(x["scale"]) <= 1, violator
    )


def _t44a(x: Instance):
    bound = _diameter(x["K"]) * _diameter(x["V"]) * squared_norm(x["u"]) * squared_norm(x["z"]) / 16
    return _form(x) ** 2, bound


T44a = register(
    Theorem(
        id="T44a",
        name="attention to a fixed context, by diameters",
        latex=r"\|\partial_x\textstyle\sum_j\mathrm{softmax}(Kx)_jv_j\|\le\tfrac14\mathrm{diam}(K)\,\mathrm{diam}(V)",
        words="how fast attention turns depends on how far keys and values are apart, not on their number; "
        "compared squared",
        kind="tight",
        entries=meanings(_CONTEXT, "w K V u z own_key scale"),
        sides=_t44a,
        sampler=_context,
        hypotheses=(
            _fixed_keys(with_entries(_two_keys, own_key=F(1))),
            _unscaled(with_entries(_two_keys, scale=F(2))),
        ),
        mutant=Mutant.scaled(_t44a, JUST_BELOW_ONE, _two_keys),
        extremal=_two_keys,
        proof="J is a covariance; Cauchy-Schwarz, and Popoviciu for each factor.",
        source="own form; Popoviciu 1935",
        certificates=("two_token_attention",),
        status=ProofStatus.searched(),
    )
)


def _with_norms(sampler: Sampler) -> Sampler:
    """Add bounds on ‖K‖² and ‖V‖², those of Frobenius; exact for matrices of rank one."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        K2, V2 = squared_norm(x["K"]), squared_norm(x["V"])
        return x | {"K2": K2, "V2": V2}

    return sample


def _t44b(x: Instance):
    return _form(x) ** 2, x["K2"] * x["V2"] * squared_norm(x["u"]) * squared_norm(x["z"]) / 4


def _spectral(name: str, violator: Sampler) -> Hypothesis:
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
        entries=meanings(_CONTEXT, "w K V u z own_key scale K2 V2"),
        sides=_t44b,
        sampler=_with_norms(_context),
        hypotheses=(
            _fixed_keys(with_entries(_two_normed, own_key=F(1))),
            _unscaled(with_entries(_two_normed, scale=F(2))),
            _spectral("K", with_entries(_two_normed, K2=lambda x: x["K2"] / 2)),
            _spectral("V", with_entries(_two_normed, V2=lambda x: x["V2"] / 2)),
        ),
        mutant=Mutant.scaled(_t44b, JUST_BELOW_ONE, _two_normed),
        extremal=_two_normed,
        proof="J = Vᵀ (diag p - ppᵀ) K, and T43a.",
        source="own form",
        status=ProofStatus.searched(),
    )
)


# ---- T45: self-attention is not globally Lipschitz ----


def _three_tokens(seed: int) -> Instance:
    s = F(seed + 1, 2)
    return {"s": s, "tokens": as_fractions([0, s, -s]), "score": "dot product"}


def _t45(x: Instance):
    """Return df_1/dx_1 at tokens (0, s, -s) by forward mode: scores are 0 there, where exp is 1 + score."""
    tokens = x["tokens"]
    one = one_like(tokens[0])
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
        entries={
            "s": "spread of the tokens",
            "tokens": "three numbers",
            "score": '"dot product" or "distance"',
        },
        sides=_t45,
        sampler=_three_tokens,
        hypotheses=(
            Hypothesis(
                "dot product",
                "the scores are products (with distances instead, L2 attention, constants exist)",
                lambda x: x["score"] == "dot product",
                with_entries(_three_tokens, score="distance"),
            ),
            Hypothesis(
                "tokens 0, s, -s",
                "the tokens are $(0,s,-s)$",
                lambda x: [*x["tokens"]] == [0, x["s"], -x["s"]],
                with_entries(_three_tokens, tokens=lambda x: as_fractions([0, x["s"], x["s"]])),
            ),
        ),
        mutant=Mutant(
            "minus the spread of the tokens",
            lambda x: (_t45(x)[0], (2 + 0 * x["s"]) / 3 - _t45(x)[1]),
            _three_tokens,
        ),
        proof="At x_1 = 0 all weights are 1/3; the quotient rule.",
        source="own instance; after Kim et al. 2021 (recalled)",
        certificates=("attention_unbounded",),
        status=ProofStatus.expanded("for every s"),
        exact_check=lambda: all(a == b for a, b in (_t45(_three_tokens(k)) for k in range(100))),
    )
)


# ---- T46: self-attention on a ball ----


def _self_attention(seed: int) -> Instance:
    """Return tokens in B_R, M = Wq Wkᵀ/√d, V, a direction, and bounds a >= ‖M‖, v >= ‖V‖."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    X, M, V = (random_fractions(rng, *s, top=2) for s in ((n, 2), (2, 2), (2, 2)))
    X, R = X / 2, max(sum(abs(row)) for row in X) / 2
    a, v = sum(abs(M).ravel()), sum(abs(V).ravel()) + F(1, 9)
    return {"X": X, "R": R, "M": M, "V": V, "a": a, "v": v, "dX": random_fractions(rng, n, 2) + F(1, 9)}


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
        total = total + squared_norm(dp @ values + p @ dvalues)
    r = x["a"] * x["R"] ** 2
    root = sqrt(n + 0 * x["R"])
    return total, (x["v"] * (root * (1 + r) + r)) ** 2 * squared_norm(dX)


def _one_sided(seed: int) -> Instance:
    """Return two tokens at ±1 with no scores: all tokens move together, and ‖V‖ √n is not needed."""
    x = {"X": as_fractions([[1, 0], [-1, 0]]), "R": F(1), "M": eye(2) * 0, "V": eye(2), "a": F(0), "v": F(1)}
    return x | {"dX": as_fractions([[1, 0], [1, 0]])}


def _steep(seed: int) -> Instance:
    """Return the three tokens of T45, far out."""
    s = F(seed + 5)
    x = {"X": as_fractions([[0, 0], [s, 0], [-s, 0]]), "R": s, "M": eye(2), "V": eye(2), "a": F(1), "v": F(1)}
    return x | {"dX": as_fractions([[1, 0], [0, 0], [0, 0]])}


def _alone(seed: int) -> Instance:
    """Return one token: it attends to itself, whatever the scores, which are 0 here."""
    X, still = as_fractions([[seed + 1, 0]]), {"M": zeros(2, 2), "V": eye(2), "a": F(0), "v": F(1)}
    return {"X": X, "R": F(seed + 1), **still, "dX": as_fractions([[1, 2]])}


T46 = register(
    Theorem(
        id="T46",
        name="self-attention on a ball",
        latex=r"\mathrm{Lip}(f|_{B_R^n})\le\|V\|\big(\sqrt n(1+aR^2)+aR^2\big),\ a=\|W_qW_k^\top\|/\sqrt d",
        words="with n tokens of norm at most R dot-product self-attention is Lipschitz, attained by one "
        "token; squared, on tangents",
        kind="upper",
        entries={
            "X": "tokens, (n, d)",
            "R": "bound on their norms",
            "M": "Wq Wkᵀ/√d, (d, d)",
            "V": "value weight, (d, d)",
            "a": "bound on ‖M‖",
            "v": "bound on ‖V‖",
            "dX": "direction, (n, d)",
        },
        sides=_t46,
        sampler=_self_attention,
        hypotheses=(
            Hypothesis(
                "ball",
                r"$\|x_i\|\le R$",
                lambda x: all(squared_norm(row) <= x["R"] ** 2 for row in x["X"]),
                with_entries(_steep, R=F(1)),
            ),
            Hypothesis(
                "score matrix",
                r"$\|W_qW_k^\top\|/\sqrt d\le a$",
                lambda x: x["a"] >= 0 and is_psd(x["a"] ** 2 * eye(2) - x["M"].T @ x["M"]),
                with_entries(_steep, a=F(1, 100), R=lambda x: x["R"]),
            ),
            Hypothesis(
                "norm of V",
                r"$\|V\|\le v$",
                lambda x: is_psd(x["v"] ** 2 * eye(2) - x["V"].T @ x["V"]),
                with_entries(_one_sided, v=F(1, 2)),
            ),
        ),
        mutant=Mutant(
            "no score terms: ‖V‖ √n",
            lambda x: (_t46(x)[0], x["v"] ** 2 * len(x["X"]) * squared_norm(x["dX"])),
            _steep,
        ),
        extremal=_alone,
        proof="Values move: ‖p‖ <= √n on the stack; queries move: a covariance, a R²; keys move: √n a R².",
        source="own; after Castin et al. 2024, whose form (recalled) is larger",
        status=ProofStatus.searched(),
    )
)
