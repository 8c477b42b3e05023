"""The discrete maximum principle, in the minimum convention: H_t(x, u, p) = ℓ_t(x, u) + p · f_t(x, u).

Costates run backwards, p_T = ∇Φ(x_T), p_t = ∂H_t/∂x (x_t, u_t, p_{t+1}), and ∂J/∂u_t = ∂H_t/∂u_t exactly: the
adjoint sweep is back-propagation (Li et al. 2017, arXiv:1710.09513). So where u_t is free, a local minimum of
J has ∂H_t/∂u_t = 0. That u_t also minimizes H_t holds only under convexity: f_t affine and ℓ_t convex in u_t
over a convex set U are enough (Halkin 1966; Holtzman 1966). Without it the minimum condition is false in
discrete time: x_1 = u, Φ = x², ℓ = -c u², U = [-1, 1], 0 < c < 1 has its optimum at u = 0, where H = -c u².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatheory import autodiff
from deltatheory._shapes import Float
from deltatheory.control.systems.system import System, Trajectory
from deltatheory.results import Result

__all__ = [
    "MaximumPrinciple",
    "Sweep",
    "costates",
    "hamiltonian",
    "maximum_principle",
    "stationarity",
    "sweep",
]

_TRIALS = 3  # random pairs of controls that a hypothesis is tried on


def hamiltonian(system: System, t: int, x: Tensor, u: Tensor, p: Tensor) -> Float[Tensor, ""]:
    """Return H_t(x, u, p) = ℓ_t(x, u) + p · f_t(x, u).

    >>> from deltatheory.control import AnalyticSystem
    >>> half = lambda z: 0.5 * (z * z).sum(-1)
    >>> system = AnalyticSystem(lambda t, x, u: x + u, lambda t, x, u: half(u), half, [1.0], 2, 1)
    >>> x, u, p = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 2.0, 3.0))
    >>> float(hamiltonian(system, 0, x, u, p))  # ½ 2² + 3 (1 + 2)
    11.0

    Args:
        system: with horizon T.
        t: 0 .. T-1.
        x: x_t.
        u: u_t.
        p: p_{t+1}, shaped as x_{t+1}.
    """
    return system.running_cost(t, x, u) + (p * system.step(t, x, u)).sum()


def costates(system: System, trajectory: Trajectory) -> list[Tensor]:
    """Return p_0 .. p_T, p_t shaped as x_t: p_T = ∇Φ(x_T), p_t = ∂H_t/∂x (x_t, u_t, p_{t+1}).

    p_t is the derivative in x_t of what the controls cost from there on. One forward pass, and one backward
    pass through the states only.

    >>> from deltatheory.control import AnalyticSystem
    >>> half = lambda z: 0.5 * (z * z).sum(-1)
    >>> system = AnalyticSystem(lambda t, x, u: 2 * x + u, lambda t, x, u: half(u), half, [1.0], 2, 1)
    >>> run = system.rollout(system.zero_controls())  # x = 1, 2, 4
    >>> [float(p) for p in costates(system, run)]  # p_2 = x_2, and each step doubles
    [16.0, 8.0, 4.0]
    """
    p = [autodiff.grad(system.terminal_cost, trajectory.states[-1]).detach()]
    for t in reversed(range(system.horizon)):
        x, u = trajectory.states[t], trajectory.controls[t]
        p.insert(0, autodiff.grad(lambda y, t=t, u=u: hamiltonian(system, t, y, u, p[0]), x).detach())
    system.count(backward=0.5)  # activations only: no gradient of a control is formed
    return p


def stationarity(system: System, trajectory: Trajectory, costates: Sequence[Tensor]) -> list[Tensor]:
    """Return ∂H_t/∂u (x_t, u_t, p_{t+1}) = ∂J/∂u_t for t = 0 .. T-1.

    >>> from deltatheory.control import AnalyticSystem
    >>> half = lambda z: 0.5 * (z * z).sum(-1)
    >>> system = AnalyticSystem(lambda t, x, u: x + u, lambda t, x, u: half(u), half, [1.0], 1, 1)
    >>> run = system.rollout([torch.tensor([-0.5]).double()])  # the optimum: u + p_1 = -½ + ½
    >>> [float(g) for g in stationarity(system, run, costates(system, run))]
    [0.0]

    Args:
        system: with horizon T.
        trajectory: x_0 .. x_T and u_0 .. u_{T-1}.
        costates: p_0 .. p_T, from `costates`.
    """
    x = trajectory.states
    gradients = [
        autodiff.grad(lambda v, t=t: hamiltonian(system, t, x[t], v, costates[t + 1]), u).detach()
        for t, u in enumerate(trajectory.controls)
    ]
    system.count(backward=1.0)
    return gradients


@dataclass(frozen=True, eq=False)
class Sweep:
    """A trajectory with its costates p_0 .. p_T and gradients ∂J/∂u_0 .. ∂J/∂u_{T-1}."""

    trajectory: Trajectory
    costates: list[Tensor]
    gradients: list[Tensor]


def sweep(system: System, controls: Sequence[Tensor]) -> Sweep:
    """Return what rollout, `costates` and `stationarity` return, from one forward and one backward pass.

    Args:
        system: with horizon T.
        controls: u_0 .. u_{T-1}.

    Raises:
        ValueError: for a number of controls other than the horizon.
    """
    if len(controls) != system.horizon:
        raise ValueError(f"controls: there are {len(controls)}; the horizon is {system.horizon}.")
    leaves = [u.detach().requires_grad_() for u in controls]
    states = [system.initial_state().detach().requires_grad_()]
    cost: Tensor | float = 0.0
    with torch.enable_grad():
        for t, u in enumerate(leaves):
            cost = cost + system.running_cost(t, states[t], u)
            x = system.step(t, states[t], u)
            states.append(x if x.requires_grad else x.requires_grad_())  # no control has acted so far
        cost = cost + system.terminal_cost(states[-1])
    gradients = torch.autograd.grad(cost, [*states, *leaves], materialize_grads=True)
    system.count(backward=1.0)
    run = Trajectory([x.detach() for x in states], [u.detach() for u in leaves], cost.detach())
    return Sweep(run, list(gradients[: len(states)]), list(gradients[len(states) :]))


def projected(u: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """Return the point of U nearest to u; U is the box of `bounds`, or everything."""
    return u if bounds is None else u.clamp(*bounds)


@dataclass(frozen=True, eq=False)
class MaximumPrinciple(Result):
    """How far controls are from the discrete maximum principle, step by step.

    Attributes:
        cost: J.
        hamiltonian: H_t(x_t, u_t, p_{t+1}), t = 0 .. T-1.
        residual: ‖u_t - Π_U(u_t - ∂J/∂u_t)‖, which is ‖∂J/∂u_t‖ where U has no bounds: 0 at every local
            minimum. Copies of a coordinate that acts in several steps are summed.
        costate_norm: ‖p_t‖, t = 0 .. T.
        gap: where the minimum condition applies, a bound on H_t(u_t) - min over U of H_t (without bounds,
            over the ball of `radius` around u_t); `None` elsewhere.
        reason: why the minimum condition does not apply; "" where it does.
    """

    cost: float
    hamiltonian: tuple[float, ...]
    residual: tuple[float, ...]
    costate_norm: tuple[float, ...]
    gap: tuple[float | None, ...]
    reason: tuple[str, ...]


def maximum_principle(
    system: System,
    controls: Sequence[Tensor],
    *,
    bounds: tuple[float, float] | None = None,
    radius: float = 1.0,
    seed: int = 0,
) -> MaximumPrinciple:
    """Measure stationarity in every step, and the minimum condition where its hypotheses hold.

    The minimum condition is asked of step t only if u_t is its own (no coordinate acts in another step too),
    f_t is affine in u_t and ℓ_t is convex in u_t. Then H_t is convex in u_t, and the gap
    max over v in U of ∂H_t/∂u · (u_t - v) bounds H_t(u_t) - min H_t (Frank & Wolfe 1956). Affine and convex
    are tried on random pairs of controls, to the square root of rounding: a "no" is certain, a "yes" is not
    a proof.

    Args:
        system: with horizon T.
        controls: u_0 .. u_{T-1}.
        bounds: U is the box of all u with bounds[0] <= u_i <= bounds[1]; `None` for no bounds.
        radius: without bounds, how far from u_t the trials go and the gap looks.
        seed: of the trials.

    Raises:
        ValueError: for a number of controls other than the horizon, controls outside the bounds, or a radius
            that is not above 0.
    """
    if not radius > 0:
        raise ValueError(f"radius={radius}: must be above 0.")
    if bounds is not None and any(not torch.equal(projected(u, bounds), u) for u in controls):
        raise ValueError(f"controls: some are outside bounds={bounds}.")
    run = sweep(system, controls)
    states, us = run.trajectory.states, run.trajectory.controls
    gradients = system.reduced(run.gradients)
    generator = torch.Generator().manual_seed(seed)

    def near(u: Tensor) -> Tensor:
        drawn = torch.rand(u.shape, generator=generator, dtype=torch.float64)
        if bounds is not None:
            return (bounds[0] + (bounds[1] - bounds[0]) * drawn).to(u)
        return u + radius * (2 * drawn - 1).to(u)

    reasons = []
    with torch.no_grad():
        energies = [
            float(hamiltonian(system, t, states[t], u, run.costates[t + 1])) for t, u in enumerate(us)
        ]
        for t, u in enumerate(us):
            pairs = [(near(u), near(u)) for _ in range(_TRIALS)] if u.numel() else []
            reasons.append(_reason(system, t, states[t], pairs))
    gaps = [
        None if reason else _gap(u, g, bounds, radius)
        for u, g, reason in zip(us, gradients, reasons, strict=True)
    ]
    residuals = [float((u - projected(u - g, bounds)).norm()) for u, g in zip(us, gradients, strict=True)]
    return MaximumPrinciple(
        float(run.trajectory.cost),
        tuple(energies),
        tuple(residuals),
        tuple(float(p.norm()) for p in run.costates),
        tuple(gaps),
        tuple(reasons),
    )


def _reason(system: System, t: int, x: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Return why the minimum condition does not apply to step t, or ""."""
    if system.shares(t):
        return "u_t has coordinates that act in other steps too"
    for a, b in pairs:
        middle = (a + b) / 2
        f, g, h = (system.step(t, x, u) for u in (a, b, middle))
        rounding = torch.finfo(f.dtype).eps
        slack = rounding**0.5
        if (f + g - 2 * h).norm() > slack * (f - g).norm() + 100 * rounding * (f.norm() + g.norm()):
            return "f_t is not affine in u_t"
        k, l, m = (system.running_cost(t, x, u) for u in (a, b, middle))
        if k + l - 2 * m < -slack * (abs(k) + abs(l)):
            return "ℓ_t is not convex in u_t"
    return ""


def _gap(u: Tensor, g: Tensor, bounds: tuple[float, float] | None, radius: float) -> float:
    """Return max over v of g · (u - v)."""
    if bounds is None:
        return radius * float(g.norm())
    return float(torch.maximum(g * (u - bounds[0]), g * (u - bounds[1])).sum())
