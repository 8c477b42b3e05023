"""Exact laws of Gaussian columns and of caps agree with draws."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from deltatheory.theorems import get_theorem
from deltatheory.theorems.random_embeddings import _width, smallest_eigenvalue_tail


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
