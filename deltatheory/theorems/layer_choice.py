"""Which layers to control: log det has diminishing returns, so greedy choice is good (T42)."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    det,
    diagonal,
    eye,
    inverse,
    is_psd,
    one_like,
    random_full_rank,
    random_positive,
    trace,
)
from deltatheory.theorems.instances import Instance, Sampler, with_corner, with_entries
from deltatheory.theorems.intervals import log
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T42: choice of layers ----


def _candidates(seed: int) -> Instance:
    """Return four Gramians of rank one, eps, a small and a larger choice, and one to add."""
    rng = np.random.default_rng(seed)
    roots = [random_full_rank(rng, 3, 1) for _ in range(4)]
    x = {"W": [r @ r.T for r in roots], "eps": random_positive(rng, 1)[0], "objective": "logdet"}
    return x | {"small": [0], "large": [0, 1], "add": 2}


def _sum(x: Instance, chosen) -> np.ndarray:
    S = x["eps"] * np.eye(len(x["W"][0]), dtype=int)
    for i in chosen:
        S = S + x["W"][i]
    return S


def _t42a(x: Instance):
    before = [_sum(x, x["large"]), _sum(x, x["small"])]
    after = [M + x["W"][x["add"]] for M in before]
    if x["objective"] == "-trace of inverse":
        gains = [trace(inverse(a)) - trace(inverse(b)) for a, b in zip(before, after, strict=True)]
        return gains[0], gains[1]
    return det(after[0]) * det(before[1]), det(after[1]) * det(before[0])


_INTEGERS = [
    [[4, 4, 2], [4, 4, 2], [2, 2, 5]],
    [[4, 6, -6], [6, 9, -9], [-6, -9, 9]],
    [[9, 6, -9], [6, 4, -6], [-9, -6, 9]],
]


def _chosen(seed: int) -> Instance:
    return _candidates(seed) | {"W": [as_fractions(W) for W in _INTEGERS], "eps": F(1)}


def _same_axis(seed: int) -> Instance:
    W = [diagonal([seed + 1, 0, 0])] * 3
    return _candidates(seed) | {"W": W, "eps": F(1)}


def _gramians(violator: Sampler) -> Hypothesis:
    return Hypothesis(
        "Gramians",
        r"$W_i\succeq0$, $\epsilon>0$",
        lambda x: x["eps"] > 0 and all(is_psd(W) for W in x["W"]),
        violator,
    )


T42a = register(
    Theorem(
        id="T42a",
        name="diminishing returns of layers",
        latex=r"\det(S_B+W)\det(S_A)\le\det(S_A+W)\det(S_B),\ S_C=\epsilon I+\sum_CW_i,\ A\subseteq B",
        words="log det of the chosen Gramian is submodular; minus the trace of its inverse is not",
        kind="tight",
        entries={
            "W": "Gramians, one a layer, each (p, p)",
            "eps": "multiple of I that is added to their sum",
            "small": "layers of A",
            "large": "layers of B",
            "add": "layer of W",
            "objective": '"logdet" or "-trace of inverse"',
        },
        sides=_t42a,
        sampler=_candidates,
        hypotheses=(
            _gramians(with_entries(_same_axis, W=lambda x: [x["W"][0], -eye(3) / 2, x["W"][0]])),
            Hypothesis(
                "log det",
                "the objective is $\\log\\det$",
                lambda x: x["objective"] == "logdet",
                with_entries(_chosen, objective="-trace of inverse"),
            ),
            Hypothesis(
                "nested",
                "$A\\subseteq B$",
                lambda x: set(x["small"]) <= set(x["large"]),
                with_entries(_same_axis, small=[0, 1], large=[0]),
            ),
        ),
        mutant=Mutant.scaled(
            _t42a, JUST_BELOW_ONE, with_entries(_same_axis, W=[diagonal(e) for e in np.eye(3, dtype=int)])
        ),
        extremal=with_entries(_same_axis, W=[diagonal(e) for e in np.eye(3, dtype=int)]),
        proof="det(S + W)/det S = det(I + W^{1/2} S^{-1} W^{1/2}), and S^{-1} falls as S grows.",
        source="classical; the claim for -tr of the inverse corrected by Olshevsky 2016 (recalled)",
        certificates=("determinant_lemma",),
        status=ProofStatus.searched(),
    )
)


def _value(x: Instance, chosen) -> Any:
    return log(det(_sum(x, chosen)))


def _best_next(x: Instance, chosen: list[int]) -> int:
    rest = [i for i in range(len(x["W"])) if i not in chosen]
    return max(rest, key=lambda i: det(_sum(x, [*chosen, i])))


def greedy(x: Instance) -> list[int]:
    """Return the two layers that greedy choice takes."""
    chosen: list[int] = []
    for _ in range(2):
        chosen.append(_best_next(x, chosen))
    return chosen


def _t42b(x: Instance):
    base = _value(x, [])
    sets = [list(c) for c in combinations(range(len(x["W"])), 2)]
    best = max(sets, key=lambda c: det(_sum(x, c)))
    return _value(x, x["chosen"]) - base, one_like(x["eps"]) * 3 / 4 * (_value(x, best) - base)


_with_greedy = with_entries(_candidates, chosen=greedy)


def _complements(seed: int) -> Instance:
    """Return two indefinite matrices that only help together, and a small one that helps alone."""
    W = [eye(2) * F(seed % 5 + 1, 10), diagonal([10, F(-99, 100)]), diagonal([F(-95, 100), 10])]
    return with_entries(lambda s: _candidates(s) | {"W": W, "eps": F(1)}, chosen=greedy)(seed)


def _covering(seed: int) -> Instance:
    """Return a layer that takes half of each of two others, which are best; what is covered counts once."""
    weight = F(10 ** (9 + seed % 8))
    layers = [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    return {"W": [weight * diagonal(layer) for layer in layers], "eps": F(1), "chosen": [0, 1]}


T42b = register(
    Theorem(
        id="T42b",
        name="greedy choice of layers",
        latex=r"f(S_{greedy})-f(\emptyset)\ge\big(1-(1-\tfrac1k)^k\big)(f^*-f(\emptyset)),\quad f=\log\det",
        words="adding the best of k layers one at a time gets 63 % of the best gain in log det, and 3/4 for "
        "k = 2, as here: two of four",
        kind="lower",
        entries={
            "W": "Gramians, one a layer, each (p, p)",
            "eps": "multiple of I that is added to their sum",
            "chosen": "two layers in the order of choice",
        },
        sides=_t42b,
        sampler=with_corner(_with_greedy, _covering),
        hypotheses=(
            _gramians(_complements),
            Hypothesis(
                "greedy",
                "every choice has the largest gain",
                lambda x: all(
                    det(_sum(x, [*x["chosen"][:k], _best_next(x, x["chosen"][:k])]))
                    == det(_sum(x, x["chosen"][: k + 1]))
                    for k in range(2)
                ),
                lambda seed: (
                    _candidates(seed)
                    | {"W": [diagonal([F(1, 9), 0, 0])] * 2 + [diagonal([0, seed + 5, 0])] * 2}
                    | {"chosen": [0, 1]}
                ),
            ),
        ),
        closest=_covering,
        reach=0.989,
        mutant=Mutant(
            "greedy is optimal up to 1e-9 more than that",
            lambda x: (_t42b(x)[0], (1 + F(1, 10**9)) * _t42b(x)[1] * 4 / 3),
            with_entries(_same_axis, W=[diagonal(e) for e in np.eye(3, dtype=int)], chosen=[0, 1]),
        ),
        proof="T42a, monotonicity, Nemhauser-Wolsey-Fisher.",
        source="Nemhauser, Wolsey and Fisher 1978",
        status=ProofStatus.searched(),
    )
)
