from __future__ import annotations

from fractions import Fraction

import mpmath
import pytest

from proofs_check import intervals
from proofs_check.expressions import over_jet
from proofs_check.instances import SLOPES
from proofs_check.intervals import Interval, Jet, bound_above, constant, enclose

mpmath.mp.dps = 60
POINTS = [Fraction(0), Fraction(1, 3), Fraction(-7, 5), Fraction(2), Fraction(-11, 2), Fraction(8)]


def holds(interval: Interval, value: mpmath.mpf, width: int = -80) -> bool:
    low = mpmath.mpf(interval.lo) / intervals.ONE
    high = mpmath.mpf(interval.hi) / intervals.ONE
    return low <= value <= high and high - low < mpmath.mpf(2) ** width


def real(x: Fraction) -> mpmath.mpf:
    return mpmath.mpf(x.numerator) / x.denominator


@pytest.mark.parametrize("x", POINTS)
def test_functions_enclose_the_value_tightly(x: Fraction):
    assert holds(intervals.exp(enclose(x)), mpmath.exp(real(x)))
    assert holds(intervals.erf(enclose(x)), mpmath.erf(real(x)))
    assert holds(intervals.sqrt(enclose(abs(x))), mpmath.sqrt(real(abs(x))), -60)
    assert holds(intervals.pi(), mpmath.pi)


@pytest.mark.parametrize("low", [Fraction(-3), Fraction(-1, 2), Fraction(1)])
def test_operations_contain_every_pair_of_points(low: Fraction):
    a, b = enclose(low, low + 1), enclose(Fraction(1, 3), Fraction(3, 2))
    for x in (low, low + Fraction(1, 7), low + 1):
        for y in (Fraction(1, 3), Fraction(1), Fraction(3, 2)):
            for interval, value in ((a + b, x + y), (a - b, x - y), (a * b, x * y), (a / b, x / y), (-a, -x)):
                assert interval.low <= value <= interval.high


def test_division_by_zero_and_bad_ends_are_refused():
    with pytest.raises(ZeroDivisionError, match="contains zero"):
        enclose(1) / enclose(-1, 1)
    with pytest.raises(ValueError, match="lo <= hi"):
        Interval(1, 0)
    with pytest.raises(ValueError, match=">= 0"):
        intervals.sqrt(enclose(-1))


def gelu_slope(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.diff(lambda t: t * (1 + mpmath.erf(t / mpmath.sqrt(2))) / 2, x)


def silu_slope(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.diff(lambda t: t / (1 + mpmath.exp(-t)), x)


@pytest.mark.parametrize(
    ("tree", "slope"), [(SLOPES["gelu"].slope, gelu_slope), (SLOPES["silu"].slope, silu_slope)]
)
@pytest.mark.parametrize("x", [Fraction(1, 3), Fraction(-7, 5), Fraction(2)])
def test_jets_enclose_value_and_derivative(tree: list, slope, x: Fraction):
    jet = over_jet(tree, Jet(enclose(x), enclose(1)))
    assert abs(real(jet.value.low) - slope(real(x))) < 1e-20
    assert abs(real(jet.slope.low) - mpmath.diff(slope, real(x))) < 1e-12
    wide = over_jet(tree, Jet(enclose(x, x + Fraction(1, 8)), enclose(1)))
    for step in (0, Fraction(1, 20), Fraction(1, 8)):
        inner = over_jet(tree, constant(enclose(x + step)))
        assert wide.value.low <= inner.value.low <= inner.value.high <= wide.value.high


def test_the_bound_of_a_box_is_above_and_close():
    def parabola(x: Jet) -> Jet:
        return x + -(x * x)

    bound = bound_above(parabola, Fraction(1, 4), Fraction(3, 4))
    assert Fraction(1, 4) <= bound <= Fraction(1, 2)
    narrow = bound_above(parabola, Fraction(499, 1000), Fraction(501, 1000))
    assert Fraction(1, 4) <= narrow <= Fraction(1, 4) + Fraction(1, 10**5)


def test_far_out_the_answers_are_quick_and_hold():
    far = intervals.erf(enclose(10**20))
    assert far.low < 1
    assert far.high == 1
    assert intervals.erf(enclose(16)).low > 1 - Fraction(1, 10**30)
    assert intervals.exp(enclose(-(10**20))).low == 0
    with pytest.raises(ValueError, match="4096"):
        intervals.exp(enclose(5000))
