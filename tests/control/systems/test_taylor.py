"""Truncated Taylor arithmetic against torch, rule by rule, and where it gives way to torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltatheory.control.systems import AnalyticSystem, attention_head
from deltatheory.control.systems.analytic import _by_torch, namespace
from deltatheory.control.systems.taylor import TaylorArray, gradient_and_hessian, jacobian

A = np.random.default_rng(0).standard_normal((3, 3))
ROOM = np.random.default_rng(1).uniform(0.1, 0.9, (2, 1, 3))  # inside every domain below

SCALARS = {  # numpy and torch alike: m is the module
    "sin": lambda m, z: m.sin(z).sum(-1),
    "cos": lambda m, z: m.cos(z)[..., 0] * z[..., 1],
    "tan": lambda m, z: m.tan(z).sum(-1),
    "exp": lambda m, z: m.exp(z * z).sum(-1),
    "expm1": lambda m, z: m.expm1(z).sum(-1),
    "log": lambda m, z: m.log(z[..., 0] + z[..., 1]),
    "log1p": lambda m, z: m.log1p(z * z).sum(-1),
    "sqrt": lambda m, z: m.sqrt((z * z).sum(-1)),
    "square": lambda m, z: m.square(z - 2 * z[..., :1]).sum(-1),
    "reciprocal": lambda m, z: m.reciprocal(z).sum(-1),
    "sinh": lambda m, z: m.sinh(z).sum(-1),
    "cosh": lambda m, z: m.cosh(z).sum(-1),
    "tanh": lambda m, z: m.tanh(z * z[..., 1:2]).sum(-1),
    "arctan": lambda m, z: m.arctan(z * z).sum(-1),
    "arcsin": lambda m, z: m.arcsin(z).sum(-1),
    "arccos": lambda m, z: m.arccos(z).sum(-1),
    "arctan2": lambda m, z: m.arctan2(z[..., 0] * z[..., 2], z[..., 1] - 1),
    "abs": lambda m, z: abs(z[..., 0] * z[..., 1] - 0.5) + abs(-z[..., 2]),
    "maximum": lambda m, z: m.maximum(z[..., 0] * z[..., 1], z[..., 2] ** 3),
    "minimum": lambda m, z: m.minimum(z[..., 0] * z[..., 1], z[..., 2] ** 3),
    "where": lambda m, z: m.where(z[..., 0] > 0.4, z[..., 0] ** 3, z[..., 1] / z[..., 2]),
    "clip": lambda m, z: m.clip(z * z, 0.2, 0.5).sum(-1),
    "quotients": lambda m, z: z[..., 0] / z[..., 1] + 3 / z[..., 2] + z[..., 0] / 7,
    "powers": lambda m, z: z[..., 0] ** 2 * z[..., 1] ** -1.5 + z[..., 2] ** 1 + (z - z) [..., 0] ** 3,
    "power of a variable": lambda m, z: z[..., 0] ** z[..., 1] + 2.0 ** z[..., 2],
    "differences": lambda m, z: (1 - z[..., 0]) * (z[..., 1] - 1) * -(z[..., 2] - z[..., 0] * z[..., 1]),
    "constant first": lambda m, z: (m.asarray(A[0]) - z * z).sum(-1),
    "matrix": lambda m, z: ((z @ m.asarray(A)) * z).sum(-1),
    "matrix times column": lambda m, z: ((m.asarray(A) @ z[..., None])[..., 0] * z**2).sum(-1),
    "matrices of variables": lambda m, z: (z[..., :, None] @ z[..., None, :] @ z[..., None]).sum((-1, -2)),
    "stack": lambda m, z: (m.stack([z[..., 0] * z[..., 1], z[..., 2], 0 * z[..., 0] + 1], -1) ** 3).sum(-1),
    "concatenate": lambda m, z: (m.concatenate([z[..., 1:] ** 2, m.asarray(ROOM)], -1) ** 2).sum(-1),
    "reshape": lambda m, z: (z.reshape(*z.shape, 1).swapaxes(-1, -2) @ m.asarray(A)).sum((-1, -2)) ** 2,
    "mean": lambda m, z: (z * z * z).mean(-1, keepdims=True)[..., 0],
    "broadcast": lambda m, z: ((z[..., None, :] - m.asarray(A)) ** 4).sum((-1, -2)),
    "a mask": lambda m, z: z[..., [2, 0]].sum(-1) ** 2,
    "constant": lambda m, z: 0 * z[..., 0] + 3.0,
}  # fmt: skip


@pytest.mark.parametrize("name", SCALARS)
def test_every_rule_is_that_of_torch(name):
    f = SCALARS[name]
    z = torch.tensor(ROOM, requires_grad=True)
    total = f(torch, z).sum()
    (slope,) = torch.autograd.grad(total, z, create_graph=True)
    rows = [
        torch.autograd.grad(slope[..., i].sum(), z, retain_graph=True, materialize_grads=True)[0]
        if slope.requires_grad
        else torch.zeros_like(z)
        for i in range(3)
    ]
    gradient, hessian = gradient_and_hessian(lambda y: f(np, y), ROOM)
    np.testing.assert_allclose(gradient, slope.detach().numpy(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(hessian, torch.stack(rows, -1).detach().numpy(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(jacobian(lambda y: f(np, y)[..., None], ROOM)[..., 0, :], gradient, rtol=1e-15)


@pytest.mark.parametrize("call", [np.linalg.norm, np.asarray, np.cumsum, np.add.accumulate, float])
def test_what_has_no_rule_is_a_type_error_and_never_a_number(call):
    with pytest.raises(TypeError):
        call(TaylorArray(np.ones(2), np.ones((1, 2)), None, 2))


def test_a_system_takes_it_by_default_and_torch_where_there_is_no_rule():
    taylor = attention_head(3, 2, 1, 3)
    by_torch = _by_torch(taylor._step, taylor._running, taylor._terminal)
    g = np.random.default_rng(2)
    x, u, p = (g.standard_normal((3, 2, size)) for size in (6, 4, 6))
    t = taylor._times(2)
    np.testing.assert_allclose(taylor.derivatives.step(t, x, u), by_torch.step(t, x, u), atol=1e-14)
    np.testing.assert_allclose(
        taylor.derivatives.curvature(t, x, u, p), by_torch.curvature(t, x, u, p), atol=1e-13
    )

    calls = []

    def step(t, x, u):
        calls.append(type(x))
        return namespace(x).hypot(x, 0 * x + 3.0) + u  # numpy's has no rule

    other = AnalyticSystem(step, lambda t, x, u: (u * u).sum(-1), lambda x: (x * x).sum(-1), [1.0, 2.0], 2, 2)
    F = other.expand(np.full((3, 1, 2), 4.0), np.zeros((2, 1, 2))).F[0, 0]
    np.testing.assert_allclose(F, [[0.8, 0.0, 1.0, 0.0], [0.0, 0.8, 0.0, 1.0]])
    assert TaylorArray in calls


def test_functions_written_for_numpy_alone_are_enough():
    system = AnalyticSystem(
        lambda t, x, u: x + 0.1 * np.sin(x) + u,
        lambda t, x, u: np.sum(u * u, axis=-1),
        lambda x: np.exp(x[..., 0]) + x[..., 0] ** 2,
        [1.0],
        3,
        1,
    )
    F = system.expand(np.zeros((4, 1, 1)), np.zeros((3, 1, 1))).F
    np.testing.assert_allclose(F, np.broadcast_to([1.1, 1.0], F.shape))
