from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.control.reach.gramian import (
    Gramian,
    JacobianLipschitz,
    estimate_lipschitz,
    minimum_energy,
    output_gramian,
    reachability_ball,
)
from deltatheory.control.reach.parts import coordinate_groups, part_tangent_rows
from deltatheory.control.solvers.base import Status
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.linearization.tangent import tangent_rows

CLASSES, EXAMPLES = 3, 2
DELTAS = {
    "lora": {"r": 2},
    "bitfit": {},
    "prefix": {"length": 2, "gate": "values"},
    "prompt": {"length": 2},
    "adapter": {"bottleneck": 2},
    "full": {"scope": "all"},
    "fisher-mask": {"count": 40, "scope": "all"},
    "compacter": {"n": 2, "bottleneck": 4},
    "unilora": {"d": 20},
    "subspace": {"d": 12},
    "combined": {"deltas": [("lora", {"r": 2}), ("prompt", {"length": 2})]},
}
SHARED = {"compacter", "unilora", "subspace"}  # some coordinate acts in several layers


def small(delta: str, family: str = "bert", **options):
    return toy_problem(delta, family=family, dtype=torch.float64, task=toy_task(CLASSES, train=6), **options)


def kernel(problem, outputs="logits", at=None) -> torch.Tensor:
    size = problem.delta.size
    return tangent_rows(problem, train=EXAMPLES, test=0, outputs=outputs, sketch=size, at=at).kernel()


def layer_by_layer(problem) -> list[torch.Tensor]:
    """Φ_{T,t+1} B_t of every step: rows are z_c - z_0 of each example."""
    system = LayeredSystem(problem, range(EXAMPLES))
    path = system.rollout(system.zero_controls())
    differences = torch.cat([-torch.ones(CLASSES - 1, 1), torch.eye(CLASSES - 1)], 1).double()
    to_outputs = list(torch.block_diag(*[differences] * EXAMPLES).view(-1, EXAMPLES, CLASSES))
    parts = []
    for t in reversed(range(system.horizon)):
        near = system.linearize(t, path.states[t], path.controls[t])
        parts.append(torch.stack([near.B.adjoint(row) for row in to_outputs]))
        if t:
            to_outputs = [near.A.adjoint(row) for row in to_outputs]
    return parts[::-1]


@pytest.mark.parametrize("delta", DELTAS)
def test_the_gramian_is_the_kernel_and_the_sum_over_layers(delta):
    problem = small(delta, **DELTAS[delta])
    gramian = output_gramian(problem, examples=EXAMPLES)
    assert gramian.exact
    scale = float(gramian.total.abs().max())
    torch.testing.assert_close(gramian.total, kernel(problem), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(sum(gramian.parts.values()), gramian.total, rtol=1e-12, atol=1e-10)
    assert sum(gramian.shares().values()) == pytest.approx(1)

    system = LayeredSystem(problem, range(EXAMPLES))
    once, columns = system.copies == 1, torch.zeros(len(gramian.total), problem.delta.size).double()
    apart = torch.zeros_like(gramian.total)
    for t, part in enumerate(layer_by_layer(problem)):
        own = part[:, once[system.coordinates(t)]]
        if own.numel():
            got = gramian.parts[system.names[t]]
            torch.testing.assert_close(got, own @ own.T, rtol=0, atol=1e-9 * max(1.0, scale))
        columns.index_add_(1, system.coordinates(t), part)
        apart += part @ part.T
    torch.testing.assert_close(columns @ columns.T, gramian.total, rtol=0, atol=1e-9 * max(1.0, scale))
    # Where layers share coordinates, columns add up before they are squared, so Gramians of layers do not.
    shared = bool((system.copies > 1).any())
    assert shared == ("several layers" in gramian.parts) == (delta in SHARED)
    if shared and delta != "compacter":  # its shared factors are still at rest at δ = 0
        assert (apart - gramian.total).norm() > 1e-2 * gramian.total.norm()
    else:
        torch.testing.assert_close(apart, gramian.total, rtol=0, atol=1e-9 * max(1.0, scale))


def test_parts_of_layers_are_told_apart():
    gramian = output_gramian(small("lora", r=2), examples=EXAMPLES)
    first, last = gramian.parts["block 0"], gramian.parts["block 1"]
    assert (first - last).norm() > 1e-2 * gramian.total.norm()


def test_a_causal_network_has_the_same_two_routes():
    problem = small("lora", family="gpt2", r=2)
    gramian = output_gramian(problem, examples=EXAMPLES)
    torch.testing.assert_close(gramian.total, kernel(problem), rtol=0, atol=1e-10)
    total = sum(part @ part.T for part in layer_by_layer(problem))
    torch.testing.assert_close(gramian.total, total, rtol=0, atol=1e-9)


def test_margins_and_another_point():
    problem = small("lora", r=2)
    generator = torch.Generator().manual_seed(0)
    at = 0.1 * torch.randn(problem.delta.size, generator=generator, dtype=torch.float64)
    gramian = output_gramian(problem, examples=EXAMPLES, outputs="margin", at=at)
    torch.testing.assert_close(gramian.total, kernel(problem, "margin", at), rtol=0, atol=1e-10)
    batch, labels = problem.batch(problem.train, range(EXAMPLES))
    loss = torch.nn.functional.cross_entropy(problem.logits(at, batch), labels, reduction="none")
    torch.testing.assert_close(torch.nn.functional.softplus(-gramian.start), loss, rtol=0, atol=1e-9)
    assert gramian.passes == EXAMPLES * 3


def test_modules_and_interleaved_groups_add_up():
    problem = small("lora", r=2)
    layers = output_gramian(problem, examples=EXAMPLES)
    modules = output_gramian(problem, examples=EXAMPLES, groups="module")
    for t in range(2):
        inside = sum(part for name, part in modules.parts.items() if f"layer.{t}." in name)
        torch.testing.assert_close(inside, layers.parts[f"block {t}"], rtol=0, atol=1e-10)
    index = torch.arange(problem.delta.size)
    odd = output_gramian(problem, examples=EXAMPLES, groups={"even": index[::2], "odd": index[1::2]})
    torch.testing.assert_close(odd.total, layers.total, rtol=0, atol=1e-10)
    rows = tangent_rows(problem, train=EXAMPLES, test=0, sketch=problem.delta.size).rows.flatten(0, 1)
    torch.testing.assert_close(odd.parts["odd"], rows[:, 1::2] @ rows[:, 1::2].T, rtol=0, atol=1e-10)


def test_a_sketched_gramian_says_that_it_is_an_estimate():
    problem = small("lora", r=2)
    exact = output_gramian(problem, examples=EXAMPLES)
    groups = coordinate_groups(problem)
    draws = [output_gramian(problem, examples=EXAMPLES, groups=groups, sketch=16, seed=s) for s in range(16)]
    assert not any(draw.exact for draw in draws)
    mean = torch.stack([draw.total for draw in draws]).mean(0)
    single = float((draws[0].total - exact.total).norm())
    assert 0 < float((mean - exact.total).norm()) < single


def test_bad_groups_are_refused():
    problem = small("lora", r=2)
    with pytest.raises(ValueError, match="by='module': 'subspace' holds no tensors"):
        coordinate_groups(small("subspace", d=4), "module")
    index = torch.arange(problem.delta.size)
    for groups in ({"all": index[1:]}, {"all": index, "twice": index[:1]}):
        with pytest.raises(ValueError, match="every one of the delta's"):
            part_tangent_rows(problem, groups, train=2)


def test_a_broken_network_is_told():
    problem = small("lora", r=2)
    with torch.no_grad():
        problem.backbone.layers[1].attention.self.value.weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="the Jacobian is not finite"):
        output_gramian(problem, examples=2, groups="module")


# Energy, ellipsoid, ball: on matrices.


def linear(outputs: int, controls: int, seed: int = 0, rank: int | None = None):
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(outputs, controls, generator=generator, dtype=torch.float64)
    if rank:
        J = torch.randn(outputs, rank, generator=generator, dtype=torch.float64) @ J[:rank]
    start = torch.randn(outputs, generator=generator, dtype=torch.float64)
    half = controls // 2
    parts = {"first": J[:, :half] @ J[:, :half].T, "second": J[:, half:] @ J[:, half:].T}
    return J, Gramian(J @ J.T, start, parts), generator


@pytest.mark.parametrize("seed", range(5))
def test_minimum_energy_is_that_of_the_least_squares_control(seed):
    J, gramian, generator = linear(4, 9, seed)
    target = torch.randn(4, generator=generator, dtype=torch.float64)
    found = minimum_energy(gramian, target)
    u = np.linalg.lstsq(J.numpy(), (target - gramian.start).numpy(), rcond=None)[0]
    assert found.status is Status.CONVERGED
    assert found.energy == pytest.approx(u @ u, rel=1e-10)
    np.testing.assert_allclose(J.numpy().T @ found.multipliers.numpy(), u, atol=1e-10)
    assert found.by_part["first"] == pytest.approx(u[:4] @ u[:4], rel=1e-9)
    assert sum(found.by_part.values()) == pytest.approx(found.energy)
    assert found.least_norm <= math.sqrt(found.energy) + 1e-12
    # Mutant: without the inverse the value is another one.
    change = target - gramian.start
    assert float(change @ gramian.total @ change) != pytest.approx(u @ u, rel=1e-3)


def test_targets_outside_the_range_are_infeasible_and_the_distance_is_told():
    J, gramian, generator = linear(5, 9, rank=2)
    inside = gramian.start + J @ torch.randn(9, generator=generator, dtype=torch.float64)
    assert minimum_energy(gramian, inside).status is Status.CONVERGED
    assert minimum_energy(gramian, inside).distance == 0
    normal = torch.linalg.svd(J).U[:, 2]
    found = minimum_energy(gramian, inside + 0.3 * normal)
    assert found.status is Status.INFEASIBLE
    assert found.distance == pytest.approx(0.3)
    assert "rank 2 of 5" in found.remedy
    assert found.energy == pytest.approx(minimum_energy(gramian, inside).energy)
    nothing = Gramian(torch.zeros(2, 2).double(), torch.zeros(2).double())
    stuck = minimum_energy(nothing, torch.ones(2).double())
    assert (stuck.status, stuck.least_norm, nothing.rank()) == (Status.INFEASIBLE, math.inf, 0)
    with pytest.raises(ValueError, match=r"targets: have shape \(4,\); needed are 5"):
        minimum_energy(gramian, inside[:4])
    with pytest.raises(ValueError, match="finite"):
        minimum_energy(gramian, inside * math.nan)


def test_the_ellipsoid_is_what_controls_of_that_energy_reach():
    J, gramian, generator = linear(3, 6)
    axes = gramian.semi_axes(2.0)
    u = torch.randn(6, 4000, generator=generator, dtype=torch.float64)
    u *= math.sqrt(2.0) / u.norm(dim=0)
    along = gramian.eigenvectors.T @ (J @ u)
    inside = (along / axes[:, None]).square().sum(0)
    assert inside.max() <= 1 + 1e-12
    assert ((along / (0.9 * axes[:, None])).square().sum(0) > 1).any()  # a smaller one is left
    for k in range(3):  # every vertex is reached at exactly that energy
        vertex = gramian.start + axes[k] * gramian.eigenvectors[:, k]
        assert minimum_energy(gramian, vertex).energy == pytest.approx(2.0)
    with pytest.raises(ValueError, match="energy=-1"):
        gramian.semi_axes(-1.0)


def test_the_certified_ball_is_tight_for_one_control():
    s, M = 0.8, 2.0
    gramian = Gramian(torch.full((1, 1), s * s, dtype=torch.float64), torch.zeros(1).double())
    ball = reachability_ball(gramian, M)
    u = torch.linspace(-ball.control_radius, ball.control_radius, 20001, dtype=torch.float64)
    reached = s * u - M / 2 * u * u.abs()  # its derivative s - M|u| is M-Lipschitz
    assert float(reached.max()) == pytest.approx(ball.radius, rel=1e-9)
    everywhere = torch.linspace(-5, 5, 100001, dtype=torch.float64)
    peak = (s * everywhere - M / 2 * everywhere * everywhere.abs())[everywhere.abs() <= s / M].max()
    assert float(peak) < 1.001 * ball.radius  # so a radius that is larger by a thousandth is false
    limited = reachability_ball(gramian, M, limit=0.1)
    assert limited.control_radius == 0.1
    assert limited.radius == pytest.approx(s * 0.1 - M * 0.005)


@pytest.mark.parametrize("seed", range(20))
def test_quadratic_maps_reach_the_certified_ball(seed):
    J, _, generator = linear(3, 5, seed)
    forms = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    forms = (forms + forms.transpose(1, 2)) / 2
    M = float(torch.linalg.matrix_norm(forms, 2).square().sum().sqrt())
    ball = reachability_ball(Gramian(J @ J.T, torch.zeros(3).double()), M)
    direction = torch.randn(3, generator=generator, dtype=torch.float64)
    target = 0.999 * ball.radius * direction / direction.norm()
    u = torch.zeros(5).double()
    for k in range(1, 401):  # the lifted path of the proof, with a Newton correction at every point
        for _ in range(3):
            value = J @ u + 0.5 * torch.einsum("oij,i,j->o", forms, u, u)
            slope = J + torch.einsum("oij,j->oi", forms, u)
            u = u + torch.linalg.pinv(slope) @ (k / 400 * target - value)
    value = J @ u + 0.5 * torch.einsum("oij,i,j->o", forms, u, u)
    assert (value - target).norm() < 1e-9
    assert u.norm() <= ball.control_radius


def test_what_is_an_estimate_is_called_so():
    _, gramian, _ = linear(3, 6)
    guessed = reachability_ball(gramian, JacobianLipschitz(2.0, 0.05, 10))
    assert guessed.estimated
    assert guessed.remedy.startswith("an estimate: M is a lower bound")
    assert guessed.control_radius <= 0.05
    given = reachability_ball(gramian, 2.0)
    assert (given.estimated, given.remedy) == (False, "")
    sketched = reachability_ball(replace(gramian, exact=False), 2.0)
    assert sketched.estimated
    assert "W is sketched" in sketched.remedy
    deficient = reachability_ball(linear(5, 9, rank=2)[1], 2.0)
    assert (deficient.radius, deficient.control_radius) == (0, 0)
    assert "rank 2 of 5" in deficient.remedy
    for bad in ({"lipschitz": 0.0}, {"lipschitz": math.inf}, {"lipschitz": 1.0, "limit": 0.0}):
        with pytest.raises(ValueError, match="must be above 0"):
            reachability_ball(gramian, **bad)


def test_a_ball_is_rounded_down():
    """Against the same in fractions: W = diag(1, w) with M whole, s²/(2M) at s/M."""
    for k in range(1, 400):
        w, M = k / 401, 1 + k % 7
        gramian = Gramian(torch.diag(torch.tensor([1.0, w], dtype=torch.float64)), torch.zeros(2).double())
        ball = reachability_ball(gramian, float(M))
        assert Fraction(ball.smallest) ** 2 <= Fraction(w)
        assert Fraction(ball.control_radius) <= Fraction(ball.smallest) / M
        assert Fraction(ball.radius) <= Fraction(w) / (2 * M)
        assert ball.radius == pytest.approx(w / (2 * M), rel=1e-10)


def test_the_lipschitz_estimate_is_a_lower_bound_that_finds_curvature():
    problem = small("lora", r=1)
    found = estimate_lipschitz(problem, examples=2, radius=0.05, draws=3)
    assert found.pairs == 6
    # In the small, ‖J(u) - J(0)‖/‖u‖ is the norm of the second derivative along u: by differences of logits.
    batch, _ = problem.batch(problem.train, range(2))
    features = tangent_rows(problem, train=2, test=0, sketch=problem.delta.size)
    u = features.rows.flatten(0, 1)[0]
    u, h = u / u.norm(), 1e-3

    def outputs(x):
        z = problem.logits(x, batch)
        return (z[:, 1:] - z[:, :1]).flatten()

    zero = problem.delta.initial()
    bend = (outputs(h * u) - 2 * outputs(zero) + outputs(-h * u)) / h**2
    assert 0.05 * float(bend.norm()) < found.value < math.inf
    for bad in ({"radius": 0.0}, {"radius": 1.0, "draws": 0}):
        with pytest.raises(ValueError, match="must be above 0"):
            estimate_lipschitz(problem, examples=2, **bad)


def test_the_gramian_is_drawn():
    pytest.importorskip("matplotlib")
    figure = output_gramian(small("lora", r=2), examples=2).plot()
    assert len(figure.axes) == 2
