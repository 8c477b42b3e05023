"""PL without convexity, and what has no minimum."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from deltatheory.theorems.exact import (
    as_fractions,
    random_fractions,
)
from deltatheory.theorems.loss_functions import Curve, Separable
from deltatheory.theorems.splines import Spline


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
