from __future__ import annotations

import math

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem

from deltatheory import autodiff
from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.objective import Objective
from deltatheory.control.solvers.sampled import SampledGaussNewton, _woodbury, fisher_rows
from deltatheory.deltas import make_delta
from deltatheory.tasks import Examples, Task

pytest.importorskip("rouge_score")
from deltatheory.problems import GenerationProblem


@pytest.fixture(scope="module")
def problem() -> GenerationProblem:
    texts = ("a b c", "d e", "f a b d", "c", "e f g", "h a")
    targets = ("b c", "e f g", "a", "d e", "f", "a b c")
    examples = Examples(texts, targets=targets)
    task = Task("echo", "generation", (), examples, examples.subset([0]), examples.subset([1]), {})
    backbone = tiny("gpt2", dtype=torch.float64)
    delta = make_delta("prefix", backbone, length=2, gate="values")
    return GenerationProblem(backbone, task, delta, max_new_tokens=4, check=False)


def drawn(problem, seed=0):
    generator = torch.Generator().manual_seed(seed)
    at = 0.3 * torch.randn(problem.delta.size, generator=generator, dtype=torch.float64)
    return at, generator


def test_loss_and_gradient_are_exact(problem):
    objective, (at, generator) = Objective(problem), drawn(problem)
    loss, right, finish = fisher_rows(objective, at, generator)
    cost, metric, gradient = objective.gradient(at)
    assert (loss, right) == pytest.approx((cost, metric), abs=1e-12)
    torch.testing.assert_close(finish()[0], gradient)


def test_rows_estimate_the_gauss_newton_matrix(problem):
    objective, (at, generator) = Objective(problem), drawn(problem)
    batch, labels = problem.batch(problem.train, range(len(problem.train)))
    where = labels >= 0
    direction = torch.randn(len(at), generator=generator, dtype=torch.float64)
    exact = float(
        direction
        @ autodiff.gauss_newton_product(
            lambda x: problem._next_tokens(batch, where, problem.delta.edit(x)),
            lambda z: torch.nn.functional.cross_entropy(z, labels[where]),
            at,
            direction,
        )
    )
    values = torch.tensor(
        [float((fisher_rows(objective, at, generator)[2]()[1] @ direction).square().sum()) for _ in range(80)]
    )
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - exact) < 3.5 * error
    assert abs(float(values.mean()) - 2 * exact) > 5 * error  # the check can tell a wrong factor


def test_woodbury():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    scale, b = (torch.rand(7, generator=generator, dtype=torch.float64) + 0.1 for _ in "ab")
    dense = torch.linalg.solve(torch.diag(scale) + rows.T @ rows, b)
    torch.testing.assert_close(_woodbury(rows, scale, b), dense)


def test_costs_fall_and_three_passes_are_counted(problem):
    solution = SampledGaussNewton(budget=45.0).solve(problem)
    costs = [row["cost"] for row in solution.history]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.6 * costs[0]
    assert solution.history[0]["passes"] == 3 * len(problem.train)
    assert solution.status is Status.BUDGET
    assert (
        SampledGaussNewton(budget=9.0)
        .solve(problem)
        .value.equal(SampledGaussNewton(budget=9.0).solve(problem).value)
    )


def test_classification_is_refused():
    with pytest.raises(ValueError, match="takes GenerationProblem"):
        SampledGaussNewton().solve(toy_problem("prefix", length=2))
