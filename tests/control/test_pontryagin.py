from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from formulas import Formula, concave, drawn, linear_quadratic, overshoot, scalar, tanh_network
from layered_cases import CASES, known, layered, point
from scipy.optimize import minimize
from tiny_problems import toy_problem
from torch import Tensor

from deltatheory.control.pontryagin import costates, hamiltonian, maximum_principle, stationarity, sweep
from deltatheory.control.systems.layered import LayeredSystem


def close(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float = 1e-12) -> bool:
    return all(torch.allclose(x, y, rtol=0, atol=tolerance) for x, y in zip(a, b, strict=True))


PLACES = [
    *((case, "bert") for case in CASES),
    *((case, "gpt2") for case in ("lora", "prefix", "full scope=all")),
]


@pytest.mark.parametrize(("case", "family"), PLACES)
def test_the_adjoint_is_back_propagation_layer_by_layer(case, family):
    """Step by step by vjps, against one backward pass through all steps and one through the network."""
    system = known(case, family)
    delta = point(system)
    run = sweep(system, system.split(delta))
    p = costates(system, run.trajectory)
    gradients = stationarity(system, run.trajectory, p)
    assert len(p) == system.horizon + 1
    assert [x.shape for x in p] == [x.shape for x in run.trajectory.states]
    assert close(p, run.costates)
    assert close(gradients, run.gradients)
    value, _, gradient = system.problem.loss_and_gradient(delta, system.batch, system.labels)
    assert float(run.trajectory.cost) == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(system.join(gradients), gradient, rtol=0, atol=1e-12)

    # Mutants: the other sign of the costates, and a sweep that leaves out a block (p_1 is p_2, p_2 is p_3).
    assert not close(stationarity(system, run.trajectory, [-x for x in p]), run.gradients)
    if any(u.numel() for u in run.trajectory.controls[:2]):
        assert not close(stationarity(system, run.trajectory, [p[0], *p[2:4], *p[3:]]), run.gradients)


@pytest.mark.parametrize("case", ["unilora", "subspace d=12 scope=all"])
def test_a_shared_coordinate_needs_the_sum_over_its_copies(case):
    system = known(case, "bert")
    delta = point(system)
    gradients = sweep(system, system.split(delta)).gradients
    _, _, gradient = system.problem.loss_and_gradient(delta, system.batch, system.labels)
    last_copy_alone = [torch.zeros_like(g) for g in gradients[:-2]] + gradients[-2:]
    assert not torch.allclose(system.join(last_copy_alone), gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("system", [linear_quadratic(), tanh_network(0)], ids=["linear", "tanh"])
def test_costates_and_gradients_match_differences(system):
    controls = [0.3 * drawn(t, m) for t, m in enumerate(system.sizes)]
    run = sweep(system, controls)

    def onwards(t: int, x: Tensor) -> float:
        """J from x_t on."""
        total = 0.0
        for s in range(t, system.horizon):
            total += float(system.running_cost(s, x, controls[s]))
            x = system.step(s, x, controls[s])
        return total + float(system.terminal_cost(x))

    h = 1e-6
    for t, (x, p) in enumerate(zip(run.trajectory.states, run.costates, strict=True)):
        v = drawn(t + 7, *x.shape)
        slope = (onwards(t, x + h * v) - onwards(t, x - h * v)) / (2 * h)
        assert slope == pytest.approx(float((p * v).sum()), abs=1e-7)
    for t, g in enumerate(run.gradients):
        v = drawn(t + 9, *g.shape)
        moved = [[*controls[:t], controls[t] + s * h * v, *controls[t + 1 :]] for s in (1, -1)]
        up, down = (float(system.rollout(us).cost) for us in moved)
        assert (up - down) / (2 * h) == pytest.approx(float(g @ v), abs=1e-7)


def test_the_minimum_condition_fails_at_an_optimum_without_convexity():
    """x_1 = u, Φ = x², ℓ = -c u², U = [-1, 1]: J = (1 - c)u² is least at 0, where H is greatest."""
    system, bounds = concave(0.5), (-1.0, 1.0)
    optimum = [scalar(0.0)]
    cost = float(system.rollout(optimum).cost)
    assert all(cost <= float(system.rollout([scalar(u)]).cost) for u in np.linspace(-1, 1, 21))
    report = maximum_principle(system, optimum, bounds=bounds)
    assert report.residual == (0.0,)
    assert report.gap == (None,)
    assert report.reason == ("ℓ_t is not convex in u_t",)
    p = sweep(system, optimum).costates
    at = [float(hamiltonian(system, 0, system.x0, scalar(u), p[1])) for u in (-1.0, 0.0, 1.0)]
    assert at == [-0.5, 0.0, -0.5]


def test_a_map_that_is_not_affine_is_named():
    system = Formula(scalar(0.0), [1], lambda t, x, u: torch.sin(u), lambda x: x @ x)
    assert maximum_principle(system, [scalar(0.2)]).reason == ("f_t is not affine in u_t",)


def minimum(system, bounds) -> list[Tensor]:
    sizes = np.cumsum(system.sizes)[:-1]

    def unpacked(z: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(u) for u in np.split(z, sizes)]

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        run = sweep(system, unpacked(z))
        return float(run.trajectory.cost), torch.cat(run.gradients).numpy()

    box = None if bounds is None else [bounds] * sum(system.sizes)
    options = {"maxiter": 2000, "ftol": 1e-16, "gtol": 1e-11}
    start = np.zeros(sum(system.sizes))
    return unpacked(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=box, options=options).x)


@pytest.mark.parametrize("bounds", [None, (-0.3, 0.2)])
def test_the_minimum_condition_holds_at_a_convex_optimum(bounds):
    system = linear_quadratic()
    optimum = minimum(system, bounds)
    report = maximum_principle(system, optimum, bounds=bounds)
    assert report.reason == ("",) * 4
    assert max(report.residual) < 1e-6
    assert max(report.gap) < 1e-6
    if bounds is not None:  # with the bounds forgotten, the gradient is not 0
        assert max(maximum_principle(system, optimum).residual) > 0.1


@pytest.mark.parametrize("bounds", [None, (-0.8, 0.6)])
def test_the_gap_bounds_what_the_hamiltonian_can_still_fall(bounds):
    system = linear_quadratic()
    controls = [0.5 * torch.tanh(drawn(t + 3, m)) for t, m in enumerate(system.sizes)]
    report = maximum_principle(system, controls, bounds=bounds)
    run = sweep(system, controls)
    generator = torch.Generator().manual_seed(0)
    for t, u in enumerate(controls):
        best = report.hamiltonian[t]
        for _ in range(500):
            v = 2 * torch.rand(u.shape, generator=generator, dtype=u.dtype) - 1
            v = u + v / max(1.0, float(v.norm())) if bounds is None else 0.7 * v - 0.1
            best = min(best, float(hamiltonian(system, t, run.trajectory.states[t], v, run.costates[t + 1])))
        fall = report.hamiltonian[t] - best
        assert 0.05 * report.gap[t] < fall <= report.gap[t]


def test_layers_of_a_network_where_the_minimum_condition_applies():
    """The last bias of a block enters its output as it is; any other control goes through the block."""
    problem = toy_problem(
        "modules", family="gpt2", dtype=torch.float64, patterns=["*mlp.c_proj.bias", "ln_f.*"]
    )
    system = LayeredSystem(problem, range(5), energy_weight=0.1)
    report = maximum_principle(system, system.split(point(system)))
    assert report.reason == ("", "", "", "f_t is not affine in u_t")
    assert [gap is None for gap in report.gap] == [False, False, False, True]
    assert report.gap[0] == report.residual[0] == 0  # nothing acts there
    assert report.gap[1] > 0
    other = maximum_principle(known("lora", "bert"), known("lora", "bert").zero_controls())
    assert other.reason == ("", *["f_t is not affine in u_t"] * 2, "")


def test_shared_coordinates_are_summed_in_residuals():
    system = known("unilora", "bert")
    delta = point(system)
    report = maximum_principle(system, system.split(delta))
    assert report.reason[1:3] == ("u_t has coordinates that act in other steps too",) * 2
    _, _, gradient = system.problem.loss_and_gradient(delta, system.batch, system.labels)
    assert report.residual[1] == pytest.approx(float(gradient[system.coordinates(1)].norm()), abs=1e-12)


def test_a_report_adds_up():
    system = layered("prefix", "bert", energy_weight=0.2)
    controls = system.split(point(system))
    report = maximum_principle(system, controls)
    run = system.rollout(controls)
    p = costates(system, run)
    assert report.cost == pytest.approx(float(run.cost), abs=1e-12)
    assert report.costate_norm == pytest.approx([float(x.norm()) for x in p], abs=1e-12)
    expected = [hamiltonian(system, t, run.states[t], u, p[t + 1]) for t, u in enumerate(controls)]
    assert report.hamiltonian == pytest.approx([float(h) for h in expected], abs=1e-12)


def test_passes_of_a_sweep():
    system = known("lora", "bert")
    controls = system.zero_controls()
    before = system.problem.passes
    run = sweep(system, controls)
    assert system.problem.passes - before == pytest.approx(3 * 5)
    before = system.problem.passes
    costates(system, run.trajectory)
    assert system.problem.passes - before == pytest.approx(2 * 5)


def test_figure():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    system = linear_quadratic()
    assert len(maximum_principle(system, system.zero_controls()).plot().axes[0].lines) == 2


def test_bad_input():
    system = overshoot()
    with pytest.raises(ValueError, match=r"controls: some are outside bounds=\(-1.0, 1.0\)"):
        maximum_principle(system, [scalar(2.0)], bounds=(-1.0, 1.0))
    with pytest.raises(ValueError, match=r"radius=0.0: must be above 0"):
        maximum_principle(system, [scalar(0.0)], radius=0.0)
    with pytest.raises(ValueError, match="there are 2; the horizon is 1"):
        maximum_principle(system, [scalar(0.0)] * 2)
