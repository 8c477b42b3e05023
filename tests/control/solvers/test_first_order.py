from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tiny_problems import first, toy_problem, toy_task

from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.first_order import LBFGS, SGD, Adam
from deltatheory.control.solvers.least_squares import GaussNewton
from deltatheory.control.solvers.objective import Objective
from deltatheory.training.trainer import Training, train


def prefix(examples=24):
    task = first(toy_task(2), examples)
    return toy_problem("prefix", dtype=torch.float64, task=task, length=2, gate="values")


def test_adam_is_the_one_of_kingma_and_ba():
    problem = prefix(6)
    objective = Objective(problem)
    delta, mean, square = problem.delta.initial(), 0.0, 0.0
    for step in range(1, 5):
        gradient = objective.gradient(delta)[2]
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        spread = square / (1 - 0.999**step)
        delta = delta - 0.05 * mean / (1 - 0.9**step) / (spread.sqrt() + 1e-8)
    solution = Adam(learning_rate=0.05, budget=10.0).solve(problem)
    assert len(solution.history) == 5
    assert solution.cost == pytest.approx(objective.value(delta)[0], abs=1e-10)
    torch.testing.assert_close(solution.value, delta)


def test_mini_batches_are_those_of_training():
    problem = prefix()
    training = Training(
        steps=7, batch_size=8, learning_rate=0.2, warmup=0.0, optimizer="sgd", momentum=0.9, seed=3
    )
    reference, delta = train(problem, training), problem.delta.initial()
    solution = SGD(learning_rate=0.2, batch_size=8, seed=3, budget=1.9).solve(problem)
    assert len(solution.history) == 3
    # both start at 0 with the same batch; training also lowers its rate, so only the first loss is the same
    assert solution.history[0]["cost"] == pytest.approx(reference.losses[0])
    assert delta.norm() == 0


def test_momentum_by_hand():
    problem = prefix()
    objective, delta, velocity = Objective(problem), problem.delta.initial(), 0.0
    for _ in range(3):
        velocity = 0.5 * velocity + objective.gradient(delta)[2]
        delta = delta - 0.1 * velocity
    solution = SGD(learning_rate=0.1, momentum=0.5, budget=8.0).solve(problem)
    torch.testing.assert_close(solution.value, delta)


def test_lbfgs_finds_the_optimum_of_scipy():
    problem = prefix(6)
    objective = Objective(problem, energy_weight=0.2)

    def function(d):
        cost, _, gradient = objective.gradient(torch.from_numpy(d))
        return cost, gradient.numpy()

    zero = np.zeros(problem.delta.size)
    best = minimize(function, zero, jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0})
    solution = LBFGS(energy_weight=0.2).solve(problem)
    assert solution.status is Status.CONVERGED
    assert solution.cost == pytest.approx(best.fun, abs=1e-8)
    assert Adam(energy_weight=0.2, budget=5.0).solve(problem).cost > best.fun + 1e-4


@pytest.mark.parametrize("solver", [LBFGS(energy_weight=0.2), GaussNewton(energy_weight=0.2)])
def test_an_optimum_is_one_wherever_the_run_started(solver):
    """At the optimum no derivative is a share of the first; from afar a share of the first is no optimum."""
    problem = prefix(6)
    found = solver.solve(problem)
    again = solver.solve(problem, start=found.value)
    assert again.status is Status.CONVERGED
    assert len(again.history) == 1
    afar = solver.solve(problem, start=1e6 * torch.ones_like(found.value))
    slope = Objective(problem, energy_weight=0.2).gradient(afar.value)[2].norm()
    zero = Objective(problem, energy_weight=0.2).gradient(torch.zeros_like(found.value))[2].norm()
    assert (afar.status is Status.CONVERGED) == bool(slope <= 1.01 * solver.tolerance * zero)


@pytest.mark.parametrize("solver", [Adam(budget=6.0), LBFGS(budget=6.0), SGD(budget=6.0)])
def test_budget_in_passes_over_the_examples(solver):
    problem = prefix(10)
    solution = solver.solve(problem)
    assert solution.status is Status.BUDGET
    assert solution.remedy
    assert solution.passes == 60
    assert [row["passes"] for row in solution.history] == [20, 40, 60]


@pytest.mark.parametrize("solver", [Adam(learning_rate=0.3, target=0.3), LBFGS(target=0.3)])
def test_target(solver):
    solution = solver.solve(prefix())
    assert solution.status is Status.CONVERGED
    assert solution.cost <= 0.3 < solution.history[-2]["cost"]


def test_a_mini_batch_run_that_is_not_at_the_target_does_not_say_so():
    problem = prefix()
    solution = Adam(learning_rate=0.3, batch_size=4, target=0.5).solve(problem)
    exact = Objective(problem).value(solution.value)[0]
    assert solution.cost == pytest.approx(exact)
    assert (solution.status is Status.CONVERGED) == (exact <= 0.5)


def test_a_step_far_too_long_is_reported():
    problem = prefix()
    solution = SGD(learning_rate=1e300).solve(problem)
    assert solution.status is Status.DIVERGED
    assert "step size" in solution.remedy
    assert torch.isfinite(solution.value).all()


@pytest.mark.parametrize("options", [{"learning_rate": 0.0}, {"batch_size": 0}, {"budget": -1.0}])
def test_bad_settings(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Adam(**options)
