from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from tiny_problems import toy_problem, toy_task

from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.ridge import FOLDS, RIDGES, cross_fitted_logits, fit_path
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems.folds import folds


def start_at(logits, labels) -> LinearizationStart:
    logits = torch.as_tensor(logits)
    return LinearizationStart(logits, torch.as_tensor(labels), torch.zeros_like(logits))


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_fits_of_margins_are_the_minima_that_scipy_finds(scale):
    rng = np.random.default_rng(0)
    rows = scale * rng.standard_normal((30, 12)) * np.geomspace(3, 0.1, 12)
    kernel, start = rows @ rows.T, 2 * rng.standard_normal(30)
    zero, unit = np.zeros(30), np.trace(kernel) / 30 / scale**2
    path = fit_path(torch.from_numpy(kernel), start_at(np.stack([zero, start], 1), np.ones(30, int))).numpy()
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
    path = fit_path(torch.from_numpy(kernel), start_at(start, labels)).numpy()
    for ridge, alpha in zip(RIDGES, path, strict=True):

        def loss(w, weight=ridge * unit):
            w = w.reshape(5, 3)
            logits = start + rows @ w
            return -log_softmax(logits, axis=1)[np.arange(20), labels].sum() + weight * np.square(w).sum()

        assert loss(rows.T @ alpha / 2) == pytest.approx(minimize(loss, np.zeros(15)).fun, rel=1e-3)


def test_held_out_logits_come_from_fits_without_them():
    rng = np.random.default_rng(1)
    rows = torch.from_numpy(rng.standard_normal((10, 4)))
    start = start_at(rng.standard_normal((10, 3)), rng.integers(0, 3, 10))
    kernel = rows @ rows.T
    logits = cross_fitted_logits(kernel, start)
    kept, held = folds(10, FOLDS)[1]
    alpha = fit_path(kernel[kept][:, kept], start.subset(kept))[3]
    torch.testing.assert_close(logits[3, held], start.logits[held] + kernel[held][:, kept] @ alpha / 2)
    inside = fit_path(kernel, start)[3]
    # A fit that has seen them differs.
    assert (logits[3] - (start.logits + kernel @ inside / 2)).abs().max() > 1e-2


def test_one_example_is_pulled_by_what_its_neighbour_lacks():
    """n = 2 of the same text, unequal labels: each is held out once and gets ½K times the other's α."""
    start = start_at(np.zeros((2, 2)), np.array([0, 1]))
    logits = cross_fitted_logits(torch.ones(2, 2, dtype=torch.float64), start)
    assert (logits[:, 0, 1] > 0).all()  # the other one's label is 1
    torch.testing.assert_close(logits[:, 0], logits[:, 1].flip(-1))


def test_a_delta_that_does_nothing_leaves_the_frozen_score():
    start = np.random.default_rng(0).standard_normal((6, 3))
    fitted = cross_fitted_logits(torch.zeros(6, 6, dtype=torch.float64), start_at(start, [0, 1, 2, 0, 1, 2]))
    np.testing.assert_array_equal(fitted, np.array([start] * len(RIDGES)))


def test_labels_by_lot_are_foretold_at_chance_from_a_contrast_not_from_margins():
    task = toy_task(8, train=96)
    lot = np.random.default_rng(1).permutation(task.train.labels)
    task = replace(task, train=replace(task.train, labels=tuple(lot.tolist())))
    problem = toy_problem("full", task=task, head="random")

    def score(outputs):
        features = tangent_rows(problem, train=96, test=0, outputs=outputs)
        frozen = features.start.double()
        return frozen.solved(cross_fitted_logits(features.kernel(), frozen)).double().mean(1).max()

    chance, error = 1 / 8, (1 / 8 * 7 / 8 / 96) ** 0.5
    assert score("contrast") < chance + 3 * error
    assert score("margin") > chance + 6 * error  # the mutant: its rows know the labels


def test_a_fit_takes_few_evaluations_where_eigenvalues_lie_far_apart(monkeypatch):
    """In units in which curvature is even they are 20 a ridge, in w itself 151."""
    rng, taken = np.random.default_rng(3), []
    rows = rng.standard_normal((60, 40)) * np.geomspace(1, 1e-3, 40)
    start = start_at(rng.standard_normal((60, 3)), rng.integers(0, 3, 60))

    def counted(*given, **named):
        taken.append(minimize(*given, **named))
        return taken[-1]

    monkeypatch.setattr("deltatheory.linearization.ridge.minimize", counted)
    fit_path(torch.from_numpy(rows @ rows.T), start)
    assert sum(found.nfev for found in taken) < 45 * len(RIDGES)
