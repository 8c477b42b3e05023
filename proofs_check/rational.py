"""Linear algebra over the rationals: products, solutions, ranks, and semidefiniteness with a witness."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from operator import mul
from typing import Any

Vector = list[Any]  # of int or Fraction
Matrix = list[list[Any]]


def matrix(rows: Sequence[Sequence[int | Fraction]]) -> Matrix:
    """Rows as fractions."""
    return [[Fraction(entry) for entry in row] for row in rows]


def identity(n: int) -> Matrix:
    """Return the n x n identity."""
    return [[Fraction(i == j) for j in range(n)] for i in range(n)]


def transpose(a: Matrix) -> Matrix:
    """Rows become columns."""
    return [list(column) for column in zip(*a, strict=True)]


def product(*factors: Matrix) -> Matrix:
    """Return the product of matrices, from the left.

    >>> product([[1, 2]], [[3], [4]], [[2]])
    [[22]]
    """
    result = factors[0]
    for factor in factors[1:]:
        if any(len(row) != len(factor) for row in result):
            raise ValueError("the shapes of the factors do not fit")
        columns = transpose(factor)
        result = [[sum(map(mul, row, column)) for column in columns] for row in result]
    return result


def combination(*terms: tuple[Any, Matrix]) -> Matrix:
    """Return sum_k c_k A_k of pairs (c_k, A_k).

    >>> combination((1, identity(2)), (-2, [[0, 1], [1, 0]])) == [[1, -2], [-2, 1]]
    True
    """
    rows, columns = range(len(terms[0][1])), range(len(terms[0][1][0]))
    if any(len(a) != len(rows) or any(len(row) != len(columns) for row in a) for _, a in terms):
        raise ValueError("the shapes of the terms do not fit")
    return [[sum((c * a[i][j] for c, a in terms), Fraction()) for j in columns] for i in rows]


def inner(u: Sequence[Any], v: Sequence[Any]) -> Any:
    """Return sum_i u_i v_i."""
    if len(u) != len(v):
        raise ValueError(f"vectors of {len(u)} and {len(v)} entries have no inner product")
    return sum(map(mul, u, v), Fraction())


def reduced(a: Matrix) -> tuple[Matrix, list[int]]:
    """Reduced row echelon form of a, and its pivot columns.

    >>> rows, pivots = reduced(matrix([[1, 2], [2, 4]]))
    >>> rows == [[1, 2], [0, 0]], pivots
    (True, [0])
    """
    a, pivots = [row[:] for row in a], []
    for column in range(len(a[0]) if a else 0):
        top = len(pivots)
        row = next((i for i in range(top, len(a)) if a[i][column]), None)
        if row is None:
            continue
        a[top], a[row] = a[row], a[top]
        a[top] = [entry / a[top][column] for entry in a[top]]
        for i, other in enumerate(a):
            if i != top and other[column]:
                a[i] = [x - other[column] * y for x, y in zip(other, a[top], strict=True)]
        pivots.append(column)
    return a, pivots


def rank(a: Matrix) -> int:
    """Rank of a."""
    return len(reduced(a)[1])


def solve(a: Matrix, b: Matrix) -> Matrix:
    """Return X with a X = b for an invertible a.

    >>> solve(matrix([[1, 2], [3, 4]]), identity(2)) == [[-2, 1], [Fraction(3, 2), Fraction(-1, 2)]]
    True

    Raises:
        ZeroDivisionError: if a is singular.

    """
    n = len(a)
    rows, pivots = reduced([left + right for left, right in zip(a, b, strict=True)])
    if pivots[:n] != list(range(n)):
        raise ZeroDivisionError("the matrix is singular")
    return [row[n:] for row in rows]


def quadratic(a: Matrix, v: Sequence[Any]) -> Any:
    """Return v' a v."""
    return inner(v, [inner(row, v) for row in a])


def semidefinite(a: Matrix) -> tuple[int, Vector | None]:
    """Decide whether the symmetric matrix a is positive semidefinite.

    Fraction-free symmetric elimination (Bareiss, 1968) on a times its common denominator: every Schur
    complement of a semidefinite matrix has a diagonal >= 0, and a zero there stands in a zero row.

    >>> semidefinite(matrix([[1, 1], [1, 1]]))
    (1, None)
    >>> rank, v = semidefinite(matrix([[1, 2], [2, 1]]))
    >>> quadratic([[1, 2], [2, 1]], v)
    Fraction(-3, 1)

    Returns:
        the rank and None if a is semidefinite; otherwise the number of pivots so far and v with v' a v < 0.

    Raises:
        ValueError: if a is not square and symmetric.

    """
    n = len(a)
    if any(len(row) != n for row in a) or any(a[i][j] != a[j][i] for i in range(n) for j in range(i)):
        raise ValueError("the matrix is not square and symmetric")
    scale = lcm(*(entry.denominator for row in a for entry in row)) if n else 1
    s = [[int(entry * scale) for entry in row] for row in a]
    pivots, previous = [], 1
    for k in range(n):
        pivot = s[k][k]
        if pivot < 0:
            return len(pivots), _lifted(a, pivots, {k: Fraction(1)})
        if pivot == 0:
            j = next((j for j in range(k + 1, n) if s[k][j]), None)
            if j is not None:  # (alpha e_k + e_j)' S (alpha e_k + e_j) = 2 alpha s_kj + s_jj = -1
                return len(pivots), _lifted(
                    a, pivots, {k: Fraction(-1 - s[j][j], 2 * s[k][j]), j: Fraction(1)}
                )
            continue
        for i in range(k + 1, n):
            factor = s[k][i]
            for j in range(i, n):
                s[i][j] = s[j][i] = (pivot * s[i][j] - factor * s[k][j]) // previous
        pivots.append(k)
        previous = pivot
    return len(pivots), None


def _lifted(a: Matrix, pivots: list[int], w: dict[int, Fraction]) -> Vector:
    """Return the vector that is w outside the pivots and minimizes v' a v over the pivots."""
    right = [[-sum((a[i][j] * c for j, c in w.items()), Fraction())] for i in pivots]
    head = solve([[a[i][j] for j in pivots] for i in pivots], right) if pivots else []
    v = [Fraction()] * len(a)
    for i, (value,) in zip(pivots, head, strict=True):
        v[i] = value
    for j, c in w.items():
        v[j] = c
    return v
