"""The theorem of delta tuning: what a low-dimensional parametrization costs, and what training adds (T49).

Notation: ψ: R^m -> R^n, θ⁺ a minimiser of F, δ⁺ one of F∘ψ, θ⁺ = ψ(δ') + ε, and δ^ is where training ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import ceil, isqrt

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import as_fractions, projector, random_fractions, squared_norm
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.subspace_instances import (
    ENTRIES,
    bowl,
    kink,
    minimiser,
    off_centre,
    smooth,
    smooth_sample,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T49a: Lipschitz losses. F = Σ c_i |θ_i - t_i|, on a line ψ(δ) = x0 + a δ ----


def _loss(x: Instance, theta: np.ndarray):
    return (x["c"] * abs(theta - x["centre"])).sum()


def _on_line(x: Instance, delta):
    return x["x0"] + x["a"] * delta


def _least(x: Instance):
    """Return a δ where F∘ψ, which is piecewise linear, is least."""
    kinks = [(t - start) / a for t, start, a in zip(x["centre"], x["x0"], x["a"], strict=True) if a != 0]
    return min([*kinks, F(0)], key=lambda delta: _loss(x, _on_line(x, delta)))


def _t49a(x: Instance):
    reached, best = _loss(x, _on_line(x, x["found"])), _loss(x, x["star"])
    bound = x["L1"] * x["eps"] + x["L2"] * abs(x["found"] - x["best"])
    return np.array([best, reached - best]), np.array([reached, bound])


def _root_above(square: Fraction) -> Fraction:
    """Return a multiple of 1/8 at least as large as the root."""
    return F(isqrt(ceil(64 * square) - 1) + 1, 8) if square > 0 else F(0)


def _line(c, x0, a, near, found) -> Instance:
    """Return the instance with its minimisers and with constants that are no larger than need be."""
    c, x0, a = as_fractions(c), as_fractions(x0), as_fractions(a)
    x = {"c": c, "centre": 0 * x0, "star": 0 * x0, "x0": x0, "a": a, "near": F(near), "found": F(found)}
    missed = squared_norm(x["star"] - _on_line(x, x["near"]))
    x |= {"L1": _root_above(squared_norm(c)), "L2": (c * abs(a)).sum(), "eps": _root_above(missed)}
    return x | {"best": _least(x)}


def _lipschitz_sample(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    D = int(rng.integers(2, 5))
    c, x0, a = abs(random_fractions(rng, D)), random_fractions(rng, D), random_fractions(rng, D)
    near, found = random_fractions(rng, 2)
    return _line(c, x0, a, near, found)


def _missed(seed: int) -> Instance:
    """Return what costs L1 ‖ε‖: the line runs past θ⁺ where F is steepest, and training found the best."""
    return _line([0, 1 + seed], [0, 2], [1, 0], 0, 0)


def _unfinished(seed: int) -> Instance:
    """Return what costs L2 ‖δ^ - δ⁺‖: the line meets θ⁺, and training ended beside it."""
    return _line([1 + seed, 0], [0, 0], [1, 0], 0, 3)


def _lines() -> Iterator[Instance]:
    weights, slopes, values = ((0, 1), (1, 0), (3, 4)), ((1, 0), (2, -1)), (-1, 0, 2)
    for c, a, x, y, near, found in product(weights, slopes, values, values, values, values):
        yield _line(c, (x, y), a, near, found)


def _enumerate_t49a() -> bool:
    return all(bool(np.all(left <= right)) for left, right in map(_t49a, _lines()))


T49a = register(
    Theorem(
        id="T49a",
        name="the loss of delta tuning in two parts",
        latex=r"0\le F(\psi(\hat\delta))-F(\theta^+)\le L_1\|\varepsilon\|+L_2\|\hat\delta-\delta^+\|,"
        r"\quad\theta^+=\psi(\delta')+\varepsilon",
        words="delta tuning loses at most the error of the representation times the slope of the loss, and "
        "what training leaves; from exact minimisers the second part vanishes",
        kind="tight",
        entries={
            "c": "weights of the loss Σ c_i |θ_i - t_i|, (n,)",
            "centre": "t, (n,)",
            "star": "θ⁺, (n,)",
            "x0": "ψ(0), (n,)",
            "a": "slope of ψ, (n,)",
            "near": "δ'",
            "best": "δ⁺",
            "found": "where training ended",
            "eps": "‖ε‖",
            "L1": "Lipschitz constant of F",
            "L2": "Lipschitz constant of F∘ψ",
        },
        sides=_t49a,
        sampler=_lipschitz_sample,
        hypotheses=(
            Hypothesis(
                "minimiser",
                r"$\theta^+$ minimises $F$",
                lambda x: bool(np.all(x["c"] >= 0)) and _loss(x, x["star"]) == 0,
                with_entries(_unfinished, star=lambda x: x["star"] + 9, eps=F(20)),
            ),
            Hypothesis(
                "minimiser of the delta",
                r"$\delta^+$ minimises $F\circ\psi$",
                lambda x: _loss(x, _on_line(x, x["best"])) == _loss(x, _on_line(x, _least(x))),
                with_entries(_unfinished, best=lambda x: x["found"]),
            ),
            Hypothesis(
                "Lipschitz",
                "$F$ is $L_1$-Lipschitz",
                lambda x: x["L1"] >= 0 and x["L1"] ** 2 >= squared_norm(x["c"]),
                with_entries(_missed, L1=lambda x: x["L1"] / 2),
            ),
            Hypothesis(
                "Lipschitz in the delta",
                r"$F\circ\psi$ is $L_2$-Lipschitz",
                lambda x: x["L2"] >= (abs(x["c"]) * abs(x["a"])).sum(),
                with_entries(_unfinished, L2=lambda x: x["L2"] / 2),
            ),
            Hypothesis(
                "representation",
                r"$\|\theta^+-\psi(\delta')\|\le\|\varepsilon\|$",
                lambda x: x["eps"] >= 0 and squared_norm(x["star"] - _on_line(x, x["near"])) <= x["eps"] ** 2,
                with_entries(_missed, eps=lambda x: x["eps"] / 2),
            ),
        ),
        mutant=Mutant.scaled(_t49a, JUST_BELOW_ONE, _missed),
        extremal=_missed,
        proof="F(ψ(δ⁺)) <= F(ψ(δ')) <= F(θ⁺) + L1 ‖ε‖, and F(ψ(δ^)) <= F(ψ(δ⁺)) + L2 ‖δ^ - δ⁺‖.",
        source="after Ding et al. 2023 (recalled); the split and the lower bound are our own form",
        status=ProofStatus.enumerated(f"{sum(1 for _ in _lines())} lines past weighted sums of distances"),
        exact_check=_enumerate_t49a,
    )
)


# ---- T49b: smooth losses, any set of deltas ----


def _t49b(x: Instance):
    values = [x["f"].value(point) for point in x["points"]]
    best, reached = x["f"].value(x["star"]), min(values)
    bound = x["L"] / 2 * squared_norm(x["points"][x["near"]] - x["star"])
    return np.array([best, reached - best]), np.array([reached, bound])


def _with_points(sampler: Sampler) -> Sampler:
    """Add what the delta reaches: the nearest point of the subspace, and others of it."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        away, P = x["star"] - x["x0"], projector(x["A"])
        points = [x["x0"] + s * (P @ away) for s in as_fractions([1, 0, 2])]
        return x | {"points": points, "near": 0}

    return sample


T49b = register(
    Theorem(
        id="T49b",
        name="the loss of delta tuning under smoothness",
        latex=r"0\le\min_\delta F(\psi(\delta))-F(\theta^+)\le\tfrac L2\|\varepsilon\|^2",
        words="of a smooth loss the price is the square of the representation's error, for any "
        "parametrization",
        kind="tight",
        entries=meanings(ENTRIES, "f L star") | {"points": "values of ψ", "near": "which of them is ψ(δ')"},
        sides=_t49b,
        sampler=_with_points(smooth_sample),
        hypotheses=(smooth(_with_points(kink)), minimiser(_with_points(off_centre))),
        mutant=Mutant.scaled(_t49b, JUST_BELOW_ONE, _with_points(bowl)),
        extremal=_with_points(bowl),
        proof="Descent lemma from θ⁺, where ∇F = 0, to ψ(δ') = θ⁺ - ε.",
        source="own form",
        status=ProofStatus.searched(),
    )
)


# ---- T49c: the functional form ----


def _t49c(x: Instance):
    return abs(min(x["full"]) - min(x["delta"])), x["eps"]


def _tables(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    full, delta = random_fractions(rng, int(rng.integers(1, 5))), random_fractions(rng, 4)
    return {"full": full, "delta": delta, "eps": abs(min(full) - min(delta)) + F(int(rng.integers(0, 3)), 4)}


def _apart(seed: int) -> Instance:
    return {"full": as_fractions([seed, 4 + seed]), "delta": as_fractions([seed + 1]), "eps": F(1)}


def _enumerate_t49c() -> bool:
    values = [as_fractions(v) for n in (1, 2) for v in product(range(3), repeat=n)]
    for full, delta in product(values, values):
        for eps in range(3):
            x = {"full": full, "delta": delta, "eps": F(eps)}
            if not T49c.unmet(x) and _t49c(x)[0] > eps:
                return False
    return True


T49c = register(
    Theorem(
        id="T49c",
        name="the functional form needs both directions",
        latex=r"\forall\theta\,\exists\delta:\hat F(\delta)\le F(\theta)+\varepsilon,\ "
        r"\forall\delta\,\exists\theta:F(\theta)\le\hat F(\delta)+\varepsilon\ \Rightarrow\ "
        r"|\min F-\min\hat F|\le\varepsilon",
        words="losses that match each other within ε have minima within ε; if only the delta matches the "
        "full model, it may still be far better, and if only the reverse, far worse",
        kind="tight",
        entries={"full": "values of F", "delta": "values of F with the delta", "eps": "ε"},
        sides=_t49c,
        sampler=_tables,
        hypotheses=(
            Hypothesis(
                "the delta matches the full model",
                r"$\forall\theta\,\exists\delta:\hat F(\delta)\le F(\theta)+\varepsilon$",
                lambda x: all(min(x["delta"]) <= value + x["eps"] for value in x["full"]),
                with_entries(_apart, delta=lambda x: x["delta"] + 5),
            ),
            Hypothesis(
                "the full model matches the delta",
                r"$\forall\delta\,\exists\theta:F(\theta)\le\hat F(\delta)+\varepsilon$",
                lambda x: all(min(x["full"]) <= value + x["eps"] for value in x["delta"]),
                with_entries(_apart, delta=lambda x: x["delta"] - 5),
            ),
        ),
        mutant=Mutant.scaled(_t49c, JUST_BELOW_ONE, _apart),
        extremal=_apart,
        proof="At a minimiser of either the other is at most ε higher.",
        source="own form; the idea after Ding et al. 2023 (recalled)",
        certificates=("two_directions",),
        status=ProofStatus.enumerated("values 0..2 of at most 2 points each"),
        exact_check=_enumerate_t49c,
    )
)
