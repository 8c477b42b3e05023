"""Interval arithmetic in integers: an interval [lo, hi] stands for [lo, hi] / 2^128, rounded outward.

Every function returns an interval that contains the image of its arguments. exp and erf are increasing, so
their values at the end points are enough; those come from series with bounded remainders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import ceil, floor, isqrt
from typing import Generic, TypeVar

BITS = 128
ONE = 1 << BITS
TERMS = 40  # of the series of exp and arctan
SMALL = 1 << 8  # the series of erf ends with a term of at most this / 2^128


@dataclass(frozen=True)
class Interval:
    """The real numbers between lo / 2^128 and hi / 2^128."""

    lo: int
    hi: int

    def __post_init__(self) -> None:
        if self.lo > self.hi:
            raise ValueError(f"an interval needs lo <= hi, got lo={self.lo}, hi={self.hi}")

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.lo + other.lo, self.hi + other.hi)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        ends = [a * b for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        return Interval(min(ends) >> BITS, -(-max(ends) >> BITS))

    def __truediv__(self, other: Interval) -> Interval:
        if other.lo <= 0 <= other.hi:
            raise ZeroDivisionError("the interval of the denominator contains zero")
        ends = [Fraction(a * ONE, b) for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        return Interval(floor(min(ends)), ceil(max(ends)))

    def over(self, n: int) -> Interval:
        """Return the interval divided by an integer n > 0."""
        return Interval(self.lo // n, -(-self.hi // n))

    def hull(self, other: Interval) -> Interval:
        """Return the smallest interval that contains both."""
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi))

    @property
    def low(self) -> Fraction:
        """The lower end."""
        return Fraction(self.lo, ONE)

    @property
    def high(self) -> Fraction:
        """The upper end."""
        return Fraction(self.hi, ONE)


def enclose(low: Fraction | int, high: Fraction | int | None = None) -> Interval:
    """Return the interval of [low, high], or of one rational.

    >>> third = enclose(Fraction(1, 3))
    >>> third.low < Fraction(1, 3) < third.high, third.hi - third.lo
    (True, 1)
    """
    return Interval(floor(Fraction(low) * ONE), ceil(Fraction(low if high is None else high) * ONE))


def sqrt(x: Interval) -> Interval:
    """Square root of an interval that is >= 0.

    >>> sqrt(enclose(4)).low, sqrt(enclose(4)).high - 2 == Fraction(1, ONE)
    (Fraction(2, 1), True)
    """
    if x.lo < 0:
        raise ValueError(f"the square root needs an interval >= 0, got {x}")
    return Interval(isqrt(x.lo << BITS), isqrt(x.hi << BITS) + 1)


@cache
def pi() -> Interval:
    """Machin (1706): pi = 16 arctan(1/5) - 4 arctan(1/239), alternating series.

    >>> Fraction(314159265, 10**8) < pi().low < pi().high < Fraction(314159266, 10**8)
    True
    """

    def arctan(n: int) -> Interval:
        terms = [Fraction((-1) ** k, (2 * k + 1) * n ** (2 * k + 1)) for k in range(TERMS)]
        return enclose(sum(terms[:-1])).hull(enclose(sum(terms)))

    return enclose(16) * arctan(5) - enclose(4) * arctan(239)


@cache
def _exp(numerator: int) -> Interval:
    """exp(numerator / 2^128): Taylor at x / 2^k <= 1/2, remainder <= 2 |last term|, then k squarings."""
    if numerator > 4096 * ONE:
        raise ValueError("exp is computed up to exp(4096)")
    k = max(0, abs(numerator).bit_length() - BITS + 1)
    x = Interval(numerator, numerator).over(1 << k)
    total, term = enclose(1), enclose(1)
    for n in range(1, TERMS):
        term = (term * x).over(n)
        total = total + term
    rest = 2 * max(abs(term.lo), abs(term.hi))
    total = total + Interval(-rest, rest)
    for _ in range(k):
        total = total * total
    return Interval(max(total.lo, 0), total.hi)


def exp(x: Interval) -> Interval:
    """Return exp of an interval.

    >>> Fraction(2718281828, 10**9) < exp(enclose(1)).low < Fraction(2718281829, 10**9)
    True
    """
    return Interval(_exp(x.lo).lo, _exp(x.hi).hi)


@cache
def _erf(numerator: int) -> Interval:
    """erf(x) = 2/(sqrt(pi) exp(x^2)) sum_n 2^n x^(2n+1) / (1 3 ... (2n+1)), terms > 0 for x > 0.

    Summed until the ratio of terms is at most 1/2 and the term is small: the rest is at most the term.
    Beyond 16, 1 - erf(x) <= exp(-x^2) is far below 2^-128.
    """
    if numerator < 0:
        return -_erf(-numerator)
    if numerator > 16 * ONE:
        return Interval(ONE - 1, ONE)
    x = Interval(numerator, numerator)
    term = total = x
    square, n = x * x * enclose(2), 0
    while term.hi > SMALL or 2 * square.hi > enclose(2 * n + 3).lo:
        n += 1
        term = (term * square).over(2 * n + 1)
        total = total + term
    total = Interval(total.lo, total.hi + term.hi)
    value = enclose(2) / sqrt(pi()) * (total / exp(x * x))
    return Interval(max(value.lo, 0), min(value.hi, ONE))


def erf(x: Interval) -> Interval:
    """Return erf of an interval.

    >>> Fraction(8427007929, 10**10) < erf(enclose(1)).low < Fraction(8427007930, 10**10)
    True
    """
    return Interval(_erf(x.lo).lo, _erf(x.hi).hi)


Number = TypeVar("Number", Fraction, Interval)


@dataclass(frozen=True)
class Jet(Generic[Number]):
    """A value and its derivative in one direction: forward differentiation, exact or enclosed over a box.

    >>> x = Jet(Fraction(3), Fraction(1))
    >>> (x * x).slope, (constant(enclose(1)) * constant(enclose(2))).slope
    (Fraction(6, 1), Interval(lo=0, hi=0))
    """

    value: Number
    slope: Number

    def __add__(self, other: Jet[Number]) -> Jet[Number]:
        return Jet(self.value + other.value, self.slope + other.slope)

    def __neg__(self) -> Jet[Number]:
        return Jet(-self.value, -self.slope)

    def __mul__(self, other: Jet[Number]) -> Jet[Number]:
        return Jet(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def __truediv__(self, other: Jet[Number]) -> Jet[Number]:
        ratio = self.value / other.value
        return Jet(ratio, (self.slope - ratio * other.slope) / other.value)


def constant(c: Interval) -> Jet[Interval]:
    """Return the jet of a constant: slope zero."""
    return Jet(c, enclose(0))


def jet_exp(u: Jet[Interval]) -> Jet[Interval]:
    """exp(u), derivative exp(u) u'."""
    value = exp(u.value)
    return Jet(value, value * u.slope)


def jet_erf(u: Jet[Interval]) -> Jet[Interval]:
    """erf(u), derivative 2/sqrt(pi) exp(-u^2) u'."""
    return Jet(erf(u.value), enclose(2) / sqrt(pi()) * exp(-(u.value * u.value)) * u.slope)


def jet_sqrt(u: Jet[Interval]) -> Jet[Interval]:
    """sqrt(u), derivative u' / (2 sqrt(u)), for u > 0."""
    value = sqrt(u.value)
    return Jet(value, u.slope / (value + value))


def bound_above(f: Callable[[Jet[Interval]], Jet[Interval]], low: Fraction, high: Fraction) -> Fraction:
    """Bound f on [low, high] by the lesser of f(box) and f(mid) + f'(box) (box - mid)."""
    mid = (low + high) / 2
    box = enclose(low, high)
    over = f(Jet(box, enclose(1)))
    centred = f(constant(enclose(mid))).value + over.slope * (box - enclose(mid))
    return min(over.value.high, centred.high)
