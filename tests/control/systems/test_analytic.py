from __future__ import annotations

import numpy as np
import pytest
import torch

from deltatheory.control.systems.analytic import AnalyticSystem, Derivatives, namespace
from deltatheory.control.systems.examples import attention_head, cart_pole, linear_quadratic, pendulum

EXAMPLES = {
    "linear-quadratic": lambda: linear_quadratic(5, 2, 6),
    "pendulum": lambda: pendulum(np.random.default_rng(0).standard_normal((3, 2)), horizon=6),
    "cart-pole": lambda: cart_pole(np.random.default_rng(1).standard_normal((3, 4)), horizon=6),
    "attention": lambda: attention_head(3, 2, 2, 3),
}


def trajectory(system: AnalyticSystem, b: int = 2):
    g = np.random.default_rng(2)
    T, n, m = system.horizon, system.state_size, system.control_size
    return g.standard_normal((T + 1, b, n)), g.standard_normal((T, b, m)), g.standard_normal((T + 1, b, n))


def central(f, z: np.ndarray, h: float) -> np.ndarray:
    """Differences of f along each coordinate of z, the last axis of the result."""
    units = h * np.eye(z.shape[-1])
    return np.stack([(f(z + e) - f(z - e)) / (2 * h) for e in units], axis=-1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_derivatives_are_finite_differences(name):
    system = EXAMPLES[name]()
    states, controls, p = trajectory(system)
    n, t = system.state_size, np.arange(system.horizon)[:, None]
    z = np.concatenate([states[:-1], controls], axis=-1)

    def step(z):
        return system._step(t, z[..., :n], z[..., n:])

    def cost(z):
        return system._running(t, z[..., :n], z[..., n:])

    model = system.expand(states, controls)
    np.testing.assert_allclose(model.F, central(step, z, 1e-5), atol=1e-7)
    np.testing.assert_allclose(model.gradient, central(cost, z, 1e-5), atol=1e-7)
    np.testing.assert_allclose(
        model.terminal_gradient, central(system._terminal, states[-1], 1e-5), atol=1e-6
    )
    second = system.derivatives

    def slope(z):
        return second.running_cost(t, z[..., :n], z[..., n:])[0]

    def weighted(z):
        return (p[1:, ..., None] * second.step(t, z[..., :n], z[..., n:])).sum(-2)

    np.testing.assert_allclose(model.hessian, central(slope, z, 1e-5), atol=1e-7)
    end = central(lambda x: second.terminal_cost(x)[0], states[-1], 1e-5)
    np.testing.assert_allclose(model.terminal_hessian, end, atol=1e-6)
    np.testing.assert_allclose(system.curvature(states, controls, p), central(weighted, z, 1e-5), atol=1e-6)
    mutant = weighted(z) * 1.01  # the comparison sees a scale that is off by a hundredth
    assert name == "linear-quadratic" or not np.allclose(mutant, weighted(z), atol=1e-6)


@pytest.mark.parametrize("name", ["pendulum", "cart-pole", "linear-quadratic"])
def test_derivatives_by_hand_are_those_by_default(name):
    system = EXAMPLES[name]()
    plain = AnalyticSystem(
        system._step, system._running, system._terminal, system.x0, system.horizon, system.control_size
    )
    states, controls, p = trajectory(system)
    for ours, theirs in zip(
        vars(system.expand(states, controls)).values(),
        vars(plain.expand(states, controls)).values(),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    curvature = system.curvature(states, controls, p)
    np.testing.assert_allclose(curvature, plain.curvature(states, controls, p), atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_torch_face_is_the_numpy_one(name):
    system = EXAMPLES[name]()
    g = np.random.default_rng(3)
    controls = [torch.from_numpy(g.standard_normal(u.shape)) for u in system.zero_controls()]
    found = system.rollout(controls)
    x, states = system.x0, [system.x0]
    for t, u in enumerate(controls):
        x = system.advance(t, x, u.numpy())
        states.append(x)
    np.testing.assert_allclose(torch.stack(found.states).numpy(), np.stack(states), atol=1e-12)
    total = system.costs(np.stack(states), np.stack([u.numpy() for u in controls])).sum()
    assert float(found.cost) == pytest.approx(total, rel=1e-12)
    first = system.linearize(0, found.states[0], controls[0])
    width = first.A.dense(found.states[0])
    F = system.expand(
        np.stack([np.atleast_2d(s) for s in states]), np.stack([np.atleast_2d(u) for u in controls])
    ).F
    block = torch.block_diag(*torch.from_numpy(F[0, ..., : system.state_size].copy()))
    torch.testing.assert_close(width, block, rtol=0, atol=1e-12)


def test_the_head_is_one_head_of_attention():
    """Against torch's own attention, prefix in front of keys and values."""
    tokens, width, prefix = 3, 4, 2
    system = attention_head(tokens, width, prefix, 2, seed=5)
    generator = np.random.default_rng(5)
    weights = torch.from_numpy(generator.standard_normal((3, 2, width, width)) / np.sqrt(width))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tokens * width, generator=g, dtype=torch.float64)
    u = torch.randn(2 * prefix * width, generator=g, dtype=torch.float64)
    hidden, pair = x.view(tokens, width), u.view(2, prefix, width)
    q, k, v = (hidden @ weights[i, 1] for i in range(3))
    k, v = torch.cat([pair[0], k]), torch.cat([pair[1], v])
    expected = hidden + torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    torch.testing.assert_close(system.step(1, x, u), expected.flatten(), rtol=0, atol=1e-12)


def good(**change):
    options = {
        "step": lambda t, x, u: x + u,
        "running_cost": lambda t, x, u: (u * u).sum(-1),
        "terminal_cost": lambda x: (x * x).sum(-1),
        "x0": [1.0, 2.0],
        "horizon": 3,
        "control_size": 2,
    }
    return AnalyticSystem(**(options | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon=0"),
        ({"control_size": 0}, "control_size=0"),
        ({"x0": 1.0}, "x0: its shape"),
        ({"x0": [np.nan, 0.0]}, "x0: it has NaN"),
        ({"control_limits": (1.0, 0.0)}, "control_limits"),
        ({"control_limits": ([0.0, 1.0], [1.0, 1.0])}, "control_limits"),
        ({"step": lambda t, x, u: x.sum(-1)}, "step: on x of shape"),
        ({"step": lambda t, x, u: namespace(x).zeros(2) @ x}, "step: it fails on x of shape"),
        ({"running_cost": lambda t, x, u: (u * u).sum()}, "running_cost: on x of shape"),
        ({"terminal_cost": lambda x: x}, "terminal_cost: on x of shape"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        good(**change)


def test_derivatives_given_are_used():
    zero = Derivatives(
        lambda t, x, u: np.zeros((*x.shape, 4)),
        lambda t, x, u: (np.zeros((*x.shape[:-1], 4)), np.zeros((*x.shape[:-1], 4, 4))),
        lambda x: (np.zeros_like(x), np.zeros((*x.shape, 2))),
        lambda t, x, u, p: np.zeros((*x.shape[:-1], 4, 4)),
    )
    states, controls, _ = trajectory(good())
    assert not good(derivatives=zero).expand(states, controls).F.any()
    assert good().expand(states, controls).F.any()
