from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tiny_problems import first, toy_problem, toy_task

from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.first_order import Adam
from deltatheory.control.solvers.least_squares import GaussNewton, convex_step
from deltatheory.control.solvers.objective import Objective
from deltatheory.deltas import DELTAS
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import CrossEntropy

OPTIONS = {
    "subspace": {"d": 20},
    "layerwise-subspace": {"d": 20},
    "unified-subspace": {"deltas": [("lora", {"r": 2}), ("bitfit", {})], "d": 6},
    "combined": {"deltas": [("lora", {"r": 2}), ("prompt", {"length": 2})]},
    "unilora": {"d": 12, "r": 2},
    "intrinsic-prompt": {"d": 4, "length": 2},
    "vera": {"r": 5},
    "modules": {"patterns": ["*.1.*weight"]},
    "last-layers": {"k": 1},
    "random-modules": {"share": 0.2},
    "fisher-mask": {"count": 40, "scope": "all"},
    "adapter": {"bottleneck": 3},
    "parallel-adapter": {"bottleneck": 3},
    "compacter": {"n": 2, "bottleneck": 4},
}


def prefix(gate="values", family="bert", classes=3, examples=24):
    task = first(toy_task(classes), examples)
    return toy_problem("prefix", family=family, dtype=torch.float64, task=task, length=3, gate=gate)


# Rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("delta", "options"),
    [
        ("prefix", {"length": 3, "gate": "values"}),
        ("prefix", {"length": 3, "gate": "zero"}),
        ("lora", {"r": 2}),
        ("full", {}),
    ],
)
def test_rows_of_margins_are_those_of_the_kernel(delta, options, family):
    problem = toy_problem(delta, family=family, dtype=torch.float64, task=toy_task(3), **options)
    at = 0.1 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0)).double()
    features = tangent_rows(problem, train=7, test=0, outputs="margin", sketch=problem.delta.size, at=at)
    outputs = Objective(problem).outputs(at, range(7))
    torch.testing.assert_close(outputs.rows(), features.rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(outputs.values[:, 0], features.start.logits[:, 1], rtol=0, atol=1e-12)
    assert (outputs.solved == features.start.solved(features.start.logits)).all()
    shared = outputs.rows().mean(0, keepdim=True).expand_as(features.rows)  # not one row for all
    assert (shared - features.rows).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(DELTAS))
def test_rows_of_every_delta(name):
    problem = toy_problem(name, dtype=torch.float64, task=toy_task(3), **OPTIONS.get(name, {}))
    at = problem.delta.initial()
    rows = Objective(problem).outputs(at, range(4), kind="logits").rows()
    features = tangent_rows(problem, train=4, test=0, sketch=problem.delta.size)
    torch.testing.assert_close(rows, features.rows, rtol=0, atol=1e-12)


def test_rows_come_in_the_order_asked_for():
    problem = prefix()
    objective = Objective(problem)
    at = problem.delta.initial()
    whole, part = objective.outputs(at, [5, 3, 9, 2]), objective.outputs(at, [9, 5])
    torch.testing.assert_close(part.rows(), whole.rows()[[2, 0]], rtol=0, atol=1e-12)
    torch.testing.assert_close(part.values, whole.values[[2, 0]], rtol=0, atol=1e-12)
    batch, labels = problem.batch(problem.train, [5, 3, 9, 2])
    loss = problem.loss(at, batch, labels)
    torch.testing.assert_close(torch.nn.functional.softplus(-whole.values).mean(), loss)


def test_passes_are_those_of_one_forward_and_one_backward():
    problem = prefix(examples=6)
    objective = Objective(problem)
    before = problem.passes
    outputs = objective.outputs(problem.delta.initial())
    assert problem.passes - before == 6
    outputs.rows()
    assert problem.passes - before == 12
    objective.gradient(problem.delta.initial())
    assert problem.passes - before == 24
    # Gradients in weights count, those of a LoRA beside them do not.
    for delta, options, passes in (("last-layers", {}, 18), ("lora", {"r": 2}, 12)):
        objective = Objective(toy_problem(delta, task=first(toy_task(2), 6), **options))
        objective.gradient(objective.problem.delta.initial())
        assert objective.problem.passes == passes


def test_gradient_against_differences():
    problem = prefix("none", examples=8)
    objective = Objective(problem, energy_weight=0.3)
    generator = torch.Generator().manual_seed(1)
    at, v = (torch.randn(problem.delta.size, generator=generator).double() for _ in "ab")
    cost, metric, gradient = objective.gradient(at)
    assert (cost, metric) == pytest.approx(objective.value(at), abs=1e-12)
    h = 1e-5
    slope = (objective.value(at + h * v)[0] - objective.value(at - h * v)[0]) / (2 * h)
    assert float(gradient @ v) == pytest.approx(slope, rel=1e-6)


# The convex problem --------------------------------------------------------------------------------------


LOSS = CrossEntropy()


def instance(n, m, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(n, m), draw(n), draw(m).exp(), 0.1 * draw(m)


@pytest.mark.parametrize(("n", "m"), [(5, 12), (12, 5), (6, 6)])
@pytest.mark.parametrize("side", ["primal", "dual"])
def test_convex_step_against_scipy(n, m, side):
    rows, margins, scale, pull = instance(n, m)
    weight = 1 / n

    def objective(d):
        d = torch.from_numpy(d).requires_grad_()
        loss = weight * torch.nn.functional.softplus(-(margins + rows @ d)).sum()
        value = loss + pull @ d + 0.5 * d @ (scale * d)
        (gradient,) = torch.autograd.grad(value, d)
        return float(value.detach()), gradient.numpy()

    best = minimize(objective, np.zeros(m), jac=True, method="BFGS", options={"gtol": 1e-10})
    step = convex_step(LOSS, rows, margins, scale, pull, weight, side)
    np.testing.assert_allclose(step.numpy(), best.x, atol=1e-7)
    gradient = objective(step.numpy())[1]
    assert np.abs(gradient).max() < 1e-9
    without_metric = convex_step(LOSS, rows, margins, torch.ones_like(scale), pull, weight, side)
    assert np.abs(objective(without_metric.numpy())[1]).max() > 1e-3


@pytest.mark.parametrize("strength", [1e-6, 1e3])
def test_primal_and_dual_agree_far_from_the_start(strength):
    rows, margins, scale, pull = instance(8, 20, seed=3)
    both = [
        convex_step(LOSS, rows, margins - 5, strength * scale, strength * pull, 1 / 8, s)
        for s in ("primal", "dual")
    ]
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-8)


# Gauss-Newton --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["primal", "dual"])
def test_optimum_is_that_of_scipy(side):
    problem = prefix(classes=2, examples=6)
    objective = Objective(problem, energy_weight=0.2)

    def function(d):
        cost, _, gradient = objective.gradient(torch.from_numpy(d))
        return cost, gradient.numpy()

    best = minimize(
        function, np.zeros(problem.delta.size), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0}
    )
    solution = GaussNewton(energy_weight=0.2, side=side, tolerance=1e-6).solve(problem)
    assert solution.status is Status.CONVERGED
    assert solution.cost == pytest.approx(best.fun, abs=1e-7)
    np.testing.assert_allclose(solution.value.numpy(), best.x, atol=1e-3)
    costs = [row["cost"] for row in solution.history]
    assert costs == sorted(costs, reverse=True)


def test_primal_and_dual_take_the_same_steps():
    problem = prefix()
    runs = [GaussNewton(side=side, budget=10.0).solve(problem) for side in ("primal", "dual")]
    torch.testing.assert_close(runs[0].value, runs[1].value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("batch_size", "factor"), [(None, 1.5), (8, 1.0)])
def test_fewer_passes_than_the_best_of_five_adams(batch_size, factor):
    problem = prefix(family="gpt2", classes=2)
    gauss = GaussNewton(batch_size=batch_size, target=0.1).solve(problem)
    allowed = factor * gauss.passes / len(problem.train)
    adams = [
        Adam(learning_rate=rate, batch_size=batch_size, target=0.1, budget=allowed).solve(problem)
        for rate in (0.01, 0.03, 0.1, 0.3, 1.0)
    ]
    assert gauss.cost <= 0.1 < min(a.cost for a in adams)


def test_incremental_cost_is_exact_at_the_end():
    problem = prefix()
    solution = GaussNewton(batch_size=8, budget=4.0).solve(problem)
    assert solution.cost == pytest.approx(Objective(problem).value(solution.value)[0])
    assert solution.status is Status.BUDGET
    assert solution.remedy
    assert solution.passes == solution.history[-1]["passes"] + len(problem.train)


def test_a_step_that_raises_the_loss_is_taken_back():
    problem = prefix("none")
    solution = GaussNewton(damping=1e-6, budget=40.0).solve(problem)
    assert any(row["ratio"] is not None and row["ratio"] < 0 for row in solution.history)
    costs = [row["cost"] for row in solution.history]
    assert costs == sorted(costs, reverse=True)


def test_poor_ratios_fall_back_on_adam(monkeypatch):
    from deltatheory.control.solvers import least_squares

    monkeypatch.setattr(least_squares, "_POOR", 1e9)
    solution = GaussNewton(batch_size=8, budget=12.0).solve(prefix())
    assert solution.details["fallback"] < len(solution.history)
    assert solution.history[-1]["cost"] < solution.history[0]["cost"]


def test_target_and_watch():
    problem = prefix(classes=2, examples=8)
    seen, before = [], problem.passes
    solution = GaussNewton(target=0.2).solve(
        problem, on_step=seen.append, watch=lambda d: {"held_out": problem.evaluate(d, problem.test)["loss"]}
    )
    assert solution.status is Status.CONVERGED
    assert seen == solution.history
    assert "held_out" in seen[0]
    assert problem.passes - before > solution.passes == seen[-1]["passes"]


@pytest.mark.parametrize(
    ("options", "name"),
    [({"budget": 0.0}, "budget"), ({"damping": -1.0}, "damping"), ({"batch_size": 0}, "batch_size")],
)
def test_bad_settings(options, name):
    with pytest.raises(ValueError, match=name):
        GaussNewton(**options)
