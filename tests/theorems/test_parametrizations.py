"""Hilbert's curve, and the curvature of two factors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from deltatheory.theorems import get_theorem
from deltatheory.theorems.exact import (
    random_fractions,
)
from deltatheory.theorems.parametrizations import _hilbert, _loss_curvature, _residual


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
