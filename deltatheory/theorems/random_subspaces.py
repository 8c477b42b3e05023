"""What a random subspace keeps: expected gap, lengths, gradients (T07, T11, T12).

Laws of projectors are finite here: uniform over coordinate subspaces in a rotated frame has E[P] = (d/D) I
exactly, and the Haar law enters through chi-squared and Beta laws, which for even dimensions are finite sums.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, holds_on
from deltatheory.theorems.exact import diagonal, eye, one_like, projector, random_orthogonal, squared_norm
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_corner, with_entries
from deltatheory.theorems.intervals import exp, log
from deltatheory.theorems.loss_functions import Quadratic
from deltatheory.theorems.subspace_instances import (
    ENTRIES,
    bowl,
    flat_bowl,
    kink,
    minimiser,
    smooth,
    smooth_sample,
    strongly_convex,
    strongly_convex_sample,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T07: the expected gap ----


def _law(sampler: Sampler) -> Sampler:
    """Add the subspaces spanned by d axes, all equally likely; rotated where f is a quadratic."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        rng = np.random.default_rng(seed)
        D = len(x["x0"])
        d = int(rng.integers(1, D))
        U = (
            random_orthogonal(rng, D)
            if isinstance(x["f"], Quadratic) and sampler in (smooth_sample, strongly_convex_sample)
            else eye(D)
        )
        return x | {"bases": [U[:, list(c)] for c in combinations(range(D), d)], "d": d}

    return sample


def _mean_gap(x: Instance):
    gaps = [x["f"].minimum_on(x["x0"], A) - x["f"].value(x["star"]) for A in x["bases"]]
    return sum(gaps) / len(gaps)


def _missed(x: Instance):
    D = len(x["x0"])
    return (D - x["d"]) * squared_norm(x["x0"] - x["star"]) / D


def _unbiased(violator: Sampler) -> Hypothesis:
    def predicate(x: Instance) -> bool:
        D = len(x["x0"])
        mean = sum(projector(A) for A in x["bases"]) / len(x["bases"])
        return bool(np.all(mean == eye(D) * F(x["d"], D)))

    statement = r"$E[P]=\frac dDI$, with $x_0$ and $x^*$ fixed before $P$ is drawn (Haar, for one)"
    return Hypothesis("unbiased", statement, predicate, violator)


def _t07a(x: Instance):
    return _mean_gap(x), x["L"] / 2 * _missed(x)


def _every_axis(x: Instance) -> list[np.ndarray]:
    return [column[:, None] for column in eye(len(x["x0"]))]


def _aligned_bowl(seed: int) -> Instance:
    x = _law(flat_bowl)(seed)
    D = len(x["x0"])
    return x | {"x0": eye(D)[0] * (seed + 1), "d": 1}


T07a = register(
    Theorem(
        id="T07a",
        name="expected gap, from above",
        latex=r"E[f_S^*]-f^*\le\tfrac L2(1-\tfrac dD)\|x_0-x^*\|^2",
        words="a random subspace of d of D dimensions misses at most the fraction 1 - d/D, on average",
        kind="tight",
        entries=meanings(ENTRIES, "f L x0 star")
        | {
            "bases": "bases that are equally likely, each (D, d)",
            "d": "dimension",
        },
        sides=_t07a,
        sampler=_law(smooth_sample),
        hypotheses=(
            smooth(with_entries(kink, bases=[eye(2)[:, :1], eye(2)[:, 1:]], d=1)),
            minimiser(with_entries(_aligned_bowl, bases=_every_axis, star=lambda x: x["x0"] / 2)),
            _unbiased(with_entries(_aligned_bowl, bases=lambda x: [eye(len(x["x0"]))[:, 1:2]])),
        ),
        mutant=Mutant.scaled(_t07a, JUST_BELOW_ONE, _law(bowl)),
        extremal=_law(bowl),
        proof="T02, and E‖Qv‖² = (1 - d/D)‖v‖².",
        source="own form",
        certificates=("expected_gap",),
        status=ProofStatus.searched(),
    )
)


def _t07b(x: Instance):
    return _mean_gap(x), x["mu"] / 2 * _missed(x)


T07b = register(
    Theorem(
        id="T07b",
        name="expected gap, from below",
        latex=r"E[f_S^*]-f^*\ge\tfrac\mu2(1-\tfrac dD)\|x_0-x^*\|^2",
        words="under strong convexity a random subspace pays for the fraction 1 - d/D, on average",
        kind="lower",
        entries=meanings(ENTRIES, "f mu x0 star")
        | {
            "bases": "bases that are equally likely, each (D, d)",
            "d": "dimension",
        },
        sides=_t07b,
        sampler=_law(strongly_convex_sample),
        hypotheses=(
            strongly_convex(
                with_entries(_law(flat_bowl), f=lambda x: Quadratic(diagonal([0] * len(x["x0"])), x["star"]))
            ),
            minimiser(with_entries(_law(flat_bowl), star=lambda x: -x["x0"])),
            _unbiased(with_entries(_aligned_bowl, bases=lambda x: [eye(len(x["x0"]))[:, :1]])),
        ),
        mutant=Mutant.scaled(_t07b, 1 / JUST_BELOW_ONE, _law(flat_bowl)),
        extremal=_law(flat_bowl),
        proof="T03, and E‖Qv‖² = (1 - d/D)‖v‖².",
        source="own form",
        certificates=("expected_gap",),
        status=ProofStatus.searched(),
    )
)


# ---- T11: lengths of fixed vectors ----

GAUSSIAN_ROWS = {
    "d": "rows of A",
    "variance": "of the entries of A",
    "independent_rows": "how many rows are",
    "adapted": "whether what is projected was chosen after A",
}


def gaussian_rows(d: int) -> Instance:
    """Return the law of d independent rows of N(0, 1/d), drawn after what they project was fixed."""
    return {"d": d, "variance": F(1, d), "independent_rows": d, "adapted": False}


def gaussian_hypotheses(sampler: Sampler) -> tuple[Hypothesis, Hypothesis]:
    """Return that the entries have variance 1/d, not 1/D for one, and that the rows are independent."""
    return (
        Hypothesis(
            "scale",
            "the entries have variance $1/d$",
            lambda x: x["variance"] == F(1, x["d"]),
            with_entries(sampler, variance=lambda x: F(1, 10 * x["d"])),
        ),
        Hypothesis(
            "independent rows",
            "the rows of $A$ are independent",
            lambda x: x["independent_rows"] == x["d"],
            with_entries(sampler, independent_rows=2),
        ),
    )


def chi_squared_tail(d: int, x):
    """Return P(χ²_d >= x) for even d: the sum e^{-x/2} Σ_{k<d/2} (x/2)^k / k!.

    >>> round(float(chi_squared_tail(2, Fraction(2))), 12)  # 1/e
    0.367879441171
    """
    if d % 2:
        raise ValueError(f"d={d}: the finite sum is for even d.")
    term = total = x / x
    for k in range(1, d // 2):
        term = term * x / (2 * k)
        total = total + term
    return exp(-x / 2) * total


def _t11(x: Instance):
    d, eps, m = x["d"], x["eps"], x["m"]
    if x["adapted"]:
        missed = one_like(eps)  # a vector from the kernel of A is always lost
    else:
        k = x["independent_rows"]  # ‖Ag‖²/‖g‖² is variance · d / k times χ²_k
        unit = x["variance"] * d / k
        missed = chi_squared_tail(k, (1 + eps) / unit) + 1 - chi_squared_tail(k, (1 - eps) / unit)
    return 1 - (1 - missed) ** m, 2 * m * exp((log(1 + eps) - eps) * d / 2)


def _lengths(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    d = 2 * int(rng.integers(1, 40))
    eps = F(int(rng.integers(1, 10)), 10)
    return gaussian_rows(d) | {"eps": eps, "m": int(rng.integers(1, 6))}


def _many_rows(seed: int) -> Instance:
    return gaussian_rows(100 + 20 * (seed % 4)) | {"eps": F(1, 2), "m": 1}


_all_outside = with_entries(_many_rows, **gaussian_rows(2), eps=F(1, 1000))


def _too_strong_exponent(x: Instance):
    return _t11(x)[0], 2 * x["m"] * exp(-x["d"] * x["eps"] ** 2 / 2)


def _enumerate_t11() -> bool:
    cases = (gaussian_rows(d) | {"eps": F(e, 8), "m": 1} for d in range(2, 41, 2) for e in range(1, 8))
    return holds_on(_t11, cases)


T11 = register(
    Theorem(
        id="T11",
        name="lengths survive a random projection",
        latex=r"P(\exists i:|\|Ag_i\|^2/\|g_i\|^2-1|\ge\epsilon)"
        r"\le2m\,e^{-\frac d2(\epsilon-\ln(1+\epsilon))}",
        words="m fixed vectors keep their lengths under d rows of i.i.d. N(0, 1/d); the left side is exact "
        "for orthogonal vectors",
        kind="upper",
        entries={
            "eps": "ε",
            "m": "number of vectors",
            **GAUSSIAN_ROWS,
        },
        sides=_t11,
        sampler=with_corner(_lengths, _all_outside),
        hypotheses=(
            Hypothesis(
                "fixed vectors",
                "$m\\ge1$ vectors are fixed before $A$ is drawn",
                lambda x: not x["adapted"] and x["m"] >= 1,
                with_entries(_many_rows, adapted=True),
            ),
            *gaussian_hypotheses(_many_rows),
            Hypothesis(
                "deviation",
                r"$0<\epsilon<1$",
                lambda x: 0 < x["eps"] < 1,
                with_entries(_many_rows, eps=F(-1, 2)),
            ),
        ),
        mutant=Mutant("exponent d eps^2 / 2", _too_strong_exponent, _many_rows),
        closest=_all_outside,
        reach=0.4996,  # both tails are charged the heavier one, and as ε falls all is outside
        proof="Chernoff for χ²_d on both sides, the lower tail being the lighter; union over the vectors. "
        "The exponent is the exact rate, above the usual d (ε²/4 - ε³/6).",
        source="after Dasgupta and Gupta 2003",
        certificates=("chi_square_tails",),
        status=ProofStatus.enumerated("m = 1, even d <= 40, eps = 1/8..7/8"),
        exact_check=_enumerate_t11,
    )
)


# ---- T12: how much of a gradient a subspace captures ----


def beta_cdf(a: int, b: int, x):
    """Return P(Beta(a, b) <= x) for whole a, b: a binomial tail.

    >>> beta_cdf(2, 1, Fraction(1, 3))  # x²
    Fraction(1, 9)
    """
    n = a + b - 1
    return sum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1))


def captured_cdf(d: int, D: int, x):
    """Return P(‖Pg‖²/‖g‖² <= x) for a Haar subspace of dimension d of R^D, d and D - d even.

    Raises:
        ValueError: for an odd d or D - d, where the law is not a finite sum.
    """
    if d % 2 or (D - d) % 2:
        raise ValueError(f"d={d}, D={D}: the finite sum is for even d and even D - d.")
    return beta_cdf(d // 2, (D - d) // 2, x)


def _t12(x: Instance):
    d, D, beta = x["d"], x["D"], x["beta"]
    one = one_like(beta)
    if x["adapted"]:
        left = one  # after training in S the gradient has no part in S
    elif x["law"] == "axes":
        left = one * (D - d) / D  # the gradient is an axis: it is captured whole or not at all
    else:
        left = captured_cdf(d, D, beta * d / D)
    return left, exp((1 - beta + log(beta)) * d / 2)


def _capture(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    d = 2 * int(rng.integers(1, 10))
    D = d + 2 * int(rng.integers(1, 30))
    return {"d": d, "D": D, "beta": F(int(rng.integers(1, 20)), 20), "law": "Haar", "adapted": False}


def _small_beta(seed: int) -> Instance:
    return {"d": 10, "D": 100 + 10 * seed, "beta": F(1, 10), "law": "Haar", "adapted": False}


_near_the_mean = with_entries(_small_beta, d=2, D=1000, beta=F(999, 1000))


def _enumerate_t12() -> bool:
    cases = (
        _small_beta(0) | {"d": d, "D": D, "beta": F(beta, 8)}
        for d in range(2, 17, 2)
        for D in range(d + 2, 31, 2)
        for beta in range(1, 8)
    )
    return holds_on(_t12, cases)


T12 = register(
    Theorem(
        id="T12",
        name="captured gradient",
        latex=r"P(\|Pg\|^2/\|g\|^2\le\beta d/D)\le e^{\frac d2(1-\beta+\ln\beta)},\quad0<\beta<1",
        words="a Haar subspace captures close to d/D of a fixed gradient: the law is Beta(d/2, (D-d)/2)",
        kind="upper",
        entries={
            "D": "dimension of the space",
            "d": "of the subspace",
            "beta": "β",
            "law": '"Haar" or "axes"',
            "adapted": "whether g was made by training in the subspace",
        },
        sides=_t12,
        sampler=with_corner(_capture, _near_the_mean),
        hypotheses=(
            Hypothesis(
                "fixed gradient",
                "$g$ does not depend on $P$ (after training in $S$, $P\\nabla f=0$)",
                lambda x: not x["adapted"],
                with_entries(_small_beta, adapted=True),
            ),
            Hypothesis(
                "Haar",
                "$P$ is Haar (a coordinate subspace captures a sparse gradient whole or not at all)",
                lambda x: x["law"] == "Haar",
                with_entries(_small_beta, law="axes"),
            ),
            Hypothesis(
                "below the mean",
                "$0<\\beta<1$",
                lambda x: 0 < x["beta"] < 1,
                with_entries(_small_beta, beta=F(3)),
            ),
        ),
        mutant=Mutant(
            "exponent d instead of d/2",
            lambda x: (_t12(x)[0], exp((1 - x["beta"] + log(x["beta"])) * x["d"])),
            _small_beta,
        ),
        closest=_near_the_mean,
        reach=0.6313,  # at the mean half of the law is below, or 1 - 1/e for d = 2
        proof="Chernoff for the ratio of chi-squared variables.",
        source="Dasgupta and Gupta 2003, lemma 2.2",
        certificates=("gradient_capture",),
        status=ProofStatus.enumerated("even d <= 16, even D <= 30, beta = 1/8..7/8"),
        exact_check=_enumerate_t12,
    )
)
