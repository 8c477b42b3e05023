"""Linear algebra that runs on floats and, without rounding, on fractions; random rational instances.

Arrays of fractions are numpy arrays of dtype object: `@`, `+` and indexing work on them as on floats.

The verifier (`proofs_check.rational`) has linear algebra of its own, on lists and in the standard library
alone: what it says does not rest on this module, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.intervals import RationalInterval

__all__ = [
    "Dual",
    "Singular",
    "as_float",
    "as_fractions",
    "det",
    "diagonal",
    "duals",
    "eye",
    "inverse",
    "is_psd",
    "map_numbers",
    "one_like",
    "projector",
    "random_fractions",
    "random_full_rank",
    "random_orthogonal",
    "random_positive",
    "rank",
    "solve",
    "squared_norm",
    "trace",
    "zeros",
]


# ---- Rational arrays ----


def as_fractions(values: Any) -> np.ndarray:
    """Return numbers as an array of fractions; floats keep their exact binary value.

    >>> as_fractions([1, 0.5]).tolist()
    [Fraction(1, 1), Fraction(1, 2)]
    """
    # `item` first: a Fraction of a numpy integer keeps its 64 bits, and overflows.
    return np.vectorize(lambda x: Fraction(getattr(x, "item", lambda: x)()), otypes=[object])(values)


def zeros(*shape: int) -> np.ndarray:
    """Return an array of fractions 0."""
    return np.full(shape, Fraction(0), dtype=object)


def eye(n: int) -> np.ndarray:
    """Return the identity in fractions."""
    return as_fractions(np.eye(n, dtype=int))


def diagonal(values: Any, rows: int | None = None, columns: int | None = None) -> np.ndarray:
    """Return a matrix of fractions with these diagonal entries.

    >>> diagonal([2, 3], 2, 3).tolist() == [[2, 0, 0], [0, 3, 0]]
    True
    """
    values = as_fractions(list(values))
    matrix = zeros(rows or len(values), columns or len(values))
    for i, value in enumerate(values):
        matrix[i, i] = value
    return matrix


def random_fractions(rng: np.random.Generator, *shape: int, top: int = 6, bottom: int = 3) -> np.ndarray:
    """Return random fractions p/q with |p| <= top and 1 <= q <= bottom."""
    return as_fractions(rng.integers(-top, top + 1, shape)) / as_fractions(rng.integers(1, bottom + 1, shape))


def random_positive(rng: np.random.Generator, *shape: int, top: int = 6, bottom: int = 3) -> np.ndarray:
    """Return random fractions p/q with 1 <= p <= top and 1 <= q <= bottom."""
    return as_fractions(rng.integers(1, top + 1, shape)) / as_fractions(rng.integers(1, bottom + 1, shape))


def random_orthogonal(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return a random rational orthogonal matrix, (I - S)(I + S)^{-1} for a skew S (Cayley)."""
    upper = np.triu(random_fractions(rng, n, n, top=3, bottom=2), 1)
    skew = upper - upper.T + zeros(n, n)
    return (eye(n) - skew) @ inverse(eye(n) + skew)


def random_full_rank(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return a random rational matrix of rank min(rows, columns)."""
    while True:
        matrix = random_fractions(rng, rows, columns, top=4, bottom=2)
        if rank(matrix) == min(rows, columns):
            return matrix


# ---- Linear algebra, generic in the kind of number ----


class Singular(ValueError):
    """A system of equations has no solution."""


def _exact(matrix: np.ndarray) -> bool:
    return matrix.dtype == object


def _eliminate(matrix: np.ndarray) -> tuple[np.ndarray, list[int], Fraction]:
    """Return the reduced row echelon form, its pivot columns, and the product of pivots with its sign."""
    m, pivots, scale, row = matrix.copy(), [], Fraction(1), 0
    for column in range(m.shape[1]):
        found = next((i for i in range(row, len(m)) if m[i, column] != 0), None)
        if found is None:
            continue
        if found != row:
            m[[row, found]] = m[[found, row]]
            scale = -scale
        scale *= m[row, column]
        m[row] = m[row] / m[row, column]
        for i in range(len(m)):
            if i != row and m[i, column] != 0:
                m[i] = m[i] - m[i, column] * m[row]
        pivots.append(column)
        row += 1
        if row == len(m):
            break
    return m, pivots, scale


def rank(matrix: np.ndarray) -> int:
    """Return the rank: exact for fractions, numerical for floats.

    >>> rank(as_fractions([[1, 2], [2, 4]])), rank(np.eye(3))
    (1, 3)
    """
    if not _exact(matrix):
        return int(np.linalg.matrix_rank(matrix, rtol=1e-9))
    return len(_eliminate(matrix)[1])


def det(matrix: np.ndarray) -> Any:
    """Return the determinant.

    >>> det(as_fractions([[1, 2], [3, 4]]))
    Fraction(-2, 1)
    """
    if not _exact(matrix):
        return float(np.linalg.det(matrix))
    _, pivots, scale = _eliminate(matrix)
    return scale if len(pivots) == len(matrix) else Fraction(0)


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a solution of a consistent square system; free unknowns are 0 (least norm for floats).

    >>> solve(as_fractions([[1, 2], [3, 4]]), as_fractions([1, 0])).tolist()
    [Fraction(-2, 1), Fraction(3, 2)]

    Raises:
        Singular: a ValueError, if an exact system has no solution.
    """
    if not _exact(matrix):
        return np.linalg.lstsq(matrix, right, rcond=1e-12)[0]
    columns = right.reshape(len(right), -1)
    reduced, pivots, _ = _eliminate(np.concatenate([matrix, columns], 1))
    if pivots and pivots[-1] >= matrix.shape[1]:
        raise Singular("the system has no solution: its right side is outside the range of the matrix.")
    out = zeros(matrix.shape[1], columns.shape[1])
    for row, column in enumerate(pivots):
        out[column] = reduced[row, matrix.shape[1] :]
    return out.reshape(matrix.shape[1], *right.shape[1:])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of an invertible matrix.

    >>> inverse(as_fractions([[1, 2], [3, 4]])).tolist()
    [[Fraction(-2, 1), Fraction(1, 1)], [Fraction(3, 2), Fraction(-1, 2)]]

    Raises:
        Singular: a ValueError, if an exact matrix is not invertible.
    """
    return solve(matrix, eye(len(matrix)) if _exact(matrix) else np.eye(len(matrix)))


def is_psd(matrix: np.ndarray) -> bool:
    """Return whether a matrix is symmetric and positive semidefinite: exact L D Lᵀ for fractions.

    >>> is_psd(as_fractions([[1, 1], [1, 1]])), is_psd(as_fractions([[1, 1], [1, Fraction(99, 100)]]))
    (True, False)
    >>> is_psd(as_fractions([[1, 1], [0, 1]]))
    False
    """
    if not _exact(matrix):
        room = 1e-9 * max(1.0, np.abs(matrix).max())
        return bool(np.abs(matrix - matrix.T).max() <= room and np.linalg.eigvalsh(matrix)[0] >= -room)
    if np.any(matrix != matrix.T):
        return False
    m = matrix.copy()
    for k in range(len(m)):
        if m[k, k] < 0 or (m[k, k] == 0 and any(x != 0 for x in m[k + 1 :, k])):
            return False
        if m[k, k] > 0:
            for i in range(k + 1, len(m)):
                m[i, k + 1 :] = m[i, k + 1 :] - m[i, k] / m[k, k] * m[k, k + 1 :]
    return True


def projector(basis: np.ndarray) -> np.ndarray:
    """Return the orthogonal projector A (AᵀA)^{-1} Aᵀ on the range of A, of full column rank.

    >>> projector(as_fractions([[1], [1]])).tolist() == [[Fraction(1, 2)] * 2] * 2
    True
    """
    return basis @ solve(basis.T @ basis, basis.T)


def trace(matrix: np.ndarray) -> Any:
    """Return the trace.

    >>> trace(as_fractions([[1, 2], [3, 4]]))
    Fraction(5, 1)
    """
    return sum(np.diagonal(matrix))


def squared_norm(x: np.ndarray) -> Any:
    """Return ‖x‖², of a matrix in the Frobenius norm.

    >>> squared_norm(as_fractions([[3, 0], [0, 4]]))
    Fraction(25, 1)
    """
    return (x * x).sum()


# ---- Numbers ----


def one_like(x: Any) -> Any:
    """Return 1 in the kind of number of x.

    >>> one_like(Fraction(2, 3)), one_like(0.5)
    (Fraction(1, 1), 1.0)
    """
    return 0 * x + 1


class Dual:
    """a + b ε with ε² = 0: derivatives of rational functions without rounding, forward mode.

    >>> x = Dual(Fraction(3), Fraction(1))  # d(x² + 1/x)/dx = 2 x - 1/x²
    >>> (x * x + 1 / x).slope
    Fraction(53, 9)
    """

    __slots__ = ("slope", "value")

    def __init__(self, value: Any, slope: Any = Fraction(0)) -> None:
        self.value, self.slope = value, slope

    @staticmethod
    def of(other: Any) -> Dual:
        """Return a number as a constant."""
        return other if isinstance(other, Dual) else Dual(other)

    def __add__(self, other: Any) -> Dual:
        other = Dual.of(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other: Any) -> Dual:
        other = Dual.of(other)
        return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def __truediv__(self, other: Any) -> Dual:
        other = Dual.of(other)
        value = self.value / other.value
        return Dual(value, (self.slope - value * other.slope) / other.value)

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    def __sub__(self, other: Any) -> Dual:
        return self + (-Dual.of(other))

    def __rsub__(self, other: Any) -> Dual:
        return Dual.of(other) - self

    def __rtruediv__(self, other: Any) -> Dual:
        return Dual.of(other) / self

    __radd__, __rmul__ = __add__, __mul__


def duals(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Return an array of dual numbers."""
    out = np.empty(values.shape, dtype=object)
    for index in np.ndindex(values.shape):
        out[index] = Dual(values[index], slopes[index])
    return out


def map_numbers(function: Callable[[Any], Any], value: Any) -> Any:
    """Return an instance with a function of its fractions: in arrays, sequences, mappings and dataclasses.

    >>> map_numbers(lambda x: 2 * x, {"half": Fraction(1, 2), "list": [Fraction(1, 4), "name", 3]})
    {'half': Fraction(1, 1), 'list': [Fraction(1, 2), 'name', 3]}
    """
    if isinstance(value, (Fraction, RationalInterval)):
        return function(value)
    if isinstance(value, np.ndarray) and value.dtype == object:
        numbers = [function(x) for x in value.ravel()]
        kind = float if all(isinstance(x, float) for x in numbers) else object
        return np.array(numbers, dtype=kind).reshape(value.shape)
    if isinstance(value, dict):
        return {key: map_numbers(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_numbers(function, item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        mapped = {f.name: map_numbers(function, getattr(value, f.name)) for f in fields(value) if f.init}
        return replace(value, **mapped)
    return value


def as_float(value: Any) -> Any:
    """Return an instance with every fraction as a float.

    >>> as_float({"half": Fraction(1, 2), "list": [Fraction(1, 4)]})
    {'half': 0.5, 'list': [0.25]}
    """
    return map_numbers(float, value)
