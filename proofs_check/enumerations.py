"""Statements checked over every case of a finite range, exactly.

An enumeration is a function of a range [first, last] and of the constant that is claimed; it yields pairs
(case in words, does it hold), with None where intervals of 128 bits do not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, combinations, product
from math import comb, factorial
from operator import mul

from proofs_check.intervals import Interval, enclose, exp
from proofs_check.rational import rank

Cases = Iterator[tuple[str, bool | None]]


def _at_most(a: Interval, b: Interval) -> bool | None:
    return True if a.hi <= b.lo else False if a.lo > b.hi else None


def coordinate_projectors(first: int, last: int, c: Fraction) -> Cases:
    """T06: the mean of the C(D, d) coordinate projectors of rank d is c (d/D) I, with c = 1.

    >>> list(coordinate_projectors(2, 2, Fraction(1)))
    [('D=2, d=1', True), ('D=2, d=2', True)]
    """
    for D in range(first, last + 1):
        for d in range(1, D + 1):
            counts = [0] * D
            for chosen in combinations(range(D), d):
                for i in chosen:
                    counts[i] += 1
            yield f"D={D}, d={d}", all(Fraction(count, comb(D, d)) == c * Fraction(d, D) for count in counts)


def expected_gap(first: int, last: int, c: Fraction) -> Cases:
    """T07: Over coordinate projectors: the mean of ||Qv||^2 is c (1 - d/D) ||v||^2, with c = 1."""
    for D in range(first, last + 1):
        v = [i * i for i in range(1, D + 1)]
        for d in range(1, D + 1):
            lost = sum(sum(v) - sum(v[i] for i in chosen) for chosen in combinations(range(D), d))
            yield f"D={D}, d={d}", Fraction(lost, comb(D, d)) == c * (1 - Fraction(d, D)) * sum(v)


def quadratic_threshold(first: int, last: int, c: Fraction) -> Cases:
    """T08: for H = diag(1..k, 0..0) a subspace in general position has the minimum iff d >= c k, c = 1.

    The minimum over x0 + range A is reached iff H x0 lies in the range of H A. The columns of A and x0 are
    Vandermonde vectors of different nodes (4, 5, ... and 3), so any k of them are independent.
    """
    for D in range(first, last + 1):
        for k in range(1, D + 1):
            for d in range(1, D + 1):
                columns = [[Fraction((i + 1) * (4 + j) ** i) for j in range(d)] for i in range(k)]
                augmented = [[*row, Fraction((i + 1) * 3**i)] for i, row in enumerate(columns)]
                reached = rank(columns) == rank(augmented)
                yield f"D={D}, Hessian rank {k}, d={d}", reached == (d >= c * k)


def chi_square_tails(first: int, last: int, c: Fraction) -> Cases:
    """T11: both tails of chi^2_d/d at 1 +- eps are <= c ((1 + eps) exp(-eps))^(d/2), with c = 1, even d.

    P(chi^2_d > x) = exp(-x/2) sum_{j < d/2} (x/2)^j / j!, a Poisson sum; eps = 1/10, ..., 9/10.
    """
    for d in range(first + first % 2, last + 1, 2):
        for tenth in range(1, 10):
            eps = Fraction(tenth, 10)
            bound = exp(enclose(-eps * d / 2)) * enclose(c * (1 + eps) ** (d // 2))
            for side, x in (("above", d * (1 + eps)), ("below", d * (1 - eps))):
                half = x / 2
                above = exp(enclose(-half)) * enclose(sum(half**j / factorial(j) for j in range(d // 2)))
                tail = above if side == "above" else enclose(1) - above
                yield f"d={d}, eps={eps}, {side}", _at_most(tail, bound)


def gradient_capture(first: int, last: int, c: Fraction) -> Cases:
    """T12: P(Beta(d/2, (D-d)/2) <= beta d/D)^2 <= c (exp(1-beta) beta)^d, with c = 1; even d and D - d.

    For integers a, b the Beta law is binomial: P(Beta(a, b) <= x) = P(Binomial(a+b-1, x) >= a).
    """
    for D in range(first + first % 2, last + 1, 2):
        for d in range(2, D, 2):
            for tenth in range(1, 10):
                beta, a = Fraction(tenth, 10), d // 2
                x, n = beta * d / D, D // 2 - 1
                tail = sum(comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1))
                left, right = enclose(tail * tail), exp(enclose((1 - beta) * d)) * enclose(c * beta**d)
                yield f"D={D}, d={d}, beta={beta}", _at_most(left, right)


def hoeffding(first: int, last: int, c: Fraction) -> Cases:
    """T18: All but the union bound: P(Bin(n, p) <= k) <= exp(-c (np - k)^2 / n), with c = 2, k < np."""
    for n in range(first, last + 1):
        for tenth in range(1, 10):
            p = Fraction(tenth, 10)
            law = [comb(n, k) * tenth**k * (10 - tenth) ** (n - k) for k in range(n + 1)]
            for k, below in enumerate(accumulate(law)):
                if k < n * p:
                    bound = exp(enclose(-c * (n * p - k) ** 2 / n))
                    yield f"n={n}, p={p}, k={k}", _at_most(enclose(Fraction(below, 10**n)), bound)


def maurer(first: int, last: int, c: Fraction) -> Cases:
    """T19: xi(n) = sum_k C(n,k) (k/n)^k (1-k/n)^(n-k) has xi(n)^2 <= c n, with c = 4.

    >>> [holds for _, holds in maurer(1, 3, Fraction(4))], [holds for _, holds in maurer(1, 1, Fraction(3))]
    ([True, True, True], [False])
    """
    for n in range(first, last + 1):
        xi = sum(comb(n, k) * k**k * (n - k) ** (n - k) for k in range(n + 1))
        yield f"n={n}", xi * xi <= c * n * n ** (2 * n)


def two_directions(first: int, last: int, c: Fraction) -> Cases:
    """T49: if min F' <= F + e and min F <= F' + e everywhere, |min F - min F'| <= c e, with c = 1.

    Over all tables of two values from 0 to n, and e from 0 to n.
    """
    for n in range(first, last + 1):
        tables = list(product(range(n + 1), repeat=2))
        for full, other in product(tables, tables):
            for e in range(n + 1):
                if all(min(other) <= f + e for f in full) and all(min(full) <= f + e for f in other):
                    yield f"{full} and {other}, e={e}", abs(min(full) - min(other)) <= c * e


def _signs(r: int, n: int) -> Iterator[Sequence[Sequence[int]]]:
    """Return all r x n matrices of signs."""
    return product(product((-1, 1), repeat=n), repeat=r)


def sign_moments(first: int, last: int, c: Fraction) -> Cases:
    """T55: over all r x n matrices A of signs the mean of A'A is rI, of (A'A)^2 c r (r+n-1) I, with c = 1."""
    for r, n in product(range(first, last + 1), repeat=2):
        grams = [_products(zip(*a, strict=True), zip(*a, strict=True)) for a in _signs(r, n)]
        squares = [_products(gram, gram) for gram in grams]
        holds = all(
            sum(gram[i][j] for gram in grams) == r * (i == j) * len(grams)
            and sum(square[i][j] for square in squares) == c * r * (r + n - 1) * (i == j) * len(grams)
            for i, j in product(range(n), repeat=2)
        )
        yield f"r={r}, n={n}", holds


def _products(rows: Iterable[Sequence[int]], columns: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return the inner products of rows with columns."""
    columns = list(columns)
    return [[sum(map(mul, row, column)) for column in columns] for row in rows]


def kernel_variance(first: int, last: int, c: Fraction) -> Cases:
    """T56: sum_i a_i'Ma_i / r over all signs a_i has mean tr M, variance c (|M|^2 + tr M^2 - 2 sum M_jj^2)/r.

    With c = 1 and M_ij = i^2 + 3 j, counted from 1: a fixed matrix that is not symmetric.
    """
    for r, n in product(range(first, last + 1), range(2, last + 2)):
        M = [[i * i + 3 * j for j in range(1, n + 1)] for i in range(1, n + 1)]
        forms = [sum(sum(map(mul, row, a)) * x for row, x in zip(M, a, strict=True)) for (a,) in _signs(1, n)]
        values = [sum(chosen) for chosen in product(forms, repeat=r)]
        mean = Fraction(sum(values), len(values))
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        spread = sum(M[i][j] * (M[i][j] + M[j][i]) for i in range(n) for j in range(n) if i != j)
        yield f"r={r}, n={n}", mean == r * sum(M[i][i] for i in range(n)) and variance == c * r * spread


@dataclass(frozen=True)
class Enumeration:
    """A statement with a constant, over the cases of a range.

    Args:
        cases: first, last, constant -> the cases.
        span: first and last that a certificate has to cover at least.
        constant: that of the theorem.
        stronger: the sign of a change of the constant that makes the claim stronger, as mutants do.
        tight: whether every stronger claim is false within the span.
        most: how far a certificate may ask to go.

    """

    cases: Callable[[int, int, Fraction], Cases]
    span: tuple[int, int]
    constant: int
    stronger: int
    tight: bool
    most: int


ENUMERATIONS = {
    "coordinate_projectors": Enumeration(coordinate_projectors, (1, 10), 1, 1, True, 12),
    "expected_gap": Enumeration(expected_gap, (1, 10), 1, -1, True, 12),
    "quadratic_threshold": Enumeration(quadratic_threshold, (1, 7), 1, 1, True, 10),
    "chi_square_tails": Enumeration(chi_square_tails, (2, 60), 1, -1, False, 100),
    "gradient_capture": Enumeration(gradient_capture, (4, 40), 1, -1, False, 60),
    "hoeffding": Enumeration(hoeffding, (1, 24), 2, 1, False, 50),
    "maurer": Enumeration(maurer, (1, 300), 4, -1, True, 500),
    "two_directions": Enumeration(two_directions, (1, 3), 1, -1, True, 5),
    "sign_moments": Enumeration(sign_moments, (1, 3), 1, -1, True, 3),
    "kernel_variance": Enumeration(kernel_variance, (1, 3), 1, -1, True, 3),
}
