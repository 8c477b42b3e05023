"""The verifier's arithmetic and that of the theorems were written apart; where they meet, they agree."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from deltatheory.theorems import exact, intervals
from deltatheory.theorems.lipschitz import GELU, SILU
from deltatheory.theorems.random_subspaces import beta_cdf, chi_squared_tail
from proofs_check import enumerations, rational
from proofs_check import intervals as fixed
from proofs_check.certificate import rational as pair
from proofs_check.prove.constants import gelu_constant, silu_constant

POINTS = [Fraction(-7, 3), Fraction(-1, 1000), Fraction(0), Fraction(5, 2), Fraction(11)]


def meet(a, b, width: Fraction = Fraction(1, 2**90)) -> bool:
    """Whether two narrow enclosures have a number in common."""
    narrow = a.high - a.low <= width and b.high - b.low <= width
    return narrow and a.low <= b.high and b.low <= a.high


@pytest.mark.parametrize("x", POINTS)
def test_two_enclosures_of_one_number_meet(x: Fraction) -> None:
    box, size = fixed.enclose(x), abs(x)
    scale = max(Fraction(1), intervals.exp(x).high)
    assert meet(intervals.exp(x), fixed.exp(box), scale / 2**90)
    assert meet(intervals.sqrt(size), fixed.sqrt(fixed.enclose(size)), Fraction(1, 2**60))
    half, root = fixed.enclose(Fraction(1, 2)), fixed.sqrt(fixed.enclose(2))
    cdf = half * (fixed.enclose(1) + fixed.erf(box / root))
    assert meet(intervals.normal_cdf(x), cdf)
    assert not meet(intervals.normal_cdf(x + Fraction(1, 10**9)), cdf)


@pytest.mark.parametrize("seed", range(10))
def test_two_eliminations_agree(seed: int) -> None:
    rng = random.Random(seed)
    a = [[Fraction(rng.randint(-4, 4), rng.randint(1, 3)) for _ in range(4)] for _ in range(4)]
    a[3] = a[0] if seed % 3 == 0 else a[3]
    b = [[Fraction(rng.randint(-4, 4))] for _ in range(4)]
    A = exact.as_fractions(a)
    assert exact.rank(A) == rational.rank(a)
    if exact.det(A) != 0:
        assert exact.solve(A, exact.as_fractions(b)).tolist() == rational.solve(a, b)
    gram = A.T @ A - exact.eye(4) * Fraction(seed % 2, 50)
    assert exact.is_psd(gram) == (rational.semidefinite(gram.tolist())[1] is None)
    assert exact.squared_norm(A) == sum(rational.inner(row, row) for row in a)


def test_two_sums_of_one_tail_agree() -> None:
    """The tails that the enumerations of T11 and T12 compare with their bounds."""
    for d, eps in ((6, Fraction(1, 2)), (20, Fraction(3, 10))):
        half = d * (1 + eps) / 2
        law = fixed.exp(fixed.enclose(-half)) * fixed.enclose(
            sum(half**j / enumerations.factorial(j) for j in range(d // 2))
        )
        assert meet(chi_squared_tail(d, 2 * half), law)
    x = Fraction(2, 7)
    assert beta_cdf(2, 3, x) == sum(enumerations.comb(4, j) * x**j * (1 - x) ** (4 - j) for j in range(2, 5))


def test_the_constants_of_the_theorems_are_those_of_the_certificates() -> None:
    assert gelu_constant()[1] == GELU
    assert silu_constant()[1] <= SILU <= silu_constant()[1] + Fraction(1, 10**11)
    assert pair([GELU.numerator, GELU.denominator]) == GELU
    assert np.isclose(float(GELU), 1.1289041452)
