"""What a random subspace keeps of a whole subspace, and what it misses of a set (T13, T14).

Probabilities are exact where their laws are elementary: the smallest singular value of one or two Gaussian
columns, and a Haar subspace against a cap, whose law is a Beta law.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, holds_on
from deltatheory.theorems.exact import one_like
from deltatheory.theorems.instances import Instance, with_corner, with_entries
from deltatheory.theorems.intervals import exp, sqrt
from deltatheory.theorems.random_subspaces import (
    GAUSSIAN_ROWS,
    captured_cdf,
    chi_squared_tail,
    gaussian_hypotheses,
    gaussian_rows,
)
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T13: a subspace is kept ----


def _powers_times_exp(power: int, rate: Fraction) -> list[Fraction]:
    """Return c with ∫_x^∞ l^power e^{-rate l} dl = e^{-rate x} Σ_k c_k x^k."""
    return [F(math.factorial(power), math.factorial(k)) / rate ** (power - k + 1) for k in range(power + 1)]


def smallest_eigenvalue_tail(d: int, x: Any) -> Any:
    """Return P(λmin >= x) of MᵀM, M of d x 2 standard normal entries, d odd.

    The eigenvalues have a density in proportion to (l1 l2)^{(d-3)/2} (l1 - l2) e^{-(l1+l2)/2}, l1 > l2
    (Muirhead, 1982, theorem 3.2.18); both integrals are polynomials times exponentials for odd d.

    >>> round(float(smallest_eigenvalue_tail(3, Fraction(1))), 12)  # 1/e for d = 3
    0.367879441171
    """
    if d % 2 == 0 or d < 3:
        raise ValueError(f"d={d}: the integrals are elementary for odd d >= 3.")
    a = (d - 3) // 2
    inner = [F(0)] * (a + 2)  # ∫_{l2}^∞ l1^a (l1 - l2) e^{-l1/2} dl1 = e^{-l2/2} Σ_k inner_k l2^k
    for k, c in enumerate(_powers_times_exp(a + 1, F(1, 2))):
        inner[k] += c
    for k, c in enumerate(_powers_times_exp(a, F(1, 2))):
        inner[k + 1] -= c
    outer = [F(0)] * (2 * a + 2)
    for power, weight in enumerate(inner):
        for k, c in enumerate(_powers_times_exp(a + power, F(1))):
            outer[k] += weight * c
    total = 0 * x
    for c in reversed(outer):
        total = total * x + c / outer[0]
    return exp(-x) * total


def _t13(x: Instance, factor: int = 1):
    d, k, t = x["d"], x["k"], x["t"]
    one = one_like(t)
    root = sqrt(one * d) - sqrt(one * k) - t  # √d (1 - √(k/d) - t/√d)
    right = exp(-factor * t * t / 2)
    if x["adapted"]:
        return one, right  # a direction in the kernel of A is lost
    rows = x["independent_rows"]  # each of them d / rows times
    if k not in (1, 2):
        raise ValueError(f"k={k}: the law is known here for k = 1 and 2.")
    if float(root) <= 0:
        return 0 * one, right  # no singular value is below zero
    least = root * root * rows / (d * d * x["variance"])
    kept = chi_squared_tail(rows, least) if k == 1 else smallest_eigenvalue_tail(rows, least)
    return 1 - kept, right


def _embedding(seed: int, d: int | None = None) -> Instance:
    """Return k = 1 or 2 dimensions, d rows, and t with √d - √k - t > 0."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 3)) if d is None else 1
    d = d or 16 + 2 * int(rng.integers(0, 13)) + (k == 2)
    return gaussian_rows(d) | {"k": k, "t": F(int(rng.integers(1, 9)), 4)}


def _many_rows(seed: int) -> Instance:
    return _embedding(seed, 100 + 20 * (seed % 4)) | {"t": F(3)}


_no_margin = with_entries(_many_rows, **gaussian_rows(7), k=2, t=F(0))


def _enumerate_t13() -> bool:
    cases = (
        gaussian_rows(d) | {"k": k, "t": F(t, 2)}
        for k in (1, 2)
        for d in range(15 + k, 41, 2)
        for t in range(1, 5)
    )
    return holds_on(_t13, cases)


T13 = register(
    Theorem(
        id="T13",
        name="a subspace survives a random projection",
        latex=r"P\big(s_{\min}(AU)<1-\sqrt{k/d}-t/\sqrt d\big)\le e^{-t^2/2}",
        words="d rows of i.i.d. N(0, 1/d) shrink no direction of a fixed subspace of dimension k by much; "
        "the left side is exact for k = 1 and 2",
        kind="upper",
        entries={"k": "dimension of U", "t": "number", **GAUSSIAN_ROWS},
        sides=_t13,
        sampler=with_corner(_embedding, _no_margin),
        hypotheses=(
            Hypothesis(
                "fixed subspace",
                "$U$ is fixed before $A$ is drawn",
                lambda x: not x["adapted"],
                with_entries(_many_rows, adapted=True),
            ),
            *gaussian_hypotheses(_many_rows),
            Hypothesis("margin", "$t\\ge0$", lambda x: x["t"] >= 0, with_entries(_many_rows, t=F(-3))),
        ),
        mutant=Mutant(
            "exponent 2 t^2",
            lambda x: _t13(x, 4),
            with_entries(_many_rows, **gaussian_rows(200), t=F(5)),
        ),
        closest=_no_margin,
        reach=0.1091,  # at t = 0 the bound is 1
        proof="E s_min >= √d - √k (Gordon's comparison); s_min is 1-Lipschitz in the entries: concentration.",
        source="Davidson and Szarek 2001, theorem II.13",
        status=ProofStatus.enumerated("k = 1, even d = 16..40; k = 2, odd d = 17..39; t = 1/2..2"),
        exact_check=_enumerate_t13,
    )
)


# ---- T14: a set is missed ----


def _t14(x: Instance, whole: bool = False):
    """Return P(Y meets the cap) and Gordon's bound; Y meets it iff ‖P_Y centre‖ >= cos of its angle."""
    D, d, w = x["D"], x["d"], x["w"]
    one = one_like(x["sin2"])
    codimension = D if whole else D - d
    gap = one * codimension / sqrt(one * (codimension + 1)) - w
    hit = 1 - captured_cdf(d, D, 1 - x["sin2"]) if x["law"] == "Haar" else one
    return hit, exp(-gap * gap / 18) * 7 / 2


def _width(D: int, sin2: Fraction) -> Fraction:
    """Return a fraction a little above 2/5 + √(D-1) sin, itself above the Gaussian width of a cap.

    For g = (g1, g') the maximum over the cap is at most max(g1, 0) + ‖g'‖ sin, and 1/√(2π) < 2/5.
    """
    scale = 10**6
    inside = (D - 1) * sin2
    return F(2, 5) + F(math.isqrt(inside.numerator * scale**2 // inside.denominator) + 1, scale)


def _cap(D: int, d: int, sin2: Fraction) -> Instance:
    return {"D": D, "d": d, "sin2": sin2, "w": _width(D, sin2), "law": "Haar"}


def _small_cap(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    d = 2 * int(rng.integers(1, 15))
    D = d + 2 * int(rng.integers(20, 40))
    return _cap(D, d, F(int(rng.integers(1, 8)), 100) * (D - d) / D)


def _wide_cap(seed: int) -> Instance:
    """Return a cap whose width is just below √(D - d): a subspace meets it one time in nine."""
    return _cap(800 + 2 * seed, 400, F(47, 100))


def _cap_of_width(seed: int) -> Instance:
    """Return the cap, of those searched, whose chance to be met is closest to the bound."""
    return _cap(460, 400, F(23, 200))


def _half_sphere(seed: int) -> Instance:
    return _cap(400, 300 + 2 * seed, F(1))


def _is_thin(x: Instance) -> bool:
    return x["w"] >= 0 and x["w"] ** 2 * (x["D"] - x["d"] + 1) < (x["D"] - x["d"]) ** 2


def _enumerate_t14() -> bool:
    caps = (
        _cap(d + codimension, d, F(sin2, 100))
        for d, codimension, sin2 in product((2, 8, 20, 40), (40, 60, 80, 100), (1, 5, 10, 20, 40))
    )
    return holds_on(_t14, filter(_is_thin, caps))


T14 = register(
    Theorem(
        id="T14",
        name="a random subspace escapes a thin set",
        latex=r"P(Y\cap T\ne\emptyset)\le\tfrac72e^{-(a-w)^2/18},\quad w(T)\le w<a=\tfrac{D-d}{\sqrt{D-d+1}}",
        words="a Haar subspace of dimension d misses a closed set on the sphere whose Gaussian width is "
        "below the root of D - d; nothing is said the other way (a finite set is missed whatever its width); "
        "evaluated on caps",
        kind="upper",
        entries={
            "D": "dimension of the space",
            "d": "of the subspace",
            "sin2": "squared sine of the cap's angle",
            "w": "bound on its Gaussian width",
            "law": '"Haar", or another word',
        },
        sides=_t14,
        sampler=with_corner(_small_cap, _cap_of_width),
        hypotheses=(
            Hypothesis(
                "width",
                r"$w\ge w(T)=E\max_{x\in T}\langle g,x\rangle$ (here: at least the estimate for a cap)",
                lambda x: x["w"] >= _width(x["D"], x["sin2"]),
                with_entries(_half_sphere, w=F(0)),
            ),
            Hypothesis("small width", "$w<a$", _is_thin, _half_sphere),
            Hypothesis(
                "Haar",
                "$Y$ is Haar (a subspace through the centre of the cap meets it)",
                lambda x: x["law"] == "Haar",
                with_entries(_small_cap, law="through the centre", D=200, d=20, sin2=F(1, 100), w=F(2)),
            ),
        ),
        mutant=Mutant("D in the place of D - d", lambda x: _t14(x, whole=True), _wide_cap),
        closest=_cap_of_width,
        reach=0.0717,  # the bound is above 1 where caps are met often
        proof="Gordon's comparison of Gaussian processes, and concentration.",
        source="Gordon 1988; constants as in Larsen et al. 2022 (recalled)",
        status=ProofStatus.recalled("exact on 80 caps, d <= 40, D - d <= 100"),
        exact_check=_enumerate_t14,
    )
)
