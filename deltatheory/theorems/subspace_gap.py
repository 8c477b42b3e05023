"""What a subspace costs: the gap above and below, a-posteriori bounds, the threshold (T02-T04, T08).

Notation: f: R^D -> R, S = x0 + range A, P the orthogonal projector on range A, Q = I - P, f_S* = min_S f,
x* a minimiser of f, f* = f(x*).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    diagonal,
    eye,
    projector,
    random_fractions,
    random_full_rank,
    rank,
    solve,
    squared_norm,
)
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.loss_functions import Quadratic, Separable
from deltatheory.theorems.splines import huber, parabola
from deltatheory.theorems.subspace_instances import (
    ENTRIES,
    axes,
    bowl,
    flat_bowl,
    kink,
    minimiser,
    off_centre,
    smooth,
    smooth_sample,
    strongly_convex,
    strongly_convex_sample,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T02, T03: the gap ----


def _off(x: Instance) -> np.ndarray:
    """Q (x0 - x*)."""
    away = x["x0"] - x["star"]
    return away - projector(x["A"]) @ away


def _gap(x: Instance):
    return x["f"].minimum_on(x["x0"], x["A"]) - x["f"].value(x["star"])


def _t02(x: Instance):
    return _gap(x), x["L"] / 2 * squared_norm(_off(x))


T02 = register(
    Theorem(
        id="T02",
        name="the gap of a subspace, from above",
        latex=r"f_S^*-f^*\le\tfrac L2\|Q(x_0-x^*)\|^2",
        words="the best loss in a subspace exceeds the best of all by at most L/2 times the squared distance "
        "that the subspace misses the minimiser by; no convexity",
        kind="tight",
        entries=meanings(ENTRIES, "f L x0 star A"),
        sides=_t02,
        sampler=smooth_sample,
        hypotheses=(smooth(kink), minimiser(off_centre)),
        mutant=Mutant.scaled(_t02, JUST_BELOW_ONE, bowl),
        extremal=bowl,
        proof="Descent lemma from x*, where ∇f = 0, to its projection on S.",
        source="own form; classical",
        certificates=("gap_above",),
        status=ProofStatus.certified("for all dimensions"),
    )
)


def _t03(x: Instance):
    return _gap(x), x["mu"] / 2 * squared_norm(_off(x))


T03 = register(
    Theorem(
        id="T03",
        name="the gap of a subspace, from below",
        latex=r"f_S^*-f^*\ge\tfrac\mu2\|Q(x_0-x^*)\|^2",
        words="under strong convexity missing the minimiser costs at least mu/2 times the squared distance",
        kind="lower",
        entries=meanings(ENTRIES, "f mu x0 star A"),
        sides=_t03,
        sampler=strongly_convex_sample,
        hypotheses=(
            strongly_convex(
                with_entries(
                    bowl, f=lambda x: Quadratic(diagonal([x["L"], *[0] * (len(x["x0"]) - 1)]), x["star"])
                )
            ),  # flat in the directions that S misses
            minimiser(with_entries(bowl, mu=lambda x: x["L"], star=lambda x: -x["x0"])),
        ),
        mutant=Mutant.scaled(_t03, 1 / JUST_BELOW_ONE, flat_bowl),
        extremal=flat_bowl,
        proof="Strong convexity at x*, and every point of S is at least ‖Q(x0-x*)‖ away.",
        source="own form; classical",
        certificates=("gap_below",),
        status=ProofStatus.certified("for all dimensions"),
    )
)


# ---- T04: what a trained delta says of the gap ----


def _stationary(sampler: Sampler) -> Sampler:
    """Move the start of quadratics to the minimum over S, and of sums of wells along the axes to 0."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        f, A = x["f"], x["A"]
        if isinstance(f, Quadratic):
            at = x["x0"] + A @ solve(A.T @ f.H @ A, -A.T @ f.gradient(x["x0"]))
        else:
            at = x["x0"] * as_fractions([int(not row.any()) for row in A])
        return x | {"x": at}

    return sample


def _across(x: Instance):
    g = x["f"].gradient(x["x"])
    return g - projector(x["A"]) @ g


def _t04a(x: Instance):
    return x["f"].value(x["x"]) - x["f"].minimum, squared_norm(_across(x)) / (2 * x["mu"])


def _far_on_huber(seed: int) -> Instance:
    c = F(1, 4)
    f = Separable((parabola(F(1)), huber(F(1), c)))
    far = as_fractions([0, seed % 9 + 3])
    return {"f": f, "mu": F(1), "L": F(1), "x": far, "x0": far, "A": axes(2, 1), "star": as_fractions([0, 0])}


T04a = register(
    Theorem(
        id="T04a",
        name="the gap after training, from above",
        latex=r"P\nabla f(x)=0\ \Rightarrow\ f(x)-f^*\le\|Q\nabla f(x)\|^2/(2\mu)",
        words="once training in the subspace has converged, the rest of the gradient bounds what was lost",
        kind="tight",
        entries=meanings(ENTRIES, "f mu x A"),
        sides=_t04a,
        sampler=_stationary(strongly_convex_sample),
        hypotheses=(
            Hypothesis(
                "PL",
                r"$\frac12\|\nabla f\|^2\ge\mu(f-f^*)$ on $R^D$, $\mu>0$",
                lambda x: x["mu"] > 0 and x["f"].is_pl(x["mu"]),
                _far_on_huber,
            ),
            Hypothesis(
                "stationary in S",
                r"$P\nabla f(x)=0$",
                lambda x: bool(np.all(x["A"].T @ x["f"].gradient(x["x"]) == 0)),
                with_entries(flat_bowl, x=lambda x: x["x0"]),
            ),
        ),
        mutant=Mutant.scaled(_t04a, JUST_BELOW_ONE, _stationary(flat_bowl)),
        extremal=_stationary(flat_bowl),
        proof="The PL inequality at x, where ∇f = Q∇f.",
        source="own form; after Polyak 1963",
        certificates=("sandwich_above",),
        status=ProofStatus.certified("for all dimensions"),
    )
)


def _t04b(x: Instance):
    return x["f"].value(x["x"]) - x["lowest"], squared_norm(_across(x)) / (2 * x["L"])


def _with_minimum(sampler: Sampler) -> Sampler:
    return with_entries(_stationary(sampler), lowest=lambda x: x["f"].minimum)


T04b = register(
    Theorem(
        id="T04b",
        name="the gap after training, from below",
        latex=r"f(x)-\inf f\ge\|Q\nabla f(x)\|^2/(2L)",
        words="the gradient across the subspace shows how much at least was lost, converged or not",
        kind="lower",
        entries=meanings(ENTRIES, "f L x lowest A"),
        sides=_t04b,
        sampler=_with_minimum(smooth_sample),
        hypotheses=(
            smooth(with_entries(_with_minimum(bowl), L=lambda x: x["L"] / 2)),
            Hypothesis(
                "infimum",
                r"$f^*=\inf f>-\infty$",
                lambda x: x["lowest"] <= x["f"].minimum,
                with_entries(_with_minimum(bowl), lowest=lambda x: x["f"].value(x["x"]) / 2),
            ),  # the best value met so far taken for the infimum
        ),
        mutant=Mutant.scaled(_t04b, 1 / JUST_BELOW_ONE, _with_minimum(bowl)),
        extremal=_with_minimum(bowl),
        proof="One descent step from x reaches f(x) - ‖∇f‖²/(2L) >= inf f.",
        source="own form; classical",
        certificates=("sandwich_below",),
        status=ProofStatus.certified("for all dimensions"),
    )
)


# ---- T08: the exact toy of intrinsic dimension ----


def _low_rank_quadratic(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    D = int(rng.integers(3, 6))
    k = int(rng.integers(1, D))
    d = int(rng.integers(k, D))
    B = random_full_rank(rng, D, k)
    x = {"f": Quadratic(B @ B.T, random_fractions(rng, D)), "x0": random_fractions(rng, D), "k": k}
    while True:
        A = random_full_rank(rng, D, d)
        if rank(B.T @ A) == k:
            return x | {"A": A}


def _t08(x: Instance):
    return x["f"].minimum_on(x["x0"], x["A"]), x["f"].minimum


def _too_small(seed: int) -> Instance:
    f = Quadratic(diagonal([1, 2, 0, 0]), as_fractions([0] * 4))
    return {"f": f, "x0": as_fractions([1, 1, seed, 1]), "A": axes(4, 1), "k": 2}


T08 = register(
    Theorem(
        id="T08",
        name="threshold on quadratics",
        latex=r"\mathrm{rank}(HA)=\mathrm{rank}\,H\ \Rightarrow\ f_S^*=f^*",
        words="a subspace in general position reaches the minimum of a convex quadratic as soon as its "
        "dimension is the rank of the Hessian; a Haar one does if, and from x0 not optimal only if, d >= k",
        kind="identity",
        entries=meanings(ENTRIES, "f x0 A")
        | {
            "k": "rank of the Hessian",
        },
        sides=_t08,
        sampler=_low_rank_quadratic,
        hypotheses=(
            Hypothesis(
                "enough dimensions",
                r"$d\ge k=\mathrm{rank}\,H$",
                lambda x: x["A"].shape[1] >= x["k"] == rank(x["f"].H),
                _too_small,
            ),
            Hypothesis(
                "general position",
                r"$\mathrm{rank}(HA)=\min(d,k)$, $H\succeq0$",
                lambda x: x["f"].is_convex and rank(x["f"].H @ x["A"]) == min(x["A"].shape[1], x["k"]),
                with_entries(_too_small, A=eye(4)[:, 2:]),  # P H = 0
            ),
        ),
        mutant=Mutant(
            "one dimension fewer suffices",
            lambda x: _t08(x | {"A": x["A"][:, : x["k"] - 1]}),
            with_entries(_too_small, A=axes(4, 2)),
        ),
        proof="H A has the range of H, so H(x0 - c + A z) = 0 has a solution z.",
        source="own form",
        certificates=("quadratic_threshold",),
        status=ProofStatus.searched(),
    )
)
