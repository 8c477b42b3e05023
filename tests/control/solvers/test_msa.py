from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from formulas import Formula, concave, drawn, linear_quadratic, overshoot, scalar, tanh_network
from layered_cases import layered, point

from deltatheory.control.pontryagin import hamiltonian, maximum_principle, sweep
from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.msa import (
    EMSA,
    MSA,
    StepConstants,
    augmented_hamiltonian,
    certified_rho,
    change_bound,
    minimize_hamiltonian,
)


def constants_of(network: Formula, samples: int) -> StepConstants:
    """For x ↦ tanh(x W + u): K = ‖W‖₂ and κ = max|tanh''| ‖W‖₂², max|tanh''| = 4/(3√3), for every u."""
    norms = [float(torch.linalg.matrix_norm(w, 2)) for w in network.weights]
    return StepConstants(tuple(norms), tuple(4 / 27**0.5 * k * k for k in norms), 1 / samples)


def controls_of(system: Formula, seed: int, size: float) -> list[torch.Tensor]:
    return [size * drawn(seed + 100 * t, m) for t, m in enumerate(system.sizes)]


def costs(solution) -> list[float]:
    return [row["cost"] for row in solution.history]


# The inequality and its constants.


def instances(count: int):
    for i in range(count):
        size = (0.01, 0.3, 2.0)[i % 3]
        gain = (0.5, 1.5)[i % 2]
        network = tanh_network(i, T=1 + i % 5, gain=gain)
        yield network, controls_of(network, i + 1, size), controls_of(network, i + 2, size)


def rise(network, before, after) -> tuple[float, float]:
    run = sweep(network, before)
    return float(network.rollout(after).cost - run.trajectory.cost), change_bound(
        network, run, after, constants_of(network, 4)
    )


def test_the_bound_holds_on_random_networks():
    for network, before, after in instances(60):
        change, bound = rise(network, before, after)
        assert change <= bound + 1e-12


def test_the_bound_is_tight_where_it_is_quadratic():
    """x_1 = u, Φ = ½ λ u²: no remainder at all."""
    for lam, a, b in [(1.0, 0.0, 1.0), (3.0, 0.4, -2.0)]:
        system = Formula(scalar(0.0), [1], lambda t, x, u: u, lambda x, lam=lam: 0.5 * lam * x @ x)
        run = sweep(system, [scalar(a)])
        change = float(system.rollout([scalar(b)]).cost - run.trajectory.cost)
        exact = StepConstants((0.0,), (0.0,), lam)
        assert change_bound(system, run, [scalar(b)], exact) == pytest.approx(change, abs=1e-14)
        # Mutant: a terminal constant that is too small.
        less = StepConstants((0.0,), (0.0,), 0.99 * lam)
        assert change_bound(system, run, [scalar(b)], less) < change


@pytest.mark.parametrize("left_out", ["lipschitz", "curvature and terminal"])
def test_every_term_of_the_bound_is_needed(left_out):
    """Mutants of the inequality: a random network refutes each."""
    found = 0
    for network, before, after in instances(60):
        whole = constants_of(network, 4)
        zero = tuple(0.0 for _ in whole.lipschitz)
        less = (
            StepConstants(zero, whole.curvature, whole.terminal)
            if left_out == "lipschitz"
            else StepConstants(whole.lipschitz, zero, 0.0)
        )
        run = sweep(network, before)
        change = float(network.rollout(after).cost - run.trajectory.cost)
        found += change > change_bound(network, run, after, less) + 1e-9
    assert found


def test_certified_rho_is_the_largest_eigenvalue():
    """One step: M = (0, 1)ᵀ and ρ = max(1, λ); two steps by hand."""
    p = [scalar(0.0), scalar(2.0), scalar(3.0)]
    assert certified_rho(StepConstants((5.0,), (7.0,), 4.0), p[:2]) == pytest.approx(4.0)
    assert certified_rho(StepConstants((5.0,), (7.0,), 0.1), p[:2]) == 1.0
    # d_1 = a_0, d_2 = K_1 a_0 + a_1; weights 1 + |p_2| κ_1 on d_1² and λ on d_2²
    M = np.array([[1.0, 0.0], [2.0, 1.0]])
    expected = np.linalg.eigvalsh(M.T @ np.diag([1 + 3 * 0.5, 4.0]) @ M)[-1]
    assert certified_rho(StepConstants((9.0, 2.0), (9.0, 0.5), 4.0), p) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_an_e_msa_step_with_certified_rho_never_raises_the_cost(seed):
    """Without any safeguard: the minimizer of the augmented Hamiltonian is taken as it comes."""
    network = tanh_network(10 * seed, T=4, gain=(0.5, 1.5)[seed % 2])
    constants = constants_of(network, 4)
    run = sweep(network, controls_of(network, seed, 0.5))
    for _ in range(3):
        rho = certified_rho(constants, run.costates)
        assert rho >= 1
        new = sweep(network, minimize_hamiltonian(network, run, rho=rho))
        assert float(new.trajectory.cost) <= float(run.trajectory.cost)
        run = new


def test_without_the_augmentation_a_step_raises_the_cost():
    """ρ = 0 on the same networks, and on x_1 = u, Φ = ½(x - .1)², U = [-1, 1]: from .005 to .405."""
    raised = 0
    for seed in range(4):
        network = tanh_network(10 * seed, T=4, gain=(0.5, 1.5)[seed % 2])
        run = sweep(network, controls_of(network, seed, 0.5))
        new = sweep(network, minimize_hamiltonian(network, run, rho=0.0))
        raised += float(new.trajectory.cost) > float(run.trajectory.cost)
    assert raised
    solution = MSA(step_size="argmin", bounds=(-1.0, 1.0), steps=1).solve(overshoot())
    assert costs(solution) == pytest.approx([0.005, 0.405], abs=1e-12)
    assert solution.status is Status.DIVERGED
    assert solution.cost == pytest.approx(0.005)
    assert "E-MSA" in solution.remedy


def test_a_rho_below_the_certified_one_can_raise_the_cost():
    """At J = ½(x - .1)² the certified ρ is 1 and goes to the optimum; 1/20 of it overshoots."""
    system = overshoot()
    run = sweep(system, system.zero_controls())
    rho = certified_rho(StepConstants((0.0,), (0.0,), 1.0), run.costates)
    assert rho == pytest.approx(1.0)
    new = minimize_hamiltonian(system, run, rho=rho, bounds=(-1.0, 1.0))
    assert float(new[0]) == pytest.approx(0.1)
    short = minimize_hamiltonian(system, run, rho=rho / 20, bounds=(-1.0, 1.0))
    assert float(system.rollout(short).cost) > 0.005


# Hamiltonians.


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_augmented_hamiltonian(rho):
    network = tanh_network(3)
    controls = controls_of(network, 0, 0.4)
    run = sweep(network, controls)
    x, p = run.trajectory.states, run.costates
    for t, u in enumerate(controls):
        plain = hamiltonian(network, t, x[t], u, p[t + 1])
        assert float(augmented_hamiltonian(network, run, t, u, rho)) == pytest.approx(float(plain), abs=1e-13)
        v = u + 0.3
        # by hand: f = tanh(x W + v), ∂H/∂x = ((1 - f²) p) Wᵀ
        f = torch.tanh(x[t] @ network.weights[t] + v)
        q = ((1 - f**2) * p[t + 1]) @ network.weights[t].T
        expected = (
            0.005 * (v @ v)
            + (p[t + 1] * f).sum()
            + rho / 2 * (((f - x[t + 1]) ** 2).sum() + ((q - p[t]) ** 2).sum())
        )
        value = float(augmented_hamiltonian(network, run, t, v, rho))
        assert value == pytest.approx(float(expected), abs=1e-12)
        if rho:
            assert value - float(hamiltonian(network, t, x[t], v, p[t + 1])) > 1e-3


def test_argmin_of_an_additive_control_is_its_costate():
    """f = x + u for every sample, ℓ = ½ r|u|²: argmin H is -(1/r) Σ_s p_s."""
    r, x0 = 2.5, drawn(0, 4, 3)
    system = Formula(
        x0, [3, 3], lambda t, x, u: x + u, lambda x: torch.cosh(x).sum(), lambda t, x, u: 0.5 * r * (u @ u)
    )
    run = sweep(system, [drawn(1, 3), drawn(2, 3)])
    new = minimize_hamiltonian(system, run)
    for u, p in zip(new, run.costates[1:], strict=True):
        torch.testing.assert_close(u, -p.sum(0) / r, rtol=0, atol=1e-7)


# Solvers.


@pytest.mark.parametrize("case", ["lora", "unilora"])
def test_msa_with_a_gradient_step_is_gradient_descent(case):
    system = layered(case, "bert")
    problem = system.problem
    delta = start = point(system)
    for _ in range(3):
        delta = delta - 0.2 * problem.loss_and_gradient(delta, system.batch, system.labels)[2]
    solution = MSA(step_size=0.2, steps=3).solve(system, start=start)
    torch.testing.assert_close(
        system.rollout(system.split(solution.value)).cost, problem.loss(delta, system.batch, system.labels)
    )
    torch.testing.assert_close(solution.value, delta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [EMSA(tolerance=1e-6), MSA(step_size=0.1, steps=400, tolerance=1e-6)])
def test_solvers_reach_the_optimum_of_a_linear_quadratic_problem(solver):
    """The oracle is the stationary point of J, a linear system solved from second differences."""
    system = linear_quadratic(T=2)
    sizes = system.sizes
    zero = torch.zeros(sum(sizes), dtype=torch.float64)

    def gradient(z: torch.Tensor) -> torch.Tensor:
        return torch.cat(sweep(system, z.split(sizes)).gradients)

    offset = gradient(zero)
    hessian = torch.stack([gradient(row) - offset for row in torch.eye(len(zero), dtype=torch.float64)])
    best = torch.linalg.solve(hessian, -offset)
    solution = solver.solve(system)
    assert solution.status is Status.CONVERGED
    assert solution.value.shape == (2, 2)
    assert solution.cost == pytest.approx(float(system.rollout(best.split(sizes)).cost), abs=1e-10)
    torch.testing.assert_close(solution.value.flatten(), best, rtol=0, atol=1e-5)


def test_e_msa_with_the_constants_of_the_system():
    network = tanh_network(4, gain=0.3)
    solution = EMSA(rho=constants_of(network, 4), steps=4).solve(network)
    assert all(b <= a for a, b in itertools.pairwise(costs(solution)))
    assert costs(solution)[-1] < 0.9 * costs(solution)[0]
    run = sweep(network, list(solution.value))
    rhos = [row["rho"] for row in solution.history[1:]]
    assert min(rhos) >= 1
    assert rhos[-1] == pytest.approx(certified_rho(constants_of(network, 4), run.costates), rel=0.3)


def test_e_msa_takes_back_a_step_that_raises_the_cost():
    solution = EMSA(rho=0.01, bounds=(-1.0, 1.0)).solve(overshoot())
    assert solution.status is Status.CONVERGED
    assert all(b <= a for a, b in itertools.pairwise(costs(solution)))
    assert solution.history[1]["rho"] > 0.01
    assert solution.cost == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize(("case", "energy"), [("prefix", 0.0), ("unilora", 0.0), ("lora", 0.05)])
def test_e_msa_on_a_network_goes_down(case, energy):
    system = layered(case, "gpt2", energy_weight=energy)
    solution = EMSA(steps=3, inner=3).solve(system)
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(costs(solution)))
    assert costs(solution)[-1] < costs(solution)[0] - 1e-3
    assert solution.value.shape == (system.dimension,)
    trajectory = system.rollout(system.split(solution.value))
    assert float(trajectory.cost) == pytest.approx(solution.cost, abs=1e-12)
    report = maximum_principle(system, system.split(solution.value))
    assert solution.details["residuals"] == pytest.approx(report.residual, abs=1e-12)


def test_copies_of_a_shared_coordinate_stay_equal():
    system = layered("unilora", "bert", energy_weight=0.5)
    run = sweep(system, system.split(point(system)))
    for rho in (0.0, 1.0):
        new = minimize_hamiltonian(system, run, rho=rho, inner=3)
        assert torch.equal(new[1], system.value_of(new)[system.coordinates(1)])

        def total(controls, rho=rho):
            return sum(float(augmented_hamiltonian(system, run, t, u, rho)) for t, u in enumerate(controls))

        assert total(new) < total(run.trajectory.controls) - 1e-6


def test_passes_are_counted():
    system = layered("lora", "bert")
    rows = []
    solution = MSA(step_size=0.1, steps=4).solve(system, on_step=rows.append)
    assert rows == solution.history
    assert [row["passes"] for row in rows] == pytest.approx([15.0 * (i + 1) for i in range(5)])
    assert solution.passes == pytest.approx(75.0)
    limited = MSA(step_size=0.1, steps=100, budget=9.0).solve(system)
    assert limited.passes == pytest.approx(45.0)
    assert limited.status is Status.BUDGET
    before = system.problem.passes
    run = sweep(system, system.zero_controls())
    used = system.problem.passes - before
    minimize_hamiltonian(system, run, rho=1.0, inner=1)
    assert system.problem.passes - before - used >= 6 * 5  # at least one value and gradient of every block


# Bad input.


@pytest.mark.parametrize("solver", [MSA(), MSA(step_size="argmin"), EMSA()])
def test_not_a_number_is_reported(solver):
    system = Formula(scalar(0.0), [1], lambda t, x, u: u / 0 * 0, lambda x: x @ x)
    solution = solver.solve(system)
    assert solution.status is Status.DIVERGED
    assert "the cost became nan" in solution.remedy


def test_a_step_that_is_too_long_is_reported():
    solution = MSA(step_size=3.0, steps=5).solve(linear_quadratic())
    assert solution.status is Status.DIVERGED
    assert "take a smaller step" in solution.remedy
    assert solution.cost == costs(solution)[0]


def test_other_ends():
    assert MSA(step_size=1e-4, steps=3).solve(linear_quadratic()).status is Status.BUDGET
    cost = float(linear_quadratic().rollout(linear_quadratic().zero_controls()).cost)
    assert MSA(step_size=0.05, target=0.9 * cost).solve(linear_quadratic()).cost <= 0.9 * cost
    converged = MSA(step_size="argmin", bounds=(-1.0, 1.0)).solve(concave(0.5))  # u = 0 is stationary
    assert converged.status is Status.CONVERGED
    assert len(converged.history) == 1
    beside = torch.tensor([np.nextafter(0.1, 1)])[None]  # the float next to the optimum: nothing left to gain
    assert EMSA().solve(overshoot(), start=beside).status is Status.CONVERGED
    assert EMSA(tolerance=1e-30).solve(overshoot(), start=beside).status is Status.STALLED


def unstable(T: int) -> Formula:
    """x' = 2x + u at ½x² + ½u²: at u = 0 J is 4^T, and its derivative as large."""
    return Formula(
        scalar(1.0),
        [1] * T,
        lambda t, x, u: 2 * x + u,
        lambda x: 0.5 * x @ x,
        lambda t, x, u: 0.5 * x @ x + 0.5 * u @ u,
    )


def test_what_zero_controls_leave_of_an_unstable_system_is_no_scale():
    """A derivative that is a millionth of that at u = 0 is 1e12 still."""
    nearly = -1.618 * 0.382 ** torch.arange(30, dtype=torch.float64)[:, None]  # the best: x' = .382 x
    found = MSA(step_size=1e-30, steps=1).solve(unstable(30), start=nearly + 1e-6)
    assert max(found.details["residuals"]) > 1e10
    assert found.status is Status.BUDGET


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MSA(step_size=0.0), r"step_size=0.0: must be above 0"),
        (lambda: MSA(steps=0), r"steps=0: must be above 0"),
        (lambda: MSA(tolerance=math.nan), r"tolerance=nan"),
        (lambda: MSA(bounds=(1.0, -1.0)), r"bounds=\(1.0, -1.0\): the first must be below"),
        (lambda: MSA(step_size="argmin", inner=0), r"inner=0"),
        (lambda: EMSA(rho=0.0), r"rho=0.0: must be above 0"),
        (lambda: EMSA(budget=-1.0), r"budget=-1.0"),
        (lambda: StepConstants((1.0,), (1.0, 2.0), 1.0), r"curvature: has 2 steps; lipschitz has 1"),
        (lambda: StepConstants((-1.0,), (1.0,), 1.0), r"lipschitz=\(-1.0,\): all must be finite"),
        (lambda: StepConstants((1.0,), (1.0,), math.inf), r"terminal=inf"),
        (lambda: certified_rho(StepConstants((1.0,), (1.0,), 1.0), [scalar(0.0)]), r"costates: there are 1"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
