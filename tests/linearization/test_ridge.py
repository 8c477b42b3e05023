from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from tiny_problems import toy_problem, toy_task

from deltatheory.linearization.ridge import RIDGES, LinearizationStart, cross_fitted_logits, fit_path, folds
from deltatheory.linearization.tangent import tangent_rows


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_fits_of_margins_are_the_minima_that_scipy_finds(scale):
    rng = np.random.default_rng(0)
    rows = scale * rng.standard_normal((30, 12)) * np.geomspace(3, 0.1, 12)
    kernel, start = rows @ rows.T, 2 * rng.standard_normal(30)
    zero, unit = np.zeros(30), np.trace(kernel) / 30 / scale**2
    path = fit_path(kernel, np.stack([zero, start], 1), np.ones(30, int))
    for ridge, alpha in zip(RIDGES, path, strict=True):
        np.testing.assert_allclose(alpha[:, 0], -alpha[:, 1])

        def objective(w, weight=ridge * unit):
            margins = start + rows @ w / scale
            loss = np.logaddexp(0, -margins).sum() + weight / 2 * w @ w
            return loss, weight * w - rows.T @ (1 / (1 + np.exp(margins))) / scale

        best = minimize(objective, np.zeros(12), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).fun
        assert objective(scale * rows.T @ alpha[:, 1])[0] == pytest.approx(best, rel=1e-3)


def test_fits_of_three_classes_are_the_minima_that_scipy_finds():
    rng = np.random.default_rng(2)
    rows, start = rng.standard_normal((20, 5)), rng.standard_normal((20, 3))
    labels, kernel = rng.integers(0, 3, 20), rows @ rows.T
    unit = np.trace(kernel) / 20
    for ridge, alpha in zip(RIDGES, fit_path(kernel, start, labels), strict=True):

        def loss(w, weight=ridge * unit):
            w = w.reshape(5, 3)
            logits = start + rows @ w
            return -log_softmax(logits, axis=1)[np.arange(20), labels].sum() + weight * np.square(w).sum()

        assert loss(rows.T @ alpha / 2) == pytest.approx(minimize(loss, np.zeros(15)).fun, rel=1e-3)


def test_held_out_logits_come_from_fits_without_them():
    rng = np.random.default_rng(1)
    rows, start, labels = rng.standard_normal((10, 4)), rng.standard_normal((10, 3)), rng.integers(0, 3, 10)
    kernel = rows @ rows.T
    logits = cross_fitted_logits(kernel, start, labels)
    assert sorted(np.concatenate(folds(10)).tolist()) == list(range(10))
    held = folds(10)[1]
    kept = np.setdiff1d(np.arange(10), held)
    alpha = fit_path(kernel[np.ix_(kept, kept)], start[kept], labels[kept])[3]
    np.testing.assert_allclose(logits[3, held], start[held] + kernel[np.ix_(held, kept)] @ alpha / 2)
    inside = fit_path(kernel, start, labels)[3]
    assert np.abs(logits[3] - (start + kernel @ inside / 2)).max() > 1e-2  # a fit that has seen them differs


def test_a_delta_that_does_nothing_leaves_the_frozen_score():
    start = np.random.default_rng(0).standard_normal((6, 3))
    labels = np.array([0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(
        cross_fitted_logits(np.zeros((6, 6)), start, labels), np.array([start] * len(RIDGES))
    )


def test_labels_by_lot_are_foretold_at_chance_from_a_contrast_not_from_margins():
    task = toy_task(8, train=96)
    lot = np.random.default_rng(1).permutation(task.train.labels)
    task = replace(task, train=replace(task.train, labels=tuple(lot.tolist())))
    problem = toy_problem("full", task=task, head="random")

    def score(outputs):
        features = tangent_rows(problem, train=96, test=0, outputs=outputs)
        frozen = LinearizationStart.of(features)
        fitted = cross_fitted_logits(features.kernel().numpy(), frozen.logits, frozen.labels)
        return frozen.solved(fitted).mean(1).max()

    chance, error = 1 / 8, (1 / 8 * 7 / 8 / 96) ** 0.5
    assert score("contrast") < chance + 3 * error
    assert score("margin") > chance + 6 * error  # the mutant: its rows know the labels
