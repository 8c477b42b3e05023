"""Domains: maps from plain vectors to instances: one description for search, shrinking and hypothesis.

A domain's `build` runs on floats, where scipy searches, and on fractions, where witnesses are confirmed. It
must give a valid instance for every vector: constraints are built in (L Lᵀ for semidefinite, Cayley for
orthogonal), never rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from deltatheory.theorems.exact import as_fractions, inverse, one_like
from deltatheory.theorems.loss_functions import Quadratic, Rotated, Separable
from deltatheory.theorems.splines import bend

__all__ = [
    "Domain",
    "attention_heads",
    "combine",
    "dimensions",
    "integers",
    "losses",
    "ltv_systems",
    "matrices",
    "pencils",
    "projectors",
    "psd_matrices",
    "quadratics",
    "vectors",
]

_DENOMINATOR = 8  # of the fractions that hypothesis and `sample` draw


@dataclass(frozen=True)
class Domain:
    """A set of instances with coordinates.

    Attributes:
        size: length of the vectors.
        build: maps a vector, of floats or of fractions, to an instance or a part of one.
        bound: entries are drawn from [-bound, bound].
        limits: the bound of each entry, where they differ; () otherwise.
    """

    size: int
    build: Callable[[np.ndarray], Any]
    bound: int = 3
    limits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or self.bound < 1:
            raise ValueError(f"size={self.size}, bound={self.bound}: must be at least 0 and 1.")
        if len(self.limits or (1,) * self.size) != self.size or min(self.limits, default=1) < 1:
            raise ValueError(f"limits={self.limits}: must be {self.size} numbers of at least 1, or none.")

    @property
    def box(self) -> np.ndarray:
        """The largest size of each entry, (size,)."""
        return np.array(self.limits or (self.bound,) * self.size, dtype=float)

    def vector(self, seed: int) -> np.ndarray:
        """Return random coordinates in fractions."""
        top = self.box.astype(int) * _DENOMINATOR
        return as_fractions(np.random.default_rng(seed).integers(-top, top + 1)) / _DENOMINATOR

    def sample(self, seed: int) -> Any:
        """Return a random instance in fractions."""
        return self.build(self.vector(seed))

    def coordinates(self) -> Any:
        """Return a hypothesis strategy of vectors of fractions, which shrinks to 0.

        Some have a few different entries only: corners, zeros and repeats.

        Raises:
            ImportError: without hypothesis.
        """
        from hypothesis import strategies as st

        limits = self.box.astype(int) * _DENOMINATOR
        numbers = [st.integers(-limit, limit) for limit in limits.tolist()]
        top = self.bound * _DENOMINATOR
        corners = st.sampled_from([0, _DENOMINATOR, -_DENOMINATOR, top, -top])
        few = st.lists(corners | st.integers(-top, top), min_size=1, max_size=3)
        repeats = few.flatmap(lambda pool: st.tuples(*[st.sampled_from(pool)] * self.size))
        return (st.tuples(*numbers) | repeats).map(
            lambda values: as_fractions(np.clip(np.array(values, int), -limits, limits)) / _DENOMINATOR
        )

    def strategy(self) -> Any:
        """Return a hypothesis strategy of instances.

        Raises:
            ImportError: without hypothesis.
        """
        return self.coordinates().map(self.build)

    def map(self, function: Callable[[Any], Any]) -> Domain:
        """Return the domain of `function` of these instances."""
        return Domain(self.size, lambda vector: function(self.build(vector)), self.bound, self.limits)


def combine(**parts: Domain) -> Domain:
    """Return the domain of instances with an entry for each part.

    >>> domain = combine(a=vectors(1), b=matrices(1, 2))
    >>> domain.size, domain.build(np.array([1, 2, 3]))["b"].tolist()
    (3, [[2, 3]])

    Args:
        parts: name of the entry and its domain.
    """
    ends = list(accumulate((part.size for part in parts.values()), initial=0))

    def build(vector: np.ndarray) -> dict[str, Any]:
        pieces = zip(parts.items(), pairwise(ends), strict=True)
        return {name: part.build(vector[start:end]) for (name, part), (start, end) in pieces}

    limits = chain.from_iterable(part.box.astype(int).tolist() for part in parts.values())
    return Domain(ends[-1], build, max(part.bound for part in parts.values()), tuple(limits))


# ---- Whole numbers ----


def _chosen(x: Any, count: int) -> int:
    """Return a number from 0, at x = 0, to count - 1, at both ends of [-3, 3]."""
    return min(math.floor(abs(x) * count / 3), count - 1)


def integers(low: int, high: int) -> Domain:
    """Return the domain of the whole numbers from low to high.

    >>> numbers = integers(2, 5)
    >>> [numbers.build(np.array([x])) for x in (0, 1, -2, 3)]
    [2, 3, 4, 5]

    Raises:
        ValueError: unless low <= high.
    """
    if low > high:
        raise ValueError(f"low={low}: must be at most high={high}.")
    return Domain(1, lambda vector: low + _chosen(vector[0], high - low + 1))


def dimensions(low: int, high: int, make: Callable[[int], Domain]) -> Domain:
    """Return the domain of all instances of `make(n)` for n from low to high: n is searched too.

    >>> domain = dimensions(1, 3, lambda n: vectors(n).map(lambda v: {"n": n, "v": v}))
    >>> domain.size, domain.build(np.array([2, 1, 1, 1]))["n"]
    (4, 3)

    Args:
        low: least n.
        high: largest n.
        make: gives the domain of one n; only its instances know n.

    Raises:
        ValueError: unless low <= high.
    """
    number = integers(low, high)
    parts = [make(n) for n in range(low, high + 1)]

    def build(vector: np.ndarray) -> Any:
        part = parts[number.build(vector[:1]) - low]
        return part.build(vector[1 : 1 + part.size])

    longest = max(parts, key=lambda part: part.size)
    return Domain(1 + longest.size, build, longest.bound, (number.bound, *longest.box.astype(int).tolist()))


# ---- Arrays ----


def matrices(*shape: int, bound: int = 3) -> Domain:
    """Return the domain of arrays of this shape."""
    return Domain(int(np.prod(shape)), lambda vector: vector.reshape(shape), bound)


def vectors(n: int, bound: int = 3) -> Domain:
    """Return the domain of vectors of length n."""
    return matrices(n, bound=bound)


def psd_matrices(n: int, rank: int | None = None) -> Domain:
    """Return the domain of positive semidefinite n x n matrices, R Rᵀ with R of `rank` columns (n).

    >>> psd_matrices(2, 1).build(np.array([1, 2])).tolist()
    [[1, 2], [2, 4]]
    """
    return matrices(n, rank or n, bound=2).map(lambda root: root @ root.T)


def pencils(n: int) -> Domain:
    """Return the domain of pairs (A, B) of matrices, A positive semidefinite and B - I too."""

    def build(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"A": parts["A"], "B": parts["B"] + np.eye(n, dtype=int)}

    return combine(A=psd_matrices(n), B=psd_matrices(n)).map(build)


def _rotations(n: int) -> Domain:
    """Return the domain of orthogonal matrices (I - S)(I + S)^{-1}, S skew (Cayley)."""
    rows, columns = np.triu_indices(n, 1)

    def build(vector: np.ndarray) -> np.ndarray:
        unit = np.eye(n, dtype=int) * (vector[0] * 0 + 1) if n > 1 else np.eye(1, dtype=int)
        skew = 0 * unit
        skew[rows, columns] = vector
        skew[columns, rows] = -vector
        return (unit - skew) @ inverse(unit + skew)

    return Domain(len(rows), build, 2)


def projectors(D: int, d: int) -> Domain:
    """Return the domain of orthogonal projectors of rank d in R^D.

    >>> P = projectors(3, 1).sample(0)
    >>> bool((P @ P == P).all()), P.trace()
    (True, Fraction(1, 1))

    Raises:
        ValueError: unless 1 <= d < D.
    """
    if not 1 <= d < D:
        raise ValueError(f"d={d}: must be at least 1 and below D={D}.")
    return _rotations(D).map(lambda U: U[:, :d] @ U[:, :d].T)


# ---- Systems, heads, losses ----


def _share(x: Any) -> Any:
    """Return |x| / 3, at most 1: 0 and 1 are reached."""
    return np.minimum(abs(x) / 3, one_like(x))


def ltv_systems(n: int, m: int, T: int, *, stable: bool = True) -> Domain:
    """Return the domain of linear time-varying systems {"A": T of n x n, "B": T of n x m}, T steps.

    Args:
        n: number of states.
        m: number of controls.
        T: number of steps.
        stable: every A_t shrinks all states to 9/10 at most, which is reached; otherwise every A_t stretches
            all of them to 11/10 at least.
    """
    parts: dict[str, Domain] = {"B": matrices(T, n, m)}
    for t in range(T):
        parts |= {f"U{t}": _rotations(max(n, 2)), f"s{t}": vectors(n)}

    def build(x: dict[str, np.ndarray]) -> dict[str, Any]:
        A = []
        for t in range(T):
            s = x[f"s{t}"]
            gains = np.sign(s) * _share(s) * 9 / 10 if stable else 11 * (1 + _share(s)) / 10
            A.append(x[f"U{t}"][:n, :n] * gains if n > 1 else np.array([gains]))
        return {"A": np.array(A), "B": x["B"]}

    return combine(**parts).map(build)


def attention_heads(n: int, d: int) -> Domain:
    """Return the domain of heads {"X": n tokens of width d, "Wq", "Wk", "Wv": d x d}."""
    return combine(
        X=matrices(n, d), Wq=matrices(d, d, bound=1), Wk=matrices(d, d, bound=1), Wv=matrices(d, d)
    )


def _curvatures(D: int, L: Any, mu: Any) -> Domain:
    """Return the domain of D numbers between mu and L, both of which are reached.

    Raises:
        ValueError: unless 0 <= mu <= L, and D >= 2.
    """
    if not 0 <= mu <= L or D < 2:
        raise ValueError(f"mu={mu}, L={L}, D={D}: must satisfy 0 <= mu <= L and D >= 2.")

    def build(x: np.ndarray) -> np.ndarray:
        one = one_like(x[0])  # of the kind of x: a fraction times an array of floats is an array of objects
        return Fraction(mu) * one + (Fraction(L) - Fraction(mu)) * one * _share(x)

    return vectors(D).map(build)


def _with_constants(L: Any, mu: Any, f: Any, x: dict[str, np.ndarray]) -> dict[str, Any]:
    one = one_like(x["centre"][0])
    return {"f": f, "L": Fraction(L) * one, "mu": Fraction(mu) * one, "x0": x["x0"], "star": x["centre"]}


def quadratics(D: int, L: Any, mu: Any) -> Domain:
    """Return the domain {"f", "L", "mu", "x0", "star"} of quadratics with curvatures between mu and L.

    Args:
        D: number of variables, at least 2.
        L: smoothness.
        mu: strong convexity, 0 for merely convex ones.

    Raises:
        ValueError: unless 0 <= mu <= L, and D >= 2.
    """

    def build(x: dict[str, np.ndarray]) -> dict[str, Any]:
        f = Quadratic(x["U"] * x["curvature"] @ x["U"].T, x["centre"], x["centre"][0] * 0)
        return _with_constants(L, mu, f, x)

    curvature = _curvatures(D, L, mu)
    return combine(U=_rotations(D), curvature=curvature, centre=vectors(D), x0=vectors(D)).map(build)


def losses(D: int, L: Any, mu: Any) -> Domain:
    """Return the domain {"f", "L", "mu", "x0", "star"} of L-smooth, mu-strongly convex functions.

    Along each of D orthogonal directions f has one curvature near its minimum and another far from it, all
    between mu and L: quadratics, Huber functions, and what lies between them.

    Args:
        D: number of variables, at least 2.
        L: smoothness.
        mu: strong convexity, 0 for merely convex ones.

    Raises:
        ValueError: unless 0 <= mu <= L, and D >= 2.
    """

    def build(x: dict[str, np.ndarray]) -> dict[str, Any]:
        near = 1 / (1 + abs(x["near"]))  # where the curvature changes: above 0, at most 1
        parts = (bend(a, b, c) for a, b, c in zip(x["inner"], x["outer"], near, strict=True))
        return _with_constants(L, mu, Rotated(Separable(tuple(parts)), x["U"], x["centre"]), x)

    inner, outer = _curvatures(D, L, mu), _curvatures(D, L, mu)
    return combine(
        U=_rotations(D), inner=inner, outer=outer, near=vectors(D), centre=vectors(D), x0=vectors(D)
    ).map(build)
