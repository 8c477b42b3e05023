"""Intervals contain the value, are narrow, and compare for certain."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from scipy import stats

from deltatheory.theorems.intervals import RationalInterval, exp, log, magnitude, normal_cdf, normal_pdf, sqrt


@pytest.mark.parametrize(
    "x", [Fraction(-7, 3), Fraction(-1, 1000), Fraction(0), Fraction(5, 2), Fraction(40)]
)
def test_intervals_contain_the_value_and_are_narrow(x) -> None:
    for interval, value in (
        (exp(x), math.exp(x)),
        (normal_cdf(x / 8), stats.norm.cdf(float(x / 8))),
        (normal_pdf(x / 8), stats.norm.pdf(float(x / 8))),
        (sqrt(abs(x)), math.sqrt(abs(x))),
        (log(1 + abs(x)), math.log1p(abs(x))),
    ):
        assert float(interval) == pytest.approx(value, rel=1e-14)
        assert interval.high - interval.low <= max(abs(interval.high), 1) * Fraction(1, 2**120)


def test_interval_functions_invert_each_other() -> None:
    for x in (Fraction(1, 3), Fraction(17, 5), Fraction(100)):
        assert exp(log(x)).low <= x <= exp(log(x)).high
        assert log(exp(x)).low <= x <= log(exp(x)).high
        assert (sqrt(x) ** 2).low <= x <= (sqrt(x) ** 2).high
    assert sqrt(Fraction(9, 4)).low == sqrt(Fraction(9, 4)).high == Fraction(3, 2)


def test_interval_arithmetic() -> None:
    a, b = RationalInterval(1, 2), RationalInterval(-3, 4)
    assert ((a - b).low, (a - b).high) == (-3, 5)
    assert ((a * b).low, (a * b).high) == (-6, 8)
    assert ((b**2).low, (b**2).high) == (0, 16)
    assert ((1 / a).low, (1 / a).high) == (Fraction(1, 2), 1)
    assert (magnitude(b).low, magnitude(b).high) == (0, 4)
    assert not a <= b
    assert not a >= b
    assert RationalInterval(0, 1) <= a
    with pytest.raises(ZeroDivisionError):
        a / b
    with pytest.raises(ValueError, match="at most"):
        RationalInterval(2, 1)
    for bad in (log, sqrt):
        with pytest.raises(ValueError, match="must"):
            bad(Fraction(-1))
