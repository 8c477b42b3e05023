"""Rational linear algebra and interval arithmetic against numpy, mpmath-free oracles and brute force."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from deltatheory.theorems import get_theorem
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
from deltatheory.theorems.functions import Curve, Separable
from deltatheory.theorems.intervals import RationalInterval, exp, log, magnitude, normal_cdf, normal_pdf, sqrt
from deltatheory.theorems.parametrizations import _hilbert, _loss_curvature, _residual
from deltatheory.theorems.random_embeddings import _width, smallest_eigenvalue_tail
from deltatheory.theorems.random_subspaces import beta_cdf, chi_squared_tail
from deltatheory.theorems.splines import Spline, huber, parabola


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


@pytest.mark.parametrize(
    "x", [Fraction(-7, 3), Fraction(-1, 1000), Fraction(0), Fraction(5, 2), Fraction(40)]
)
def test_intervals_contain_the_value_and_are_narrow(x) -> None:
    for interval, value in (
        (exp(x), math.exp(x)),
        (normal_cdf(x / 8), stats.norm.cdf(float(x / 8))),
        (normal_pdf(x / 8), stats.norm.pdf(float(x / 8))),
        (sqrt(abs(x)), math.sqrt(abs(x))),
        (log(1 + abs(x)), math.log1p(abs(x))),
    ):
        assert float(interval) == pytest.approx(value, rel=1e-14)
        assert interval.high - interval.low <= max(abs(interval.high), 1) * Fraction(1, 2**120)


def test_interval_functions_invert_each_other() -> None:
    for x in (Fraction(1, 3), Fraction(17, 5), Fraction(100)):
        assert exp(log(x)).low <= x <= exp(log(x)).high
        assert log(exp(x)).low <= x <= log(exp(x)).high
        assert (sqrt(x) ** 2).low <= x <= (sqrt(x) ** 2).high
    assert sqrt(Fraction(9, 4)).low == sqrt(Fraction(9, 4)).high == Fraction(3, 2)


def test_interval_arithmetic() -> None:
    a, b = RationalInterval(1, 2), RationalInterval(-3, 4)
    assert ((a - b).low, (a - b).high) == (-3, 5)
    assert ((a * b).low, (a * b).high) == (-6, 8)
    assert ((b**2).low, (b**2).high) == (0, 16)
    assert ((1 / a).low, (1 / a).high) == (Fraction(1, 2), 1)
    assert (magnitude(b).low, magnitude(b).high) == (0, 4)
    assert not a <= b
    assert not a >= b
    assert RationalInterval(0, 1) <= a
    with pytest.raises(ZeroDivisionError):
        a / b
    with pytest.raises(ValueError, match="at most"):
        RationalInterval(2, 1)
    for bad in (log, sqrt):
        with pytest.raises(ValueError, match="must"):
            bad(Fraction(-1))


def test_dual_numbers_differentiate() -> None:
    x = Dual(Fraction(3), Fraction(1))
    y = (2 * x * x - 1) / (x + 1) + 1 / x - x
    assert y.value == Fraction(17, 4) + Fraction(1, 3) - 3
    assert y.slope == Fraction(12 * 4 - 17, 16) - Fraction(1, 9) - 1


def test_tails_agree_with_scipy() -> None:
    assert float(chi_squared_tail(10, Fraction(7))) == pytest.approx(stats.chi2.sf(7, 10))
    assert float(beta_cdf(3, 5, Fraction(2, 5))) == pytest.approx(stats.beta.cdf(0.4, 3, 5))
    with pytest.raises(ValueError, match="even"):
        chi_squared_tail(3, Fraction(1))


@pytest.mark.parametrize("d", [5, 17])
def test_the_smallest_eigenvalue_of_two_columns_agrees_with_draws(d) -> None:
    draws = np.random.default_rng(0).standard_normal((40_000, d, 2))
    least = np.linalg.svd(draws, compute_uv=False)[:, -1] ** 2
    for x in (d / 4, d / 2, float(d)):
        assert smallest_eigenvalue_tail(d, Fraction(x)).low == pytest.approx((least >= x).mean(), abs=0.01)
    assert float(smallest_eigenvalue_tail(d, Fraction(0))) == 1
    with pytest.raises(ValueError, match="odd"):
        smallest_eigenvalue_tail(4, Fraction(1))


def test_a_cap_is_met_as_often_as_drawn_and_its_width_is_not_underestimated() -> None:
    cap = get_theorem("T14").sampler(3) | {"D": 12, "d": 4, "sin2": Fraction(1, 2)}
    g = np.random.default_rng(0).standard_normal((40_000, 12))
    captured = (g[:, :4] ** 2).sum(1) / (g**2).sum(1)
    assert get_theorem("T14").bound(cap).left == pytest.approx((captured >= 0.5).mean(), abs=0.01)
    first, rest = g[:, 0], np.linalg.norm(g[:, 1:], axis=1)
    inside = np.arctan2(rest, first) <= math.pi / 4
    width = np.where(inside, np.hypot(first, rest), (first + rest) / math.sqrt(2)).mean()
    assert width <= _width(12, Fraction(1, 2)) <= width + 0.5


def test_hilbert_steps_from_cell_to_neighbour_and_meets_all() -> None:
    cells = np.array(_hilbert(3))
    assert len({tuple(cell) for cell in cells}) == 64
    assert np.all(abs(np.diff(cells, axis=0)).sum(1) == 1)


def test_the_curvature_of_two_factors_agrees_with_differences() -> None:
    x = get_theorem("X1").sampler(1)
    rng = np.random.default_rng(0)
    X, Y = random_fractions(rng, *x["B"].shape), random_fractions(rng, *x["A"].shape)

    def loss(t):
        return (_residual(x | {"B": x["B"] + t * X, "A": x["A"] + t * Y}) ** 2).sum() / 2

    h = Fraction(1, 10**6)
    assert float((loss(h) - 2 * loss(0) + loss(-h)) / h**2) == pytest.approx(float(_loss_curvature(x, X, Y)))


SPLINES = [
    huber(Fraction(2), Fraction(1)),
    parabola(Fraction(3), Fraction(1)),
    Spline((Fraction(-1), Fraction(1)), (Fraction(2), Fraction(-1), Fraction(3)), Fraction(1), Fraction(0)),
]


@pytest.mark.parametrize("spline", SPLINES)
def test_splines_are_integrals_of_their_derivatives(spline) -> None:
    h = Fraction(1, 10**6)
    for x in (Fraction(-3), Fraction(-1, 3), Fraction(1, 2), Fraction(5)):
        slope = (spline.value(x + h) - spline.value(x - h)) / (2 * h)
        assert slope == pytest.approx(spline.gradient(x), abs=1e-5)
    grid = [spline.value(Fraction(k, 100)) for k in range(-500, 501)]
    assert spline.value(spline.argmin) <= min(grid)


def test_pl_is_decided_as_brute_force_does() -> None:
    for spline in SPLINES:
        low = spline.value(spline.argmin)
        grid = [Fraction(k, 20) for k in range(-100, 101)]
        for mu in (Fraction(1, 2), Fraction(2), Fraction(3)):
            brute = all(spline.gradient(x) ** 2 >= 2 * mu * (spline.value(x) - low) for x in grid)
            assert spline.is_pl(mu) == brute


def test_a_curve_is_pl_and_its_restriction_is_not() -> None:
    f, stuck = Curve(), as_fractions([1, 2])
    assert f.is_pl(1)
    assert f.gradient(stuck)[0] == 0
    assert f.value(stuck) == Fraction(8, 9)
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = random_fractions(rng, 2)
        assert sum(f.gradient(x) ** 2) >= 2 * f.value(x)


def test_unbounded_splines_are_told() -> None:
    falling = Spline((Fraction(0),), (Fraction(0), Fraction(0)), Fraction(1), Fraction(0))
    with pytest.raises(ValueError, match="not bounded below"):
        Separable((falling,)).minimum  # noqa: B018
