"""Rational linear algebra and dual numbers against numpy and closed forms."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from deltatheory.theorems.exact import (
    Dual,
    as_float,
    as_fractions,
    det,
    eye,
    inverse,
    is_psd,
    projector,
    random_fractions,
    random_orthogonal,
    rank,
    solve,
)


@pytest.mark.parametrize("seed", range(5))
def test_linear_algebra_agrees_with_numpy(seed) -> None:
    rng = np.random.default_rng(seed)
    M, b = random_fractions(rng, 4, 4), random_fractions(rng, 4)
    floats = as_float(M)
    assert float(det(M)) == pytest.approx(np.linalg.det(floats), abs=1e-9)
    assert rank(M) == np.linalg.matrix_rank(floats)
    if det(M) != 0:
        assert np.all(M @ solve(M, b) == b)
        assert np.all(M @ inverse(M) == eye(4))
    U = random_orthogonal(rng, 3)
    assert np.all(eye(3) == U.T @ U)
    P = projector(M[:, :2])
    assert np.all(P @ P == P)
    assert np.all(P == P.T)


def test_singular_systems() -> None:
    M = as_fractions([[1, 2], [2, 4]])
    assert np.all(M @ solve(M, as_fractions([1, 2])) == as_fractions([1, 2]))
    with pytest.raises(ValueError, match="no solution"):
        solve(M, as_fractions([1, 3]))


@pytest.mark.parametrize("seed", range(20))
def test_is_psd_agrees_with_eigenvalues(seed) -> None:
    rng = np.random.default_rng(seed)
    root = random_fractions(rng, 3, 2)
    M = root @ root.T  # singular
    assert is_psd(M)
    assert not is_psd(M - eye(3) / 10**9)
    shifted = M - eye(3) * Fraction(seed, 7)
    assert is_psd(shifted) == (np.linalg.eigvalsh(as_float(shifted))[0] > -1e-12)


def test_fractions_never_overflow() -> None:
    assert as_fractions(np.array([2**62]))[0] * 8 == 2**65


def test_dual_numbers_differentiate() -> None:
    x = Dual(Fraction(3), Fraction(1))
    y = (2 * x * x - 1) / (x + 1) + 1 / x - x
    assert y.value == Fraction(17, 4) + Fraction(1, 3) - 3
    assert y.slope == Fraction(12 * 4 - 17, 16) - Fraction(1, 9) - 1
