"""What updates of low rank can change in a stack of layers and in attention scores (T20-T23)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import (
    as_fractions,
    det,
    diagonal,
    eye,
    inverse,
    random_fractions,
    random_full_rank,
    random_orthogonal,
    rank,
    squared_norm,
    zeros,
)
from deltatheory.theorems.instances import Instance, Sampler, wide_integers, with_entries
from deltatheory.theorems.low_rank import change, decomposed, rank_at_most, singular_values, truncated
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T20: deep linear networks ----

_STACK = {
    "W": "weights, first layer first, each (n, n)",
    "D": "their updates",
    "ranks": "bounds on the ranks of the updates",
    "X": "inputs, (n, samples)",
    "linear": "False for ReLU between the layers",
}


def _layers(seed: int) -> Instance:
    """Weights and low-rank updates of two or three layers, and inputs."""
    rng = np.random.default_rng(seed)
    n, depth = int(rng.integers(3, 6)), int(rng.integers(2, 4))
    ranks = [int(r) for r in rng.integers(0, 2, depth)]
    weights = [random_fractions(rng, n, n, top=3, bottom=2) for _ in ranks]
    updates = [
        random_fractions(rng, n, r, top=3) @ random_fractions(rng, r, n, top=3) if r else zeros(n, n)
        for r in ranks
    ]
    return {"W": weights, "D": updates, "ranks": ranks, "X": eye(n), "linear": True}


def _forward(x: Instance, updated: bool) -> np.ndarray:
    out = x["X"]
    for i, (W, D) in enumerate(zip(x["W"], x["D"], strict=True)):
        if i and not x["linear"]:
            out = np.maximum(out, 0 * out)
        out = (W + D if updated else W) @ out
    return out


def _ranks_kept(violator: Sampler) -> Hypothesis:
    return Hypothesis(
        "ranks",
        r"$\mathrm{rank}\,D_l\le r_l$",
        lambda x: all(rank(D) <= r for D, r in zip(x["D"], x["ranks"], strict=True)),
        violator,
    )


def _linear_layers(violator: Sampler) -> Hypothesis:
    return Hypothesis("linear", "nothing nonlinear between the layers", lambda x: x["linear"], violator)


def _folded(seed: int) -> Instance:
    """Return an update of rank one that a ReLU turns into the identity, of rank two."""
    signs = as_fractions([[1, -1], [-1, 1]]) * (seed + 1)
    weights = [zeros(2, 2), eye(2)]
    return {"W": weights, "D": [signs, zeros(2, 2)], "ranks": [1, 0], "X": eye(2), "linear": False}


def _t20a(x: Instance):
    return rank(_forward(x, True) - _forward(x, False)), sum(x["ranks"])


def _full_update(seed: int) -> Instance:
    x = _layers(seed)
    n = len(x["X"])
    return x | {"W": [eye(n), eye(n)], "D": [eye(n), zeros(n, n)], "ranks": [n - 1, 0]}


def _both_layers(seed: int) -> Instance:
    D1, D2 = diagonal([seed + 1, 0, 0]), diagonal([0, 1, 0])
    return {"W": [eye(3), eye(3)], "D": [D1, D2], "ranks": [1, 1], "X": eye(3), "linear": True}


T20a = register(
    Theorem(
        id="T20a",
        name="ranks add up over layers",
        latex=r"\mathrm{rank}\big(\prod_l(W_l+D_l)-\prod_lW_l\big)\le\sum_lr_l",
        words="updates of ranks r_l in a stack of linear layers change the whole by rank at most their sum",
        kind="tight",
        entries=_STACK,
        sides=_t20a,
        sampler=_layers,
        hypotheses=(_ranks_kept(_full_update), _linear_layers(_folded)),
        mutant=Mutant(
            "the largest rank instead of the sum", lambda x: (_t20a(x)[0], max(x["ranks"])), _both_layers
        ),
        extremal=_both_layers,
        proof="Telescoping: the difference is a sum of terms, one a layer, each with the factor D_l.",
        source="classical",
        certificates=("telescoping",),
        status=ProofStatus.searched(),
    )
)


def _with_target(seed: int) -> Instance:
    """Return a target Wbar = Π W_l + U diag(s) Vᵀ."""
    rng = np.random.default_rng(seed)
    x = _layers(seed)
    n = len(x["X"])
    s = as_fractions(sorted(rng.integers(1, 9, n), reverse=True))
    x |= {"U": random_orthogonal(rng, n), "V": random_orthogonal(rng, n), "s": s}
    return x | {"target": _forward(x, False) + change(x)}


def _t20b(x: Instance):
    return squared_norm(_forward(x, True) - x["target"]), sum(x["s"][sum(x["ranks"]) :] ** 2)


def _reached(seed: int, spare: int = 0) -> Instance:
    """One layer of two holds the best update of rank r, or of `spare` more than it may."""
    x = decomposed(seed)
    n = len(x["s"])
    D = [zeros(n, n), truncated(x, x["r"] + spare)]
    x |= {"W": [eye(n), eye(n)], "D": D, "ranks": [0, x["r"]], "X": eye(n), "linear": True}
    return x | {"target": eye(n) + change(x)}


def _folded_target(seed: int) -> Instance:
    x = _folded(seed)
    decomposition = {"U": eye(2), "V": eye(2), "s": as_fractions([seed + 1, seed + 1])}
    return x | decomposition | {"target": _forward(x, True)}


T20b = register(
    Theorem(
        id="T20b",
        name="floor of low-rank updates in depth",
        latex=r"\|\prod_l(W_l+D_l)-\bar W\|_F^2\ge\sum_{i>\sum r_l}s_i\big(\bar W-\prod_lW_l\big)^2",
        words="however the ranks are spread over linear layers, the tail beyond their sum stays unlearned",
        kind="lower",
        entries={
            **_STACK,
            "target": "Wbar, (n, n)",
            "U": "left singular vectors of Wbar - Π W_l, (n, n)",
            "s": "its singular values, decreasing, (n,)",
            "V": "right singular vectors, (n, n)",
        },
        sides=_t20b,
        sampler=_with_target,
        hypotheses=(
            _ranks_kept(lambda seed: _reached(seed, 1)),
            _linear_layers(_folded_target),
            singular_values(
                with_entries(
                    _reached,
                    U=lambda x: x["U"] / 10,
                    D=lambda x: [0 * D for D in x["D"]],
                    target=lambda x: eye(len(x["s"])) + change(x) / 10,
                )
            ),
            Hypothesis(
                "target",
                r"$\bar W=\prod_lW_l+U\,\mathrm{diag}(s)\,V^\top$",
                lambda x: bool(np.all(x["target"] == _forward(x, False) + change(x))),
                with_entries(_reached, target=lambda x: _forward(x, True)),
            ),
        ),
        mutant=Mutant.scaled(_t20b, 1 / JUST_BELOW_ONE, _reached),
        extremal=_reached,
        proof="T20a and Eckart-Young.",
        source="own form; after Zeng and Lee 2024 (recalled)",
        status=ProofStatus.searched(),
    )
)


# ---- T21: attainment ----


def _two_layers(seed: int, wide: bool = False) -> Instance:
    """Two layers, ranks one and one, and a needed change e1 f1ᵀ + e2 f2ᵀ."""
    rng = np.random.default_rng(seed)
    draw = wide_integers if wide else random_full_rank
    layers = {"W1": draw(rng, 3, 3), "W2": draw(rng, 3, 3)}
    return layers | {"e": draw(rng, 3, 2), "f": draw(rng, 2, 3), "r1": 1, "r2": 1}


def _or_zero(W: np.ndarray) -> np.ndarray:
    return inverse(W) if abs(det(W)) > 1e-12 else 0 * W


def _first_update(x: Instance) -> np.ndarray:
    r = x["r1"]
    return _or_zero(x["W2"]) @ x["e"][:, :r] @ x["f"][:r]


def _t21(x: Instance):
    first = x["W1"] + _first_update(x)
    part = slice(x["r1"], x["r1"] + x["r2"])
    second = x["e"][:, part] @ x["f"][part] @ _or_zero(first)
    return (x["W2"] + second) @ first, x["W2"] @ x["W1"] + x["e"] @ x["f"]


T21 = register(
    Theorem(
        id="T21",
        name="the floor is reached",
        latex=r"D_1=W_2^{-1}e_1f_1^\top,\ D_2=e_2f_2^\top(W_1+D_1)^{-1}:"
        r"\ (W_2+D_2)(W_1+D_1)=W_2W_1+e_1f_1^\top+e_2f_2^\top",
        words="with invertible frozen layers, ranks that sum to the rank of the needed change represent it",
        kind="identity",
        entries={
            "W1": "lower weight, (n, n)",
            "W2": "upper weight, (n, n)",
            "e": "left factor of the needed change, (n, r1 + r2)",
            "f": "its right factor, (r1 + r2, n)",
            "r1": "rank of the lower update",
            "r2": "rank of the upper one",
        },
        sides=_t21,
        sampler=_two_layers,
        hypotheses=(
            Hypothesis(
                "invertible above",
                "$W_2$ is invertible",
                lambda x: rank(x["W2"]) == len(x["W2"]),
                with_entries(_two_layers, W2=zeros(3, 3)),  # every product has rank one at most
            ),
            Hypothesis(
                "invertible below",
                "$W_1+D_1$ is invertible",
                lambda x: rank(x["W1"] + _first_update(x)) == len(x["W1"]),
                with_entries(_two_layers, W1=zeros(3, 3)),
            ),
            Hypothesis(
                "enough rank",
                r"$r_1+r_2\ge$ the number of terms of $E=\sum e_lf_l^\top$",
                lambda x: x["r1"] + x["r2"] >= x["e"].shape[1],
                with_entries(_two_layers, r2=0),
            ),
        ),
        mutant=Mutant(
            "the second update takes W1 for W1 + D1",
            lambda x: (
                (x["W2"] + x["e"][:, 1:] @ x["f"][1:] @ inverse(x["W1"])) @ (x["W1"] + _first_update(x)),
                _t21(x)[1],
            ),
            _two_layers,
        ),
        proof="Expand the product: W2 D1 = e1 f1ᵀ and D2 (W1 + D1) = e2 f2ᵀ.",
        source="Zeng and Lee 2024, by the construction in their code",
        certificates=("attainment",),
        status=ProofStatus.identity_tested(100),
        exact_check=identity_test(_t21, _two_layers),
    )
)


# ---- T22: ReLU layers on a box ----


def _boxed(seed: int) -> Instance:
    """W2 relu(W1 x + β) - W2 β on the box |x_i| <= c, β at least the largest |W1 x| there."""
    rng = np.random.default_rng(seed)
    W1, W2 = random_full_rank(rng, 3, 3), random_full_rank(rng, 3, 3)
    c = F(int(rng.integers(1, 4)))
    x = c * as_fractions(rng.integers(-8, 9, 3)) / 8
    return {"W1": W1, "W2": W2, "c": c, "x": x, "beta": c * abs(W1).sum(1)}


def _downhill(x: Instance) -> np.ndarray:
    """Return the corner of the box where the first entry of W1 x is lowest."""
    return as_fractions([-1 if w > 0 else 1 for w in x["W1"][0]])


def _t22(x: Instance):
    inner = x["W1"] @ x["x"] + x["beta"]
    return x["W2"] @ np.maximum(inner, 0 * inner) - x["W2"] @ x["beta"], x["W2"] @ x["W1"] @ x["x"]


T22 = register(
    Theorem(
        id="T22",
        name="ReLU layers made linear by biases",
        latex=r"W_2\,\mathrm{relu}(W_1x+\beta)-W_2\beta=W_2W_1x\quad\text{on }|x_i|\le c",
        words="trainable biases, large enough for a compact box, make ReLU layers linear there, so that T20 "
        "and T21 apply to them",
        kind="identity",
        entries={
            "W1": "lower weight, (n, n)",
            "W2": "upper weight, (n, n)",
            "c": "half the side of the box",
            "x": "input, (n,)",
            "beta": "bias, (n,)",
        },
        sides=_t22,
        sampler=_boxed,
        hypotheses=(
            Hypothesis(
                "inside the box",
                "$|x_i|\\le c$",
                lambda x: bool(np.all(abs(x["x"]) <= x["c"])),
                with_entries(_boxed, x=lambda x: 100 * x["c"] * _downhill(x)),
            ),
            Hypothesis(
                "large bias",
                r"$\beta\ge\max_{box}|W_1x|$",
                lambda x: bool(np.all(x["beta"] >= x["c"] * abs(x["W1"]).sum(1))),
                with_entries(_boxed, beta=lambda x: 0 * x["beta"], x=lambda x: x["c"] * _downhill(x)),
            ),
        ),
        mutant=Mutant(
            "the outer bias is not taken back",
            lambda x: (_t22(x)[0] + x["W2"] @ x["beta"], _t22(x)[1]),
            _boxed,
        ),
        proof="Where W1 x + β >= 0 the ReLU is the identity.",
        source="after Zeng and Lee 2024, whose code looks for such biases",
        status=ProofStatus.searched(),
    )
)


# ---- T23: attention scores ----


def _scores(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    r_q, r_k = (int(r) for r in rng.integers(1, 3, 2))
    Wq, Wk = random_fractions(rng, 5, 5), random_fractions(rng, 5, 5)
    Q = random_full_rank(rng, 5, r_q) @ random_full_rank(rng, r_q, 5)
    K = random_full_rank(rng, 5, r_k) @ random_full_rank(rng, r_k, 5)
    return {"Wq": Wq, "Wk": Wk, "Q": Q, "K": K, "r_q": r_q, "r_k": r_k}


def _t23(x: Instance):
    moved = (x["Wq"] + x["Q"]) @ (x["Wk"] + x["K"]).T - x["Wq"] @ x["Wk"].T
    return rank(moved), x["r_q"] + x["r_k"]


def _plain_scores(seed: int) -> Instance:
    Q, K = diagonal([1, 0, 0, 0, 0]), diagonal([0, seed + 1, 0, 0, 0])
    return {"Wq": eye(5), "Wk": eye(5), "Q": Q, "K": K, "r_q": 1, "r_k": 1}


T23 = register(
    Theorem(
        id="T23",
        name="rank of a change of attention scores",
        latex=r"\mathrm{rank}\big((W_q+\Delta_q)(W_k+\Delta_k)^\top-W_qW_k^\top\big)\le r_q+r_k",
        words="adapters of ranks r_q and r_k change the bilinear form of a head's scores by rank r_q + r_k; "
        "a change of rank G needs r_q + r_k >= G, and adapters of V and O do not help",
        kind="tight",
        entries={
            "Wq": "query weight, (h, e)",
            "Wk": "key weight, (h, e)",
            "Q": "update of Wq",
            "K": "update of Wk",
            "r_q": "bound on the rank of Q",
            "r_k": "bound on the rank of K",
        },
        sides=_t23,
        sampler=_scores,
        hypotheses=(
            rank_at_most("Q", with_entries(_plain_scores, Q=eye(5)), "r_q"),
            rank_at_most("K", with_entries(_plain_scores, K=eye(5)), "r_k"),
        ),
        mutant=Mutant(
            "the larger rank instead of the sum",
            lambda x: (_t23(x)[0], max(x["r_q"], x["r_k"])),
            _plain_scores,
        ),
        extremal=_plain_scores,
        proof="T20a with two layers.",
        source="after Zeng and Lee 2024",
        certificates=("attention_scores",),
        status=ProofStatus.searched(),
    )
)
