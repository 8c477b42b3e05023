"""Splines are integrals of their derivatives, and their constants are those of brute force."""

from __future__ import annotations

from fractions import Fraction

import pytest

from deltatheory.theorems.splines import Spline, huber, parabola

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
