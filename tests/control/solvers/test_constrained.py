from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tiny_problems import first, toy_problem, toy_task

from deltatheory.control.solvers.base import SolverRun, Status
from deltatheory.control.solvers.constrained import (
    Constrained,
    MinimumEnergy,
    NormBound,
    cloud_bounds,
    layer_bounds,
)
from deltatheory.control.solvers.objective import Objective, Outputs
from deltatheory.control.systems.layered import LayeredSystem

cp = pytest.importorskip("cvxpy")


def prefix(examples=24, gate="values"):
    task = first(toy_task(3), examples)
    return toy_problem("prefix", dtype=torch.float64, task=task, length=2, gate=gate)


class Affine(Objective):
    """Outputs y + Jδ, known exactly, instead of a network's."""

    def __init__(self, y: torch.Tensor, J: torch.Tensor) -> None:
        super().__init__(prefix(len(y)), 1.0)
        self.y, self.J = y, J

    def outputs(self, delta, positions=None, kind="margin"):
        values = (self.y + self.J @ delta)[:, None]
        return Outputs(values, values[:, 0] > 0, lambda: self.J[:, None])


def affine(n=4, m=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Affine(draw(n), draw(n, m)), draw(n)


def run_on(solver, objective, start=None):
    zero = torch.zeros(objective.J.shape[1], dtype=torch.float64)
    run = SolverRun(solver, objective, zero if start is None else start)
    return *solver._solve(objective, run), run


# Minimum energy ------------------------------------------------------------------------------------------


def test_affine_targets_take_one_step_of_the_closed_form():
    objective, targets = affine()
    status, _, run = run_on(MinimumEnergy(targets=targets[:, None], tolerance=1e-9), objective)
    change, kernel = targets - objective.y, objective.J @ objective.J.T
    assert status is Status.CONVERGED
    torch.testing.assert_close(run.value, torch.linalg.pinv(objective.J) @ change)
    assert 2 * run.cost == pytest.approx(float(change @ torch.linalg.solve(kernel, change)))
    assert len(run.history) == 2
    half = 0.5 * run.value  # cheaper, but it does not get there
    assert float((objective.y + objective.J @ half - targets).abs().max()) > 1e-3


def test_targets_outside_the_range_are_infeasible():
    objective, targets = affine()
    objective.J[1] = 2 * objective.J[0]
    status, remedy, _ = run_on(MinimumEnergy(targets=targets[:, None]), objective)
    assert status is Status.INFEASIBLE
    assert "rank 3 for 4 outputs" in remedy
    targets[1] = objective.y[1] + 2 * (targets[0] - objective.y[0])  # now they agree
    assert run_on(MinimumEnergy(targets=targets[:, None]), objective)[0] is Status.CONVERGED


@pytest.mark.parametrize("kind", ["margin", "logits"])
def test_minimum_energy_of_a_network_is_a_point_that_scipy_cannot_improve(kind):
    problem = prefix(2)
    objective = Objective(problem, 1.0)
    targets = 0.2 * torch.ones(2, 1 if kind == "margin" else 2, dtype=torch.float64)
    solution = MinimumEnergy(targets=targets, outputs=kind, tolerance=1e-4, budget=400.0).solve(problem)
    assert solution.status is Status.CONVERGED
    found = objective.outputs(solution.value, kind=kind)
    torch.testing.assert_close(found.values, targets, rtol=0, atol=1e-3)
    assert solution.details["stationarity"] < 3e-2  # δ = Jᵀα at the solution itself

    def constraint(x):
        return (objective.outputs(torch.from_numpy(x), kind=kind).values - targets).flatten().numpy()

    def slope(x):
        return objective.outputs(torch.from_numpy(x), kind=kind).rows().flatten(0, 1).numpy()

    reference = minimize(
        lambda x: 0.5 * x @ x,
        solution.value.numpy() + 1e-2,
        jac=lambda x: x,
        constraints={"type": "eq", "fun": constraint, "jac": slope},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 15},
    )
    assert solution.cost == pytest.approx(reference.fun, rel=1e-2)


def test_targets_of_the_wrong_shape():
    with pytest.raises(ValueError, match="targets has shape"):
        MinimumEnergy(targets=torch.ones(3)).solve(prefix(2))


# Half-spaces and bounds ----------------------------------------------------------------------------------


def bounds_of(m):
    """Nested and overlapping bounds, one of them around another point."""
    centre = torch.linspace(0.1, 0.4, 4, dtype=torch.float64)
    return (
        NormBound("first", torch.arange(0, 6), 0.2),
        NormBound("inner", torch.arange(2, 4), 0.05),
        NormBound("shifted", torch.arange(4, 8), 0.5, centre),
    )


def directly(objective, margin, bounds):
    """The same convex program over all coordinates, without reduction, penalty or trust region."""
    x = cp.Variable(objective.J.shape[1])
    cones = [
        cp.norm(x[b.coordinates.numpy()] - (0 if b.centre is None else b.centre.numpy())) <= b.radius
        for b in bounds
    ]
    program = cp.Problem(
        cp.Minimize(0.5 * cp.sum_squares(x)),
        [objective.y.numpy() + objective.J.numpy() @ x >= margin, *cones],
    )
    program.solve(solver=cp.CLARABEL)
    return program, x


@pytest.mark.parametrize("chosen", [(), (0,), (0, 1, 2)])
def test_affine_program_against_cvxpy_in_all_coordinates(chosen):
    objective, _ = affine(m=30)
    bounds = tuple(bounds_of(30)[k] for k in chosen)
    status, _, run = run_on(Constrained(margin=0.5, bounds=bounds, tolerance=1e-8), objective)
    program, x = directly(objective, 0.5, bounds)
    assert status is Status.CONVERGED
    assert run.cost == pytest.approx(program.value, rel=1e-4)
    np.testing.assert_allclose(run.value.numpy(), x.value, atol=1e-3)
    if chosen:  # the bounds matter
        assert directly(objective, 0.5, ())[0].value < program.value - 1e-3


def kkt(objective, solution, bounds, multipliers):
    rows = objective.outputs(solution.value).rows()[:, 0]
    residual = solution.value - rows.T @ multipliers
    for price, bound in zip(solution.details["bound_multipliers"], bounds, strict=True):
        part = solution.value[bound.coordinates]
        residual[bound.coordinates] += price * part / part.norm()
    return float(residual.norm() / solution.value.norm())


def test_optimality_conditions_on_a_network():
    problem = prefix(4)
    free = Constrained(margin=-0.5, tolerance=1e-6, budget=300.0).solve(problem)
    bound = NormBound("half", torch.arange(problem.delta.size // 2), 1.0)
    radius = 0.7 * float(free.value[bound.coordinates].norm())
    bounds = (NormBound("half", bound.coordinates, radius),)
    solution = Constrained(margin=-0.5, bounds=bounds, tolerance=1e-6, budget=300.0).solve(problem)
    objective = Objective(problem, 1.0)
    assert free.status is solution.status is Status.CONVERGED
    assert solution.cost > free.cost
    margins = objective.outputs(solution.value).values[:, 0]
    assert float(margins.min()) >= -0.5 - 1e-3
    assert bounds[0].excess(solution.value) <= 1e-6
    multipliers = solution.details["multipliers"]
    assert float(multipliers.min()) >= -1e-6
    assert float((multipliers * (margins + 0.5)).abs().max()) < 1e-3
    assert kkt(objective, solution, bounds, multipliers) < 2e-2
    assert kkt(objective, solution, bounds, 1.3 * multipliers) > 5e-2


def test_half_spaces_on_logits():
    problem = prefix(4)
    solution = Constrained(margin=0.4, outputs="logits").solve(problem)
    batch, labels = problem.batch(problem.train, range(4))
    logits = problem.logits(solution.value, batch)
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    gaps = logits.gather(1, labels[:, None])[:, 0] - others
    assert solution.status is Status.CONVERGED
    assert float(gaps.min()) >= 0.4 - 1e-2
    assert float(gaps.min()) <= 0.4 + 1e-2  # not further than asked


def test_a_budget_too_small_is_named():
    problem = prefix(4)
    bounds = layer_bounds(LayeredSystem(problem), 1e-3)
    solution = Constrained(margin=5.0, bounds=bounds).solve(problem)
    assert solution.status is Status.INFEASIBLE
    assert "block" in solution.remedy
    assert all(bound.excess(solution.value) <= 1e-5 for bound in bounds)


def test_bounds_that_contradict():
    apart = torch.ones(3, dtype=torch.float64)
    where = torch.arange(3)
    bounds = (NormBound("here", where, 0.1), NormBound("there", where, 0.1, apart))
    status, remedy, _ = run_on(Constrained(bounds=bounds), affine()[0])
    assert status is Status.INFEASIBLE
    assert "here, there" in remedy


@pytest.mark.parametrize("kind", [Constrained, MinimumEnergy])
def test_a_control_is_no_optimum_because_it_is_small(kind):
    """Outputs that a small δ moves far: all energies lie below an absolute tolerance."""
    objective, _ = affine()
    objective.J *= 1e3
    settings = {"margin": 0.5} if kind is Constrained else {"targets": 0.5}
    best = run_on(kind(**settings), objective)[2]
    across = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    across -= torch.linalg.pinv(objective.J) @ (objective.J @ across)  # moves no output
    start = best.value + 3 * best.value.norm() / across.norm() * across
    assert 0.5 * start.square().sum() > 5 * best.cost
    status, _, run = run_on(kind(**settings), objective, start)
    assert status is Status.CONVERGED
    assert run.cost == pytest.approx(best.cost, rel=1e-2)


# Bounds --------------------------------------------------------------------------------------------------


def test_layer_bounds_cover_delta_once():
    problem = prefix()
    bounds = layer_bounds(LayeredSystem(problem, range(2)), 2.0)
    assert [bound.name for bound in bounds] == ["block 0", "block 1"]
    assert sorted(torch.cat([bound.coordinates for bound in bounds]).tolist()) == list(
        range(problem.delta.size)
    )


@pytest.mark.parametrize("gate", ["none", "values"])
def test_cloud_of_a_prefix(gate):
    problem = prefix(gate=gate)
    delta, generator = problem.delta, torch.Generator().manual_seed(0)
    bounds = {bound.name: bound for bound in cloud_bounds(delta, words=8)}
    assert len(bounds) == 2 * 2 * 2  # blocks, keys and values, virtual tokens
    at = torch.randn(delta.size, generator=generator, dtype=torch.float64)
    for t, (key, value) in delta.keys_values(at).items():
        for part, x in (("key", key), ("value", value)):
            for j in range(2):
                bound = bounds[f"{t}.{part}[{j}]"]
                assert bound.excess(at) + bound.radius == pytest.approx(float(x[:, j].norm()))
    assert all(bound.excess(delta.initial()) <= bound.radius for bound in bounds.values())


def test_cloud_of_a_prompt_is_kept():
    problem = toy_problem("prompt", dtype=torch.float64, task=first(toy_task(2), 3), length=2)
    bounds = cloud_bounds(problem.delta, words=16)
    largest = float(problem.backbone.model.get_input_embeddings().weight.norm(dim=1).max())
    assert all(bound.radius <= largest + 1e-9 for bound in bounds)
    solution = Constrained(margin=0.2, bounds=bounds).solve(problem)
    norms = problem.delta.prompt(solution.value).norm(dim=1)
    assert float(norms.max()) <= bounds[0].radius + 1e-4


def test_cloud_of_another_delta_is_refused():
    with pytest.raises(ValueError, match="lora"):
        cloud_bounds(toy_problem("lora", r=2).delta)
