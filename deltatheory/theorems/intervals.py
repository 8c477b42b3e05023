"""Intervals with rational ends: exp, log, sqrt, Φ and φ enclosed without rounding errors.

The functions here take a float and return a float, or take a fraction or an interval and return an interval
that contains the value for certain.

    >>> exp(0.0), sqrt(Fraction(9, 4))
    (1.0, RationalInterval(1.5, 1.5))
    >>> value = log(exp(Fraction(1, 3)))
    >>> value.low <= Fraction(1, 3) <= value.high
    True
    >>> float(normal_cdf(Fraction(0)))
    0.5

The verifier (`proofs_check`) has intervals of its own, in the standard library alone: what it says does not
rest on these, and a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache
from typing import Any

__all__ = ["RationalInterval", "exp", "largest", "log", "magnitude", "normal_cdf", "normal_pdf", "sqrt"]

_BITS = 160  # of the ends: far below what any bound is decided by
_FIXED = _BITS + 40


def _rounded(x: Fraction, up: bool) -> Fraction:
    """Return x with about `_BITS` significant bits, rounded up or down."""
    if x.denominator.bit_length() <= _BITS:
        return x
    shift = _BITS + x.denominator.bit_length() - abs(x.numerator).bit_length()
    if shift <= 0:
        return Fraction(-((-x.numerator) // x.denominator) if up else x.numerator // x.denominator)
    scaled = x.numerator << shift
    whole = -((-scaled) // x.denominator) if up else scaled // x.denominator
    return Fraction(whole, 1 << shift)


class RationalInterval:
    """All numbers between two fractions.

    Comparisons are certain: `a <= b` says that every number of a is at most every number of b.

    >>> a, b = RationalInterval(1, 2), RationalInterval(-3, 4)
    >>> a - b, a * b, b**2
    (RationalInterval(-3.0, 5.0), RationalInterval(-6.0, 8.0), RationalInterval(0.0, 16.0))
    >>> a <= b, a >= b, RationalInterval(0, 1) <= a
    (False, False, True)

    Args:
        low: lower end.
        high: upper end, `low` by default.

    Raises:
        ValueError: if low > high.
    """

    __slots__ = ("high", "low")

    def __init__(self, low: Fraction | int, high: Fraction | int | None = None) -> None:
        high = low if high is None else high
        if low > high:
            raise ValueError(f"low={low}: must be at most high={high}.")
        self.low, self.high = _rounded(Fraction(low), up=False), _rounded(Fraction(high), up=True)

    @staticmethod
    def of(x: Any) -> RationalInterval:
        """Return an exact number as an interval."""
        return x if isinstance(x, RationalInterval) else RationalInterval(x)

    def __repr__(self) -> str:
        return f"RationalInterval({float(self.low)!r}, {float(self.high)!r})"

    def __float__(self) -> float:
        return float((self.low + self.high) / 2)

    def __add__(self, other: Any) -> RationalInterval:
        other = RationalInterval.of(other)
        return RationalInterval(self.low + other.low, self.high + other.high)

    def __neg__(self) -> RationalInterval:
        return RationalInterval(-self.high, -self.low)

    def __sub__(self, other: Any) -> RationalInterval:
        return self + (-RationalInterval.of(other))

    def __rsub__(self, other: Any) -> RationalInterval:
        return RationalInterval.of(other) - self

    def __mul__(self, other: Any) -> RationalInterval:
        other = RationalInterval.of(other)
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return RationalInterval(min(ends), max(ends))

    def __truediv__(self, other: Any) -> RationalInterval:
        other = RationalInterval.of(other)
        if other.low <= 0 <= other.high:
            raise ZeroDivisionError(f"{other!r} contains 0.")
        return self * RationalInterval(1 / other.high, 1 / other.low)

    def __rtruediv__(self, other: Any) -> RationalInterval:
        return RationalInterval.of(other) / self

    def __pow__(self, n: int) -> RationalInterval:
        ends = sorted((self.low**n, self.high**n))
        return RationalInterval(0 if n % 2 == 0 and self.low <= 0 <= self.high else ends[0], ends[1])

    def __le__(self, other: Any) -> bool:
        return self.high <= RationalInterval.of(other).low

    def __lt__(self, other: Any) -> bool:
        return self.high < RationalInterval.of(other).low

    def __ge__(self, other: Any) -> bool:
        return self.low >= RationalInterval.of(other).high

    def __gt__(self, other: Any) -> bool:
        return self.low > RationalInterval.of(other).high

    __radd__, __rmul__ = __add__, __mul__


def _increasing(
    on_float: Callable, on_fraction: Callable[[Fraction], RationalInterval]
) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        if isinstance(x, float):
            return on_float(x)
        x = RationalInterval.of(x)
        low = on_fraction(x.low)
        return RationalInterval(low.low, low.high if x.low == x.high else on_fraction(x.high).high)

    return function


def _summed(first: Fraction, factor: Fraction, step: Callable[[int], int], weight: Callable[[int], int]):
    """Return Σ_k p_k / weight(k) with p_0 = first, p_{k+1} = p_k factor / step(k), in fixed point.

    For |first| <= 1 and |factor| <= 1/2: then p_k is off by at most 6 units in the last place, a term by 7,
    and what is left out is at most twice the last p_k.
    """
    p, f = (int(x * (1 << _FIXED) // 1) for x in (first, factor))
    total = k = 0
    while abs(p) > 1:
        total += p // weight(k)
        p = (p * f >> _FIXED) // step(k)
        k += 1
    off = 16 * (k + 1)
    return RationalInterval(Fraction(total - off, 1 << _FIXED), Fraction(total + off, 1 << _FIXED))


@cache
def _exp(x: Fraction) -> RationalInterval:
    if x < 0:
        return 1 / _exp(-x)
    halvings = math.ceil(x).bit_length() + 3
    out = _summed(Fraction(1), x / 2**halvings, lambda k: k + 1, lambda k: 1)
    for _ in range(halvings):
        out = out * out
    return out


def _odd_powers(z: Fraction, sign: int) -> RationalInterval:
    """Return Σ_k sign^k z^{2k+1} / (2k+1): atanh z for sign 1, atan z for -1."""
    return _summed(z, sign * z * z, lambda k: 1, lambda k: 2 * k + 1)


def _log_rational(x: Fraction) -> RationalInterval:
    shift = x.numerator.bit_length() - x.denominator.bit_length()
    m = x / Fraction(2) ** shift  # in (1/2, 2)
    return 2 * _odd_powers((m - 1) / (m + 1), 1) + shift * 2 * _odd_powers(Fraction(1, 3), 1)


@cache
def _log(x: Fraction) -> RationalInterval:
    if x <= 0:
        raise ValueError(f"log of {float(x)}: must be positive.")
    low, high = _rounded(x, up=False), _rounded(x, up=True)
    return RationalInterval(_log_rational(low).low, _log_rational(high).high)


def _sqrt(x: Fraction) -> RationalInterval:
    if x < 0:
        raise ValueError(f"sqrt of {float(x)}: must not be negative.")
    p, q = math.isqrt(x.numerator), math.isqrt(x.denominator)
    if p * p == x.numerator and q * q == x.denominator:
        return RationalInterval(Fraction(p, q))
    shift = _BITS + x.denominator.bit_length()
    root = math.isqrt((x.numerator << (2 * shift)) // x.denominator)
    return RationalInterval(Fraction(root, 1 << shift), Fraction(root + 1, 1 << shift))


@cache
def _pi() -> RationalInterval:
    return 16 * _odd_powers(Fraction(1, 5), -1) - 4 * _odd_powers(Fraction(1, 239), -1)  # Machin


def _normal_cdf(x: Fraction) -> RationalInterval:
    """Enclose ½ + (1/√2π) Σ (-1)ⁿ x^{2n+1} / (2ⁿ n! (2n+1)); terms alternate, and fall once 2n > x²."""
    total, power, n = Fraction(0), x, 0
    while n <= x * x or abs(power) > Fraction(1, 1 << _FIXED):
        total += power / (2 * n + 1)
        n += 1
        power = -power * x * x / (2 * n)
    return Fraction(1, 2) + RationalInterval(total - abs(power), total + abs(power)) / sqrt(2 * _pi())


exp = _increasing(math.exp, _exp)
log = _increasing(math.log, _log)
sqrt = _increasing(lambda x: math.sqrt(max(x, 0.0)), _sqrt)
normal_cdf = _increasing(lambda x: (1 + math.erf(x / math.sqrt(2))) / 2, _normal_cdf)


def normal_pdf(x: Any) -> Any:
    """Return the standard normal density.

    >>> density = normal_pdf(Fraction(0))  # 1/√(2π)
    >>> bool(density.low**2 * 2 < Fraction(100000, 314159)) and round(float(density), 12)
    0.398942280401
    """
    if isinstance(x, float):
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return exp(-(RationalInterval.of(x) ** 2) / 2) / sqrt(2 * _pi())


def magnitude(x: Any) -> Any:
    """Return |x|.

    >>> magnitude(RationalInterval(-3, 1)), magnitude(Fraction(-1, 2))
    (RationalInterval(0.0, 3.0), Fraction(1, 2))
    """
    if not isinstance(x, RationalInterval):
        return abs(x)
    ends = sorted((abs(x.low), abs(x.high)))
    return RationalInterval(0 if x.low <= 0 <= x.high else ends[0], ends[1])


def largest(values: Iterable[Any]) -> Any:
    """Return the maximum of numbers or intervals.

    >>> largest([Fraction(1), RationalInterval(0, 2)])
    RationalInterval(1.0, 2.0)
    """
    values = list(values)
    if not any(isinstance(v, RationalInterval) for v in values):
        return max(values)
    intervals = [RationalInterval.of(v) for v in values]
    return RationalInterval(max(v.low for v in intervals), max(v.high for v in intervals))
