"""Kernels of several candidates from one pass, and the δ that is fitted with one of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem, toy_task

from deltatheory.advice import Candidate
from deltatheory.advice.fits import KernelFit, fitted_delta, kernel_fits
from deltatheory.linearization import linearization_error, ridge
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import Setup, folds

CANDIDATES = (
    Candidate("bitfit"),
    Candidate("lora", {"r": 2}),
    Candidate("lora", {"r": 4, "targets": ["all-linear"]}),
    Candidate("prefix", {"length": 2, "gate": "none"}),
)


def test_one_pass_for_all_gives_each_its_own_kernel(monkeypatch):
    given: list[bool] = []
    monkeypatch.setattr("deltatheory.advice.fits.give_back", lambda: given.append(True))
    setup = Setup(tiny("bert"), toy_task(2, train=16))
    deltas = [setup.delta(c.method, **c.options) for c in CANDIDATES]
    fits, passes = kernel_fits(setup, deltas)
    assert given  # the memory of the factors
    assert passes == 2 * 16 * 3
    for fit, delta in zip(fits, deltas, strict=True):
        problem = setup.classification(delta, check=False)
        alone = tangent_rows(problem, train=16, test=0, outputs="contrast")
        np.testing.assert_allclose(fit.kernel, alone.kernel(), rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(fit.start.logits, alone.start.logits, rtol=1e-4, atol=1e-5)
    assert len(fits[1].modules) == 4  # query and value of two blocks
    assert not np.allclose(fits[0].kernel, fits[1].kernel, rtol=0.1)


def fitted(classes: int, count: int = 32):
    """A problem in float64, the fit of its kernel, and its first fold."""
    problem = toy_problem("bitfit", dtype=torch.float64, task=toy_task(classes, train=count))
    (fit,), _ = kernel_fits(Setup.of(problem), [problem.delta])
    return problem, fit, *folds(count, ridge.FOLDS)[0]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fit_is_judged_by_the_network_too(monkeypatch, classes):
    """At a small δ linearized and true logits agree, whatever the number of classes; at a large one not."""
    problem, fit, _, held = fitted(classes)
    monkeypatch.setattr(ridge, "RIDGES", np.array([1e4]))
    small = fitted_delta(problem, fit)
    assert linearization_error(problem, small, held) < 0.05
    assert linearization_error(problem, 1e6 * small, held) > 0.5


def test_the_fitted_delta_is_that_of_the_kernel(monkeypatch):
    """J δ = ½Kα on the fold that was left out, where the contrast's kernel is that of all logits."""
    monkeypatch.setattr(ridge, "RIDGES", np.array([1.0]))
    problem, fit, kept, held = fitted(2)
    (alpha,) = ridge.fit_path(fit.kernel[kept][:, kept], fit.start.subset(kept))
    batch, _ = problem.batch(problem.train, held)
    before = problem.passes
    delta = fitted_delta(problem, fit)
    assert problem.passes - before == 3 * len(kept)
    _, moved = problem.jvp(problem.delta.initial(), delta, batch)
    expected = fit.kernel[held][:, kept] @ alpha / 2
    np.testing.assert_allclose(moved - moved.mean(1, keepdim=True), expected, rtol=1e-6, atol=1e-9)


def test_texts_of_like_length_are_fitted_together(monkeypatch):
    problem, fit, kept, _ = fitted(2)
    monkeypatch.setattr("deltatheory.advice.fits._CHUNK", 4)
    taken, batch = [], problem.batch
    monkeypatch.setattr(problem, "batch", lambda split, chosen: taken.append(chosen) or batch(split, chosen))
    fitted_delta(problem, fit)
    order = [i for chunk in taken for i in chunk]
    assert sorted(order) == sorted(kept)
    assert (np.diff(problem.train.lengths[order]) >= 0).all()


def test_in_place_deltas_are_fitted_as_well(monkeypatch):
    """Full fine-tuning writes θ into the model; θ₀ stands there again afterwards. Few texts have room."""
    problem = toy_problem("full", task=toy_task(2, train=16))
    (fit,), _ = kernel_fits(Setup.of(problem), [problem.delta])
    before = {name: p.clone() for name, p in problem.backbone.model.named_parameters()}
    taken, batch = [], problem.batch
    monkeypatch.setattr(problem, "batch", lambda split, chosen: taken.append(chosen) or batch(split, chosen))
    assert fitted_delta(problem, fit).norm() > 0
    assert max(map(len, taken)) == 2
    assert all(torch.equal(p, before[name]) for name, p in problem.backbone.model.named_parameters())


def test_a_score_is_that_of_the_best_ridge():
    """K = 0 leaves the frozen logits, two of three right, whatever the ridge."""
    start = fitted(2)[1].start.subset(range(3))
    logits = torch.eye(2, dtype=torch.float64)[start.labels]
    logits[0] = logits[0].flip(0)
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    frozen = KernelFit({"": zeros}, type(start)(logits, start.labels, 0 * logits))
    assert frozen.score() == pytest.approx(2 / 3)
