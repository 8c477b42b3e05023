from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from proofs_check.rational import identity, product, quadratic, rank, semidefinite, solve, transpose


def draw(rng: random.Random, rows: int, columns: int) -> list[list[Fraction]]:
    return [[Fraction(rng.randint(-4, 4), rng.randint(1, 3)) for _ in range(columns)] for _ in range(rows)]


def numbers(a: list[list[Fraction]]) -> np.ndarray:
    return np.array([[float(x) for x in row] for row in a])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(30))
def test_semidefinite_agrees_with_eigenvalues_and_gives_a_negative_direction(n: int, seed: int):
    rng = random.Random(seed)
    a = draw(rng, n, n)
    symmetric = [[(a[i][j] + a[j][i]) / 2 for j in range(n)] for i in range(n)]
    thin = draw(rng, max(n - 2, 1), n)
    gram = product(transpose(thin), thin)  # singular for n > 2
    spoiled = [
        [x - Fraction(i == j == n - 1, 10**30) for j, x in enumerate(row)] for i, row in enumerate(gram)
    ]
    for m in (symmetric, gram, spoiled):
        pivots, direction = semidefinite(m)
        if direction is None:
            assert np.linalg.eigvalsh(numbers(m))[0] > -1e-12
            assert pivots == rank(m)
        else:
            assert quadratic(m, direction) < 0
    assert semidefinite(gram) == (rank(thin), None)
    if rank(gram[:-1]) == rank(gram):  # the last direction is not free: 1e-30 less is negative somewhere
        assert semidefinite(spoiled)[1] is not None


@pytest.mark.parametrize("m", [[[0, 1], [1, 0]], [[0, 1], [1, 5]], [[1, 2], [2, 3]], [[-1]]])
def test_indefinite(m: list):
    direction = semidefinite([[Fraction(x) for x in row] for row in m])[1]
    assert direction is not None
    assert quadratic(m, direction) < 0


@pytest.mark.parametrize("m", [[[1, 2], [3, 4]], [[1, 2]], [[1, 2, 3], [2, 1]]])
def test_semidefinite_refuses_what_is_not_symmetric(m: list):
    with pytest.raises(ValueError, match="square and symmetric"):
        semidefinite(m)


def test_solve_and_rank_agree_with_numpy():
    rng = random.Random(1)
    a, b = draw(rng, 4, 4), draw(rng, 4, 2)
    x = solve(a, b)
    assert product(a, x) == b
    np.testing.assert_allclose(numbers(x), np.linalg.solve(numbers(a), numbers(b)))
    assert rank([*a, a[0]]) == np.linalg.matrix_rank(numbers(a))
    with pytest.raises(ZeroDivisionError):
        solve([a[0], a[0]], identity(2))
