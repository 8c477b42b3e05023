"""Advice before training: its fits, its intervals and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from deltatheory import advice


def test_the_ridge_path_is_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 12)) * np.geomspace(3, 0.1, 12)
    kernel, start = rows @ rows.T, 2 * rng.standard_normal(30)
    scale = np.trace(kernel) / 30
    for ridge, alpha in zip(advice._RIDGES, advice.fit_path(kernel, start), strict=True):

        def objective(w, weight=ridge * scale):
            margins = start + rows @ w
            loss = np.logaddexp(0, -margins).sum() + weight / 2 * w @ w
            return loss, weight * w - rows.T @ (1 / (1 + np.exp(margins)))

        best = minimize(objective, np.zeros(12), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).fun
        assert objective(rows.T @ alpha)[0] == pytest.approx(best, rel=1e-3)


def test_a_delta_that_does_nothing_leaves_the_frozen_score():
    start = np.array([1.0, -1.0, 2.0, 0.5])
    solved = advice._cross_fit(np.zeros((4, 4)), start, np.zeros(4))
    assert (solved == (start > 0)).all()
