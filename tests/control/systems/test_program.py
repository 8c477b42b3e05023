"""Straight-line programs: the numbers of numpy and Taylor arithmetic, and nothing that is no arithmetic."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from deltatheory.control import Status, solve
from deltatheory.control.systems.analytic import AnalyticSystem, _by_taylor
from deltatheory.control.systems.program import Program
from deltatheory.control.systems.taylor import SMOOTH
from experiments.benchmarks.control_bank import BANK

TIMES = np.arange(4)[:, None]


def system_of(f, terminal=lambda x: (x * x).sum(-1), **options) -> AnalyticSystem:
    x0, limits = options.get("x0", (0.3, 0.6)), options.get("limits")
    running = options.get("running", lambda t, x, u: (x * x).sum(-1) + (u * u).sum(-1))
    return AnalyticSystem(f, running, terminal, x0, 4, 1, control_limits=limits)


def agrees(system: AnalyticSystem, x: np.ndarray, u: np.ndarray) -> None:
    assert system.program is not None
    taylor = _by_taylor(system._step, system._running, system._terminal)
    p = np.random.default_rng(1).standard_normal(x.shape)
    for name, arguments in (
        ("step", (TIMES, x, u)),
        ("running_cost", (TIMES, x, u)),
        ("terminal_cost", (x,)),
    ):
        found, expected = (getattr(d, name)(*arguments) for d in (system.derivatives, taylor))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    found, expected = (d.curvature(TIMES, x, u, p) for d in (system.derivatives, taylor))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "ufunc", [one for one in SMOOTH if one is not np.absolute], ids=lambda one: one.__name__
)
def test_every_rule_is_that_of_taylor_arithmetic_and_floats_are_arrays(ufunc):
    def step(t, x, u):
        a, b, u = x[..., 0], x[..., 1], u[..., 0]
        inner = ufunc(0.4 + 0.02 * a * b + 0.01 * u * u)
        return np.stack(
            [0.1 * inner**2 / (2 - a) - (1 + b * b) ** -1.5, 1 / (2 + t + inner) - (-b) / 4 + a / 3], -1
        )

    system = system_of(step, limits=(-1.0, 1.0))
    g = np.random.default_rng(0)
    agrees(system, g.uniform(0.2, 0.8, (4, 3, 2)), g.uniform(0.2, 0.8, (4, 3, 1)))
    gains = g.uniform(-0.1, 0.1, (4, 1, 1, 2))
    offsets = np.array([0.3, 2.0, -2.0, 0.1]).reshape(4, 1, 1, 1)
    in_floats = system.follow(system.x0[None], offsets, gains)
    system.program = None
    for one, other in zip(in_floats, system.follow(system.x0[None], offsets, gains), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)
    assert in_floats[1][1:3].ravel().tolist() == [1.0, -1.0]


@pytest.mark.parametrize("name", ["pendulum", "turning line", "quadrotor", "fishing"])
def test_derivatives_of_the_bank_are_those_of_taylor_arithmetic(name):
    system = BANK[name].system()
    g = np.random.default_rng(0)
    agrees(system, *(g.standard_normal((4, 3, size)) for size in (system.state_size, system.control_size)))


def no_arithmetic(what: str):
    def step(t, x, u):
        if what == "where":
            return np.where(x > 0, x, 2 * x) + u
        if what == "if":
            return x + u if np.ndim(x) > 2 or x.flat[0] else u
        if what == "time":
            return np.array([1.0, 2.0, 3.0, 4.0])[t][..., None] * x + u
        if what == "equality":
            return x + np.where(np.equal(t, 0), 1.0, 2.0)[..., None] * u
        if what == "float":
            return np.asarray(x, dtype=float) + u
        return np.abs(x) + np.maximum(u, 0.0)

    return step


@pytest.mark.parametrize("what", ["where", "if", "time", "equality", "float", "maximum"])
def test_what_is_no_arithmetic_is_no_program_and_never_a_wrong_number(what):
    step = no_arithmetic(what)
    with pytest.raises((TypeError, IndexError)):
        Program(lambda t, z: step(t, z[..., :2], z[..., 2:]), 3)
    system = system_of(step)
    assert system.program is None
    states, _ = system.follow(system.x0[None], np.ones((4, 1, 1, 1)), np.zeros((4, 1, 1, 2)))
    x = system.x0[None]
    for t in range(4):
        x = system.advance(t, x, np.ones((1, 1)))
    np.testing.assert_array_equal(states[-1, :, 0], x)


def test_a_program_that_is_too_long_is_none():
    W = np.random.default_rng(0).standard_normal((60, 60))
    with pytest.raises(TypeError, match="more than"):
        Program(lambda t, z: z @ W, 60)


def test_where_floats_overflow_arrays_go_on():
    system = system_of(lambda t, x, u: np.exp(100 * x) + 1 / u, x0=(1.0, 1.0))
    with np.errstate(all="ignore"):
        states, _ = system.follow(system.x0[None], np.zeros((4, 1, 1, 1)), np.zeros((4, 1, 1, 2)))
    assert system.program is not None
    assert np.isinf(states[1]).all()
    assert not np.isfinite(states[2:]).any()


def test_what_is_nan_is_no_structural_zero():
    system = system_of(lambda t, x, u: 0.5 * x + u + 0 * np.sqrt(x), x0=(-1.0, 1.0))
    with np.errstate(all="ignore"):
        F = system.derivatives.step(TIMES, -np.ones((4, 1, 2)), np.zeros((4, 1, 1)))
        states, _ = system.follow(system.x0[None], np.zeros((4, 1, 1, 1)), np.zeros((4, 1, 1, 2)))
    assert system.program is not None
    assert np.isnan(F[..., 0, 0]).all()
    assert (F[..., 0, 1] == 0).all()
    assert np.isnan(states[1:, ..., 0]).all()


def test_powers_have_their_derivatives_at_zero():
    z = np.zeros((1, 2))
    for exponent, slope, bend in (
        (0, 0.0, 0.0),
        (1, 1.0, 0.0),
        (2, 0.0, 2.0),
        (3, 0.0, 0.0),
        (2.5, 0.0, 0.0),
    ):
        program = Program(lambda t, z, power=exponent: z[..., 0] ** power + z[..., 1], 2)
        gradient, hessian = program.gradient_and_hessian(0, z)
        assert gradient.tolist() == [[slope, 1.0]]
        assert hessian[0, 0].tolist() == [bend, 0.0]


def straight(t, x, u):
    return x + np.sin(u)


def paid(t, x, u):
    return (u * u).sum(-1)


def missed(x):
    return (x * x).sum(-1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda system: pickle.loads(pickle.dumps(system))])
def test_a_system_can_be_copied_and_sent_to_another_process(copied):
    system = AnalyticSystem(straight, paid, missed, [1.0], 3, 1)
    twin = copied(system)
    assert twin.program is not None
    x, u = np.ones((4, 1, 1)), np.full((3, 1, 1), 0.3)
    np.testing.assert_array_equal(twin.expand(x, u).F, system.expand(x, u).F)


def test_other_costs_keep_the_program_of_the_dynamics():
    system = BANK["Bryson-Denham"].system()
    multipliers = system.values(np.zeros((51, 2)), np.zeros((50, 1)))
    assert system.augmented(multipliers, 10.0).program is system.system.program is not None


@pytest.mark.parametrize("what", ["step", "running_cost", "terminal_cost"])
def test_a_function_that_has_changed_since_is_refused_by_name(what):
    weight = {"step": 1.0, "running_cost": 1.0, "terminal_cost": 1.0}
    system = AnalyticSystem(
        lambda t, x, u: x + weight["step"] * u,
        lambda t, x, u: weight["running_cost"] * (u * u).sum(-1),
        lambda x: weight["terminal_cost"] * (x * x).sum(-1),
        *([1.0], 4, 1),
    )
    assert solve(system, "ddp").status is Status.CONVERGED
    weight[what] = 2.0
    with pytest.raises(ValueError, match=f"{what}: it returns other values than when the system was made"):
        solve(system, "ddp")


def test_a_function_that_draws_is_refused():
    rng = np.random.default_rng(0)
    system = system_of(lambda t, x, u: x + u + rng.standard_normal())
    with pytest.raises(ValueError, match="step: it returns other values"):
        solve(system, "ddp")
