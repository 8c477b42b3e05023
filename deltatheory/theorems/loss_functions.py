"""Loss functions whose constants are known without rounding: the instances of the subspace theorems.

Each has `value`, `gradient`, `minimum`, `minimum_on` (over x0 + range A) and says exactly whether it is
L-smooth, convex, μ-strongly convex or μ-PL (½‖∇f‖² >= μ (f - f*)). They run on fractions and on floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.exact import is_psd, solve
from deltatheory.theorems.splines import Spline

__all__ = [
    "AbsoluteValue",
    "Curve",
    "Quadratic",
    "Rotated",
    "Separable",
]


@dataclass(frozen=True, eq=False)
class Quadratic:
    """f(x) = ½ (x - c)ᵀ H (x - c) + low, with H symmetric.

    >>> f = Quadratic(np.array([[2, 0], [0, 4]]), np.array([1, 0]))
    >>> float(f.value(np.array([0, 1]))), f.is_smooth(4), f.is_strongly_convex(3)
    (3.0, True, False)
    """

    H: np.ndarray
    centre: np.ndarray
    low: Any = Fraction(0)

    def value(self, x: np.ndarray) -> Any:
        """Return f(x)."""
        return (x - self.centre) @ self.H @ (x - self.centre) / 2 + self.low

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return ∇f(x)."""
        return self.H @ (x - self.centre)

    @property
    def minimum(self) -> Any:
        """f*, which is -∞ where f is not convex."""
        return self.low if self.is_convex else float("-inf")

    def minimum_on(self, x0: np.ndarray, A: np.ndarray) -> Any:
        """Return the minimum over x0 + range A, which is -∞ where f is not convex there.

        Raises:
            ZeroDivisionError: if f is convex there and not elsewhere, and flat in a direction.
        """
        curvature = A.T @ self.H @ A
        if not is_psd(curvature):
            return float("-inf")
        return self.value(x0 + A @ solve(curvature, -A.T @ self.gradient(x0)))

    def is_smooth(self, L: Any) -> bool:
        """Return whether ∇f is L-Lipschitz."""
        unit = np.eye(len(self.H), dtype=int)
        return is_psd(L * unit - self.H) and is_psd(L * unit + self.H)

    @property
    def is_convex(self) -> bool:
        """Whether f is convex."""
        return is_psd(self.H)

    def is_strongly_convex(self, mu: Any) -> bool:
        """Return whether f - μ/2 ‖x‖² is convex."""
        return is_psd(self.H - mu * np.eye(len(self.H), dtype=int))

    def is_pl(self, mu: Any) -> bool:
        """Return whether every nonzero eigenvalue is at least μ, and none is negative."""
        return self.is_convex and is_psd(self.H @ self.H - mu * self.H)

    def is_minimiser(self, x: np.ndarray) -> bool:
        """Return whether x minimises f."""
        return self.is_convex and _vanishes(self.gradient(x))


@dataclass(frozen=True, eq=False)
class Separable:
    """f(x) = Σ_i s_i(x_i), a sum of splines.

    >>> from deltatheory.theorems.splines import huber, parabola
    >>> f = Separable((parabola(Fraction(1)), huber(Fraction(2), Fraction(1))))
    >>> f.value(np.array([Fraction(1), Fraction(3)])), f.minimum, f.is_smooth(2)
    (Fraction(11, 2), Fraction(0, 1), True)
    """

    parts: tuple[Spline, ...]

    def value(self, x: np.ndarray) -> Any:
        """Return f(x)."""
        return sum(s.value(xi) for s, xi in zip(self.parts, x, strict=True))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return ∇f(x)."""
        return np.array([s.gradient(xi) for s, xi in zip(self.parts, x, strict=True)])

    @property
    def minimum(self) -> Any:
        """f*."""
        return sum(s.value(s.argmin) for s in self.parts)

    def minimum_on(self, x0: np.ndarray, A: np.ndarray) -> Any:
        """Return the minimum over x0 + range A, for columns of A along the axes."""
        free = _axes(A)
        return sum(
            s.value(s.argmin) if i in free else s.value(xi)
            for i, (s, xi) in enumerate(zip(self.parts, x0, strict=True))
        )

    def is_smooth(self, L: Any) -> bool:
        """Return whether ∇f is L-Lipschitz."""
        return all(abs(slope) <= L for s in self.parts for slope in s.slopes)

    @property
    def is_convex(self) -> bool:
        """Whether f is convex."""
        return self.is_strongly_convex(0)

    def is_strongly_convex(self, mu: Any) -> bool:
        """Return whether f - μ/2 ‖x‖² is convex."""
        return all(slope >= mu for s in self.parts for slope in s.slopes)

    def is_pl(self, mu: Any) -> bool:
        """Return whether ½‖∇f‖² >= μ (f - f*): every part must be."""
        return all(s.is_pl(mu) for s in self.parts)

    def is_minimiser(self, x: np.ndarray) -> bool:
        """Return whether x minimises f."""
        return all(s.value(xi) == s.value(s.argmin) for s, xi in zip(self.parts, x, strict=True))


@dataclass(frozen=True, eq=False)
class Rotated:
    """f(x) = g(Uᵀ(x - c)), with U orthogonal: what is known of g is known of f."""

    g: Separable
    U: np.ndarray
    centre: np.ndarray

    def _turned(self, x: np.ndarray) -> np.ndarray:
        return self.U.T @ (x - self.centre)

    def value(self, x: np.ndarray) -> Any:
        """Return f(x)."""
        return self.g.value(self._turned(x))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return ∇f(x)."""
        return self.U @ self.g.gradient(self._turned(x))

    @property
    def minimum(self) -> Any:
        """f*."""
        return self.g.minimum

    def is_smooth(self, L: Any) -> bool:
        """Return whether ∇f is L-Lipschitz."""
        return self.g.is_smooth(L)

    @property
    def is_convex(self) -> bool:
        """Whether f is convex."""
        return self.g.is_convex

    def is_strongly_convex(self, mu: Any) -> bool:
        """Return whether f - μ/2 ‖x‖² is convex."""
        return self.g.is_strongly_convex(mu)

    def is_pl(self, mu: Any) -> bool:
        """Return whether ½‖∇f‖² >= μ (f - f*)."""
        return self.g.is_pl(mu)

    def is_minimiser(self, x: np.ndarray) -> bool:
        """Return whether x minimises f."""
        return self.g.is_minimiser(self._turned(x))


@dataclass(frozen=True, eq=False)
class AbsoluteValue:
    """f(x) = c Σ_i |x_i|: convex, with no smoothness at all."""

    c: Any
    minimum: Any = Fraction(0)

    def value(self, x: np.ndarray) -> Any:
        """Return f(x)."""
        return self.c * sum(abs(xi) for xi in x)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return the subgradient that is 0 at the kink."""
        return np.array([self.c * ((xi > 0) - (xi < 0)) for xi in x])

    def minimum_on(self, x0: np.ndarray, A: np.ndarray) -> Any:
        """Return the minimum over x0 + range A, for columns of A along the axes."""
        free = _axes(A)
        return self.c * sum(abs(xi) for i, xi in enumerate(x0) if i not in free)

    def is_smooth(self, L: Any) -> bool:
        """Return False."""
        return False

    is_convex = True

    def is_strongly_convex(self, mu: Any) -> bool:
        """Return whether μ <= 0."""
        return mu <= 0

    def is_pl(self, mu: Any) -> bool:
        """Return whether μ <= 0: far away the gradient stays as it is and the gap grows."""
        return mu <= 0

    def is_minimiser(self, x: np.ndarray) -> bool:
        """Return whether x = 0."""
        return _vanishes(x)


@dataclass(frozen=True, eq=False)
class Curve:
    """f(x, y) = ½ (y - x + x³/3)²: μ-PL with μ = 1, f* = 0 on a curve; neither convex nor smooth.

    On the line y = 2 the point x = 1 is stationary with f = 8/9, and f* = 0 is reached: PL is not inherited.

    >>> stuck = np.array([Fraction(1), Fraction(2)])
    >>> Curve().value(stuck), Curve().gradient(stuck)[0] == 0
    (Fraction(8, 9), True)
    """

    minimum: Any = Fraction(0)

    def value(self, x: np.ndarray) -> Any:
        """Return f(x)."""
        return self._residual(x) ** 2 / 2

    def _residual(self, x: np.ndarray) -> Any:
        return x[1] - x[0] + x[0] ** 3 / 3

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return ∇f(x)."""
        return self._residual(x) * np.array([x[0] ** 2 - 1, x[0] ** 0])

    def is_smooth(self, L: Any) -> bool:
        """Return False."""
        return False

    is_convex = False

    def is_strongly_convex(self, mu: Any) -> bool:
        """Return False."""
        return False

    def is_pl(self, mu: Any) -> bool:
        """Return whether μ <= 1: ‖∇f‖² = 2 f (1 + (x² - 1)²)."""
        return mu <= 1

    def is_minimiser(self, x: np.ndarray) -> bool:
        """Return whether x is on the curve."""
        return self._residual(x) == 0


def _axes(A: np.ndarray) -> set[int]:
    """Return which axes the columns of A run along.

    Raises:
        ValueError: if a column is not along an axis.
    """
    if any(np.count_nonzero(column) != 1 for column in A.T):
        raise ValueError("A: the minimum is known only for columns along the axes.")
    return {int(np.flatnonzero(column)[0]) for column in A.T}


def _vanishes(x: np.ndarray) -> bool:
    return bool(np.all(np.abs(x) <= (0 if x.dtype == object else 1e-9)))
