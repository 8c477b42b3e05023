"""Functions of one variable with a piecewise linear derivative: every constant of them is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

__all__ = ["Spline", "bend", "huber", "parabola"]


@dataclass(frozen=True, eq=False)
class Spline:
    """A function of one variable with a continuous, piecewise linear derivative.

    Attributes:
        knots: increasing.
        slopes: f'' left of the first knot, between knots, and right of the last.
        derivative: f' at the first knot.
        start: f at the first knot.

    Raises:
        ValueError: if the knots fall.
    """

    knots: tuple
    slopes: tuple
    derivative: Any
    start: Any

    def __post_init__(self) -> None:
        if any(right < left for left, right in pairwise(self.knots)):
            raise ValueError(f"knots={self.knots}: must not fall.")

    def _pieces(self) -> list[tuple]:
        """Return (anchor, f, f', f'', from, to) of every piece; ends from the anchor on, `None` infinite."""
        f, d = self.start, self.derivative
        pieces: list[tuple] = [(self.knots[0], f, d, self.slopes[0], None, 0)]
        for left, right, slope in zip(self.knots, (*self.knots[1:], None), self.slopes[1:], strict=True):
            width = None if right is None else right - left
            pieces.append((left, f, d, slope, 0, width))
            if width is not None:
                f, d = f + d * width + slope * width**2 / 2, d + slope * width
        return pieces

    def _piece(self, x: Any) -> tuple:
        return next(p for p in self._pieces() if p[5] is None or x <= p[0] + p[5])

    def value(self, x: Any) -> Any:
        """Return f(x)."""
        at, f, d, slope, _, _ = self._piece(x)
        return f + d * (x - at) + slope * (x - at) ** 2 / 2

    def gradient(self, x: Any) -> Any:
        """Return f'(x)."""
        at, _, d, slope, _, _ = self._piece(x)
        return d + slope * (x - at)

    @property
    def largest_derivative(self) -> Any:
        """Sup |f'|; `None` if it is infinite."""
        if self.slopes[0] != 0 or self.slopes[-1] != 0:
            return None
        return max(abs(self.gradient(k)) for k in self.knots)

    @property
    def argmin(self) -> Any:
        """A minimiser.

        Raises:
            ValueError: if f is not bounded below.
        """
        left, right = self.gradient(self.knots[0]), self.gradient(self.knots[-1])
        if self.slopes[0] < 0 or self.slopes[-1] < 0 or (self.slopes[0] == 0 and left > 0):
            raise ValueError("the spline is not bounded below.")
        if self.slopes[-1] == 0 and right < 0:
            raise ValueError("the spline is not bounded below.")
        candidates = list(self.knots)
        for at, _, d, slope, low, high in self._pieces():
            if slope != 0 and _inside(-d / slope, low, high):
                candidates.append(at - d / slope)
        return min(candidates, key=self.value)

    def is_pl(self, mu: Any) -> bool:
        """Return whether ½ f'² >= μ (f - f*), decided on each piece, where it is quadratic."""
        minimum = self.value(self.argmin)
        for _, f, d, s, low, high in self._pieces():
            # q(t) = a t² + b t + c must not be negative between low and high
            a, b, c = s * s - mu * s, 2 * d * (s - mu), d * d - 2 * mu * (f - minimum)
            points = [t for t in (low, high) if t is not None]
            if a > 0 and _inside(-b / (2 * a), low, high):
                points.append(-b / (2 * a))
            falls = [(low, b > 0), (high, b < 0)]  # to minus infinity at an infinite end
            if any(end is None and (a < 0 or (a == 0 and down)) for end, down in falls):
                return False
            if any(a * t * t + b * t + c < 0 for t in points):
                return False
        return True


def bend(inner: Any, outer: Any, c: Any) -> Spline:
    """Return the function with minimum f(0) = 0 and curvature `inner` for |x| <= c, `outer` beyond.

    >>> f = bend(Fraction(4), Fraction(1), Fraction(1))
    >>> f.value(Fraction(1)), f.gradient(Fraction(2))  # ½ 4 x² up to 1, then with curvature 1
    (Fraction(2, 1), Fraction(5, 1))
    """
    return Spline((-c, c), (outer, inner, outer), -inner * c, inner * c * c / 2)


def huber(L: Any, c: Any) -> Spline:
    """Return the Huber function: ½ L x² for |x| <= c, and linear beyond.

    >>> f = huber(Fraction(2), Fraction(1))
    >>> f.value(Fraction(1)), f.value(Fraction(3)), f.largest_derivative
    (Fraction(1, 1), Fraction(5, 1), Fraction(2, 1))
    """
    return bend(L, L - L, c)


def parabola(L: Any, centre: Any = Fraction(0)) -> Spline:
    """Return ½ L (x - centre)².

    >>> f = parabola(Fraction(3), Fraction(1))
    >>> f.value(Fraction(2)), f.argmin, f.is_pl(3)
    (Fraction(3, 2), Fraction(1, 1), True)
    """
    return Spline((centre,), (L, L), L - L, L - L)


def _inside(t: Any, low: Any, high: Any) -> bool:
    return bool((low is None or low <= t) and (high is None or t <= high))
