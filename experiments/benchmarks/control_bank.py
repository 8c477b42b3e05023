"""Optimal-control problems with known optima, each written once for numpy, torch and CasADi.

A step and its cost take the components of state and control as they come, numbers, arrays or symbols, and the
module whose `sin`, `exp`, ... fit them. The optimum is a closed form, or what IPOPT finds from several starts
for the same discrete problem with states and controls as unknowns; where a source publishes a number, it
is said.

`experiments.benchmarks.control` measures on it, and writes what IPOPT finds beside the optima below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BANK", "Stated", "certified", "crocoddyl", "ipopt"]

Parts = Sequence[Any]


@dataclass(frozen=True)
class Stated:
    """min Σ_{t<T} ℓ(t, x_t, u_t) + Φ(x_T) with x_{t+1} = f(t, x_t, u_t), low <= u <= high.

    Attributes:
        statement: in words.
        source: where it, or its like, is from.
        step: (module, t, x, u) ↦ components of f.
        running: (module, t, x, u) ↦ ℓ.
        terminal: (module, x) ↦ Φ.
        x0: initial state.
        horizon: T.
        optimum: the least cost known.
        limits: low and high, the same for all controls or one for each.
        start: the controls that solvers begin with, t ↦ u; 0 by default.
        controls: m.
        stage: (module, t, x, u) ↦ components of g(t, x_t, u_t) <= 0, t < T.
        end: (module, x) ↦ components of g_T(x_T) <= 0.
        goal: (module, x) ↦ components of h(x_T) = 0.
        tolerance: relative to the optimum, and absolute to 1e-6 where that is 0.
    """

    statement: str
    source: str
    step: Callable[[Any, Any, Parts, Parts], Parts]
    running: Callable[[Any, Any, Parts, Parts], Any]
    terminal: Callable[[Any, Parts], Any]
    x0: tuple[float, ...]
    horizon: int
    optimum: float
    limits: tuple[Any, Any] | None = None
    start: Callable[[int], Parts] | None = None
    controls: int = 1
    stage: Callable[[Any, Any, Parts, Parts], Parts] | None = None
    end: Callable[[Any, Parts], Parts] | None = None
    goal: Callable[[Any, Parts], Parts] | None = None
    tolerance: float = 1e-6

    def system(self) -> Any:
        """Return the problem as an `AnalyticSystem`, or a `ConstrainedSystem` where there are constraints."""
        from deltatheory.control.systems import AnalyticSystem, ConstrainedSystem
        from deltatheory.control.systems.analytic import namespace

        def parts(z: Any) -> list[Any]:
            return [z[..., i] for i in range(z.shape[-1])]

        def whole(like: Any, values: Parts) -> Any:
            shape = like.shape[:-1]
            full = [v if np.shape(v) == shape else v + 0 * like[..., 0] for v in values]
            return namespace(like).stack(full, -1)

        system = AnalyticSystem(
            lambda t, x, u: whole(x, self.step(namespace(x), t, parts(x), parts(u))),
            lambda t, x, u: self.running(namespace(x), t, parts(x), parts(u)) + 0 * x[..., 0],
            lambda x: self.terminal(namespace(x), parts(x)) + 0 * x[..., 0],
            self.x0,
            self.horizon,
            self.controls,
            control_limits=self.limits,
        )
        if not self.constrained:
            return system
        stage, end, goal = self.stage, self.end, self.goal
        return ConstrainedSystem(
            system,
            stage and (lambda t, x, u: whole(x, stage(namespace(x), t, parts(x), parts(u)))),
            end and (lambda x: whole(x, end(namespace(x), parts(x)))),
            goal and (lambda x: whole(x, goal(namespace(x), parts(x)))),
        )

    @property
    def constrained(self) -> bool:
        """Whether there is a constraint beside the limits."""
        return not (self.stage is None and self.end is None and self.goal is None)

    def first(self) -> np.ndarray:
        """Return the controls to start from, (T, m)."""
        if self.start is None:
            return np.zeros((self.horizon, self.controls))
        return np.array([self.start(t) for t in range(self.horizon)], dtype=float)


def euler(f: Callable[..., Parts], h: float) -> Callable[..., Parts]:
    """One explicit step of x' = f(module, t, x, u)."""
    return lambda m, t, x, u: [a + h * b for a, b in zip(x, f(m, t, x, u), strict=True)]


def runge_kutta(f: Callable[..., Parts], h: float, substeps: int = 1) -> Callable[..., Parts]:
    """Classical steps of fourth order, the control held."""

    def moved(x: Parts, k: Parts, by: float) -> Parts:
        return [a + by * b for a, b in zip(x, k, strict=True)]

    def step(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
        d = h / substeps
        for _ in range(substeps):
            k1 = f(m, t, x, u)
            k2 = f(m, t, moved(x, k1, d / 2), u)
            k3 = f(m, t, moved(x, k2, d / 2), u)
            k4 = f(m, t, moved(x, k3, d), u)
            x = [a + d / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(x, k1, k2, k3, k4, strict=True)]
        return x

    return step


def squares(z: Parts, weights: Parts | None = None) -> Any:
    """Return Σ w z²."""
    terms = [a * a if weights is None else w * a * a for a, w in zip(z, weights or z, strict=True)]
    return sum(terms[1:], terms[0])


def nothing(m: Any, x: Parts) -> Any:
    """No terminal cost."""
    return 0 * x[0]


def _pendulum(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    return [x[1], u[0] - 9.81 * m.sin(x[0]) - 0.1 * x[1]]


def _symplectic_pendulum(dt: float) -> Callable[..., Parts]:
    def step(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
        rate = x[1] + dt * _pendulum(m, t, x, u)[1]
        return [x[0] + dt * rate, rate]

    return step


def _cart_pole(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    s, c = m.sin(x[1]), m.cos(x[1])
    a = (u[0] + 0.3 * s * (x[3] * x[3] + 9.81 * c)) / (1 + 0.3 * s * s)
    velocity = x[2] + 0.05 * a
    rate = x[3] - 0.05 * (a * c + 9.81 * s)
    return [x[0] + 0.05 * velocity, x[1] + 0.05 * rate, velocity, rate]


def _van_der_pol(stiffness: float) -> Callable[..., Parts]:
    return lambda m, t, x, u: [stiffness * (1 - x[1] * x[1]) * x[0] - x[1] + u[0], x[0]]


def _costed_van_der_pol(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """The oscillator and what it has cost so far."""
    return [*_van_der_pol(1.0)(m, t, x[:2], u), squares(x[:2]) + u[0] * u[0]]


def _acrobot(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """Two links of 1 kg and 1 m as rods, torque at the elbow (Spong, 1995)."""
    q1, q2, r1, r2 = x
    lc, inertia, g = 0.5, 1 / 12, 9.81
    d11 = lc * lc + 1 + lc * lc + 2 * lc * m.cos(q2) + 2 * inertia
    d12 = lc * lc + lc * m.cos(q2) + inertia
    d22 = lc * lc + inertia
    c1 = -lc * m.sin(q2) * (r2 * r2 + 2 * r1 * r2)
    c2 = lc * m.sin(q2) * r1 * r1
    g1 = (lc + 1) * g * m.sin(q1) + lc * g * m.sin(q1 + q2)
    g2 = lc * g * m.sin(q1 + q2)
    p1, p2 = -c1 - g1 - 0.1 * r1, u[0] - c2 - g2 - 0.1 * r2
    det = d11 * d22 - d12 * d12
    return [r1, r2, (d22 * p1 - d12 * p2) / det, (d11 * p2 - d12 * p1) / det]


def _quadrotor(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """Planar: position, height, tilt and their rates; two rotors, 1 kg."""
    lift = u[0] + u[1]
    return [x[3], x[4], x[5], -lift * m.sin(x[2]), lift * m.cos(x[2]) - 9.81, 4 * (u[0] - u[1])]


def _unicycle(h: float) -> Callable[..., Parts]:
    return lambda m, t, x, u: [x[0] + h * u[0] * m.cos(x[2]), x[1] + h * u[0] * m.sin(x[2]), x[2] + h * u[1]]


def _fishing(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """Prey, predators and what they have cost so far."""
    prey, hunters, _ = x
    return [
        prey - prey * hunters - 0.4 * prey * u[0],
        -hunters + prey * hunters - 0.2 * hunters * u[0],
        (prey - 1) * (prey - 1) + (hunters - 1) * (hunters - 1),
    ]


def _reactor(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """Concentration and temperature of a stirred tank, from its steady state (Kirk, 1970, section 6.2)."""
    a, b = x
    heat = (a + 0.5) * m.exp(25 * b / (b + 2))
    return [0.5 - a - heat, -2 * (b + 0.25) + heat - u[0] * (b + 0.25)]


GOLDEN = (1 + math.sqrt(5)) / 2

BANK: dict[str, Stated] = {
    "golden ratio": Stated(
        "x' = x + u, ½Σ(x² + u²), from 1: P = 1 + P/(1 + P)",
        "textbook; closed form, ½ of the golden ratio, as T is long",
        lambda m, t, x, u: [x[0] + u[0]],
        lambda m, t, x, u: 0.5 * (x[0] * x[0] + u[0] * u[0]),
        lambda m, x: 0.5 * x[0] * x[0],
        (1.0,),
        60,
        GOLDEN / 2,
    ),
    "tripling line": Stated(
        "unstable and long: x' = 3x + u, ½Σ(x² + u²), 1000 steps; u = 0 ends at 3^1000",
        "closed form, P² - 9P - 1 = 0",
        lambda m, t, x, u: [3 * x[0] + u[0]],
        lambda m, t, x, u: 0.5 * (x[0] * x[0] + u[0] * u[0]),
        lambda m, x: 0.5 * x[0] * x[0],
        (1.0,),
        1000,
        (9 + math.sqrt(85)) / 4,
    ),
    "doubling block": Stated(
        "unstable: x' = ((2, .1), (0, 2)) x + (0, 1) u, ½Σ(|x|² + u²), 200 steps",
        "a Jordan block; the algebraic Riccati equation by scipy.linalg.solve_discrete_are",
        lambda m, t, x, u: [2 * x[0] + 0.1 * x[1], 2 * x[1] + u[0]],
        lambda m, t, x, u: 0.5 * (squares(x) + u[0] * u[0]),
        lambda m, x: 0.5 * squares(x),
        (1.0, 1.0),
        200,
        2325.289967372,
    ),
    "least energy": Stated(
        "the double integrator from (1, 0) to rest at 0 in 1 s, by a penalty 10⁵: ½∫u², continuous: 6",
        "Bryson & Ho (1975), section 5.2",
        lambda m, t, x, u: [x[0] + 0.02 * x[1] + 2e-4 * u[0], x[1] + 0.02 * u[0]],
        lambda m, t, x, u: 0.01 * u[0] * u[0],
        lambda m, x: 5e4 * squares(x),
        (1.0, 0.0),
        50,
        6.001500376895,
    ),
    "stiff line": Stated(
        "stiff: six decoupled states of rates 10⁻² .. 10⁴ under one control, implicit Euler, T = 500",
        "made for this bank",
        lambda m, t, x, u: [
            (a + 0.01 * u[0]) / (1 + 0.01 * rate)
            for a, rate in zip(x, (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4), strict=True)
        ],
        lambda m, t, x, u: 0.005 * (squares(x) + u[0] * u[0]),
        lambda m, x: 0.5 * squares(x),
        (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        500,
        0.828566061194,
    ),
    "turning line": Stated(
        "time-varying: the direction of the control turns by 0.7 a step, unstable by 1.1 a step",
        "made for this bank",
        lambda m, t, x, u: [1.1 * x[0] + np.cos(0.7 * t) * u[0], 1.1 * x[1] + np.sin(0.7 * t) * u[0]],
        lambda m, t, x, u: 0.5 * (squares(x) + 0.1 * u[0] * u[0]),
        lambda m, x: 0.5 * squares(x),
        (1.0, -1.0),
        60,
        2.180245133861,
    ),
    "bang-bang": Stated(
        "x₁' = x₂, x₂' = u, |u| <= 1, no cost of u: ½Σ|x|²; the optimum is at its bounds, then singular",
        "textbook",
        lambda m, t, x, u: [x[0] + 0.1 * x[1], x[1] + 0.1 * u[0]],
        lambda m, t, x, u: 0.5 * squares(x),
        lambda m, x: 0.5 * squares(x),
        (3.0, 0.0),
        100,
        80.329331637,
        (-1.0, 1.0),
    ),
    "chattering": Stated(
        "Fuller's problem: x₁' = x₂, x₂' = u, |u| <= 1, ½∫x₁²: in continuous time ever quicker switches",
        "Fuller (1963)",
        lambda m, t, x, u: [x[0] + 0.05 * x[1], x[1] + 0.05 * u[0]],
        lambda m, t, x, u: 0.025 * x[0] * x[0],
        lambda m, x: 0.5 * squares(x),
        (1.0, 0.5),
        120,
        0.853249738,
        (-1.0, 1.0),
        tolerance=1e-5,
    ),
    "unstable in a box": Stated(
        "x' = 1.2x + u from 4, |u| <= 1, which is enough up to 5",
        "made for this bank",
        lambda m, t, x, u: [1.2 * x[0] + u[0]],
        lambda m, t, x, u: 0.5 * (x[0] * x[0] + u[0] * u[0]),
        lambda m, x: 0.5 * x[0] * x[0],
        (4.0,),
        40,
        41.856334675,
        (-1.0, 1.0),
    ),
    "correlated controls": Stated(
        "an oscillator under three controls with uᵀRu of condition 10³, each within its own bounds",
        "made for this bank",
        lambda m, t, x, u: [x[0] + 0.2 * x[1], x[1] - 0.2 * x[0] + 0.1 * (u[0] - 2 * u[1] + u[2])],
        lambda m, t, x, u: 0.5 * (squares(x) + squares([u[0] + u[1] + u[2]])) + 1e-3 * squares(u),
        lambda m, x: 5 * squares(x),
        (2.0, 0.0),
        40,
        24.623547860,
        ((-1.0, -0.3, -0.1), (1.0, 0.3, 2.0)),
        controls=3,
    ),
    "double well": Stated(
        "a mass goes from the ridge at 0 to the lower of the wells at ±1",
        "textbook",
        lambda m, t, x, u: [x[0] + 0.1 * x[1], x[1] + 0.1 * u[0]],
        lambda m, t, x, u: 0.05 * u[0] * u[0],
        lambda m, x: 10 * (x[0] * x[0] - 1) * (x[0] * x[0] - 1) + x[1] * x[1] + 0.5 * x[0],
        (0.0, 0.0),
        30,
        -0.341404459644,
    ),
    "pendulum": Stated(
        "swing-up of a damped pendulum, T = 100, semi-implicit Euler",
        "`deltatheory.control.systems.pendulum`; crocoddyl and a JAX iLQR agree",
        _symplectic_pendulum(0.05),
        lambda m, t, x, u: 0.025 * squares([x[0] - math.pi, x[1], u[0]], (1.0, 1.0, 0.1)),
        lambda m, x: 50 * squares([x[0] - math.pi, x[1]]),
        (0.0, 0.0),
        100,
        9.623984028715,
    ),
    "long pendulum": Stated(
        "the same over 1000 steps of 0.01 s",
        "as pendulum",
        _symplectic_pendulum(0.01),
        lambda m, t, x, u: 0.005 * squares([x[0] - math.pi, x[1], u[0]], (1.0, 1.0, 0.1)),
        lambda m, x: 50 * squares([x[0] - math.pi, x[1]]),
        (0.0, 0.0),
        1000,
        9.628623949796,
    ),
    "weak pendulum": Stated(
        "swing-up with |u| <= 5, less than the 9.81 that holds the pendulum level",
        "as in mpc.pytorch and gym, in angles",
        _symplectic_pendulum(0.05),
        lambda m, t, x, u: 0.025 * squares([x[0] - math.pi, x[1], u[0]], (1.0, 0.1, 0.1)),
        lambda m, x: 10 * squares([x[0] - math.pi, x[1]]),
        (0.0, 0.0),
        80,
        11.973962572777,
        (-5.0, 5.0),
    ),
    "discontinuous start": Stated(
        "the same from controls that jump between their bounds every other step",
        "as weak pendulum",
        _symplectic_pendulum(0.05),
        lambda m, t, x, u: 0.025 * squares([x[0] - math.pi, x[1], u[0]], (1.0, 0.1, 0.1)),
        lambda m, x: 10 * squares([x[0] - math.pi, x[1]]),
        (0.0, 0.0),
        80,
        11.973962572777,
        (-5.0, 5.0),
        start=lambda t: [5.0 if t // 2 % 2 else -5.0],
    ),
    "shaken pendulum": Stated(
        "time-varying: the pivot goes up and down, g (1 + ½ cos 4τ)",
        "made for this bank",
        lambda m, t, x, u: [
            x[0] + 0.05 * x[1],
            x[1]
            + 0.05 * (u[0] - 9.81 * (1 + 0.5 * np.cos(0.2 * t)) * m.sin(x[0] + 0.05 * x[1]) - 0.1 * x[1]),
        ],
        lambda m, t, x, u: 0.025 * squares([x[0] - math.pi, x[1], u[0]], (1.0, 1.0, 0.1)),
        lambda m, x: 50 * squares([x[0] - math.pi, x[1]]),
        (0.0, 0.0),
        60,
        8.840153772184,
    ),
    "cart-pole": Stated(
        "swing-up of a pole on a cart, T = 100, semi-implicit Euler",
        "`deltatheory.control.systems.cart_pole`; crocoddyl and a JAX iLQR agree",
        _cart_pole,
        lambda m, t, x, u: 0.0025 * squares([x[0], x[1] - math.pi, x[2], x[3]]) + 0.025 * u[0] * u[0],
        lambda m, x: 5 * squares([x[0], x[1] - math.pi, x[2], x[3]]),
        (0.0, 0.0, 0.0, 0.0),
        100,
        22.060293962490,
    ),
    "cart-pole in a box": Stated(
        "the same with |u| <= 5",
        "as cart-pole",
        _cart_pole,
        lambda m, t, x, u: 0.0025 * squares([x[0], x[1] - math.pi, x[2], x[3]]) + 0.025 * u[0] * u[0],
        lambda m, x: 5 * squares([x[0], x[1] - math.pi, x[2], x[3]]),
        (0.0, 0.0, 0.0, 0.0),
        100,
        22.073644282881,
        (-5.0, 5.0),
    ),
    "acrobot": Stated(
        "two links swing up by a torque at the elbow, explicit Euler, T = 50",
        "Spong (1995); trajax has its like",
        euler(_acrobot, 0.05),
        lambda m, t, x, u: 0.025 * (squares([x[0] - math.pi, *x[1:]]) * 0.1 + 0.1 * u[0] * u[0]),
        lambda m, x: 5 * squares([x[0] - math.pi, *x[1:]]),
        (0.0, 0.0, 0.0, 0.0),
        50,
        11.352105979536,
    ),
    "unicycle": Stated(
        "drive from (-1, -1, 1) to the origin, weights 10 and 1, T = 20",
        "crocoddyl, unicycle_towards_origin: 249.560897931",
        _unicycle(0.1),
        lambda m, t, x, u: 50 * squares(x) + 0.5 * squares(u),
        lambda m, x: 50 * squares(x),
        (-1.0, -1.0, 1.0),
        20,
        249.560897930822,
        controls=2,
    ),
    "van der Pol": Stated(
        "an oscillator in |u| <= 1 over 10 s, T = 20, four Runge-Kutta steps each",
        "CasADi, direct_single_shooting",
        runge_kutta(_costed_van_der_pol, 0.5, 4),
        lambda m, t, x, u: 0 * x[0],
        lambda m, x: x[2],
        (0.0, 1.0, 0.0),
        20,
        2.933007289243,
        (-1.0, 1.0),
    ),
    "stiff van der Pol": Stated(
        "the same with rates of 10, T = 100",
        "Hairer & Wanner (1996) for the equation",
        runge_kutta(_van_der_pol(10.0), 0.02, 2),
        lambda m, t, x, u: 0.01 * (squares(x) + 0.1 * u[0] * u[0]),
        lambda m, x: squares(x),
        (0.0, 1.0),
        100,
        1.233781148448,
    ),
    "minimum time": Stated(
        "the double integrator over a distance of 1 from rest to rest in |u| <= 1, its time a state that the "
        "first control sets: 2 s in continuous time, and by the rule of steps here",
        "Bryson & Ho (1975), section 3.9",
        lambda m, t, x, u: [
            x[0] + 0.02 * x[2] * (x[1] + 0.01 * x[2] * u[0]),
            x[1] + 0.02 * x[2] * u[0],
            x[2] + 1.0 * (t == 0) * u[1],
        ],
        lambda m, t, x, u: 1e-4 * (t != 0) * u[1] * u[1] + 1e-6 * u[0] * u[0],
        lambda m, x: x[2] + 1e3 * ((x[0] - 1) * (x[0] - 1) + x[1] * x[1]),
        (0.0, 0.0, 1.0),
        51,
        1.979841247169,
        ((-1.0, -0.5), (1.0, 5.0)),
        controls=2,
        tolerance=1e-5,
    ),
    "quadrotor": Stated(
        "a planar quadrotor flies 2 m aside and 1 m up, each rotor in [0, 10]",
        "made for this bank",
        euler(_quadrotor, 0.05),
        lambda m, t, x, u: 0.05 * squares([x[0] - 2, x[1] - 1, *x[2:]])
        + 0.001 * squares([u[0] - 4.905, u[1] - 4.905]),
        lambda m, x: 10 * squares([x[0] - 2, x[1] - 1, *x[2:]]),
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        50,
        7.661801984213,
        (0.0, 10.0),
        start=lambda t: [4.905, 4.905],
        controls=2,
    ),
    "obstacle by penalty": Stated(
        "a unicycle past a round obstacle that costs 20 exp(-4d²)",
        "crocoddyl and trajax have their like",
        _unicycle(0.1),
        lambda m, t, x, u: 0.05 * squares(u)
        + 2 * m.exp(-4 * ((x[0] - 1) * (x[0] - 1) + (x[1] - 0.1) * (x[1] - 0.1))),
        lambda m, x: 20 * squares([x[0] - 2, x[1], 0.1 * x[2]]),
        (0.0, 0.0, 0.0),
        40,
        4.073328134820,
        controls=2,
    ),
    "rendezvous": Stated(
        "two planar masses meet at one place with one velocity, four controls, T = 200",
        "the README of anassinator/ilqr has its like",
        lambda m, t, x, u: [
            *(a + 0.05 * v for a, v in zip(x[:4], x[4:], strict=True)),
            *(v + 0.05 * (f - 0.1 * v) for v, f in zip(x[4:], u, strict=True)),
        ],
        lambda m, t, x, u: squares([x[0] - x[2], x[1] - x[3], x[4] - x[6], x[5] - x[7]]) + 0.1 * squares(u),
        lambda m, x: squares([x[0] - x[2], x[1] - x[3], x[4] - x[6], x[5] - x[7]]),
        (0.0, 0.0, 10.0, 10.0, 0.0, -5.0, 5.0, 0.0),
        200,
        6340.772027184587,
        controls=4,
    ),
    "fishing": Stated(
        "Lotka-Volterra fishing over 12 s, 0 <= u <= 1, T = 120; continuous: 1.34408",
        "mintoc.de, the relaxed problem",
        runge_kutta(_fishing, 0.1),
        lambda m, t, x, u: 0 * x[0],
        lambda m, x: x[2],
        (0.5, 0.7, 0.0),
        120,
        1.344335182125,
        (0.0, 1.0),
        tolerance=1e-5,
    ),
    "stirred tank": Stated(
        "an exothermic reactor back to its steady state in 0.78 s, ∫(|x|² + 0.1 u²); published: 0.0268",
        "Kirk (1970), section 6.2",
        runge_kutta(_reactor, 0.0156),
        lambda m, t, x, u: 0.0156 * (squares(x) + 0.1 * u[0] * u[0]),
        nothing,
        (0.0, 0.05),
        50,
        0.026593549061330,
    ),
    "bounded tank": Stated(
        "the same in |u| <= 1 with a tenth of that price",
        "Kirk (1970), section 6.2",
        runge_kutta(_reactor, 0.0156),
        lambda m, t, x, u: 0.0156 * (squares(x) + 0.01 * u[0] * u[0]),
        lambda m, x: squares(x),
        (0.0, 0.05),
        50,
        0.005740405498683,
        (-1.0, 1.0),
    ),
    "exploding cube": Stated(
        "x' = x + x³ + u from 3: u = 0 overflows after nine of sixty steps",
        "made for this bank",
        lambda m, t, x, u: [x[0] + 0.1 * (x[0] + x[0] * x[0] * x[0] + u[0])],
        lambda m, t, x, u: 0.1 * (x[0] * x[0] + u[0] * u[0]),
        lambda m, x: x[0] * x[0],
        (3.0,),
        60,
        196.089015749990,
    ),
    "Bryson-Denham": Stated(
        "a cart goes from velocity 1 to -1 in 1 s and must not pass x = 1/9; continuous: 4",
        "Bryson & Ho (1975), section 3.11",
        lambda m, t, x, u: [x[0] + 0.02 * x[1] + 2e-4 * u[0], x[1] + 0.02 * u[0]],
        lambda m, t, x, u: 0.01 * u[0] * u[0],
        nothing,
        (0.0, 1.0),
        50,
        4.003438056926,
        stage=lambda m, t, x, u: [x[0] - 1 / 9],
        goal=lambda m, x: [x[0], x[1] + 1],
    ),
    "least energy to a point": Stated(
        "the double integrator from (1, 0) to rest at 0 in 1 s, exactly: ½∫u², continuous: 6",
        "Bryson & Ho (1975), section 5.2",
        lambda m, t, x, u: [x[0] + 0.02 * x[1] + 2e-4 * u[0], x[1] + 0.02 * u[0]],
        lambda m, t, x, u: 0.01 * u[0] * u[0],
        nothing,
        (1.0, 0.0),
        50,
        6.002400960384,
        goal=lambda m, x: [x[0], x[1]],
    ),
    "van der Pol above a floor": Stated(
        "as van der Pol, with the first state at least -0.25",
        "CasADi, direct_multiple_shooting",
        runge_kutta(_costed_van_der_pol, 0.5, 4),
        lambda m, t, x, u: 0 * x[0],
        lambda m, x: x[2],
        (0.0, 1.0, 0.0),
        20,
        3.732969484836,
        (-1.0, 1.0),
        stage=lambda m, t, x, u: [-0.25 - x[0]],
        end=lambda m, x: [-0.25 - x[0]],
    ),
    "obstacle": Stated(
        "a unicycle goes 2 m ahead around a disk of radius 0.4 and stops exactly there",
        "trajax and ALTRO have their like",
        _unicycle(0.1),
        lambda m, t, x, u: 0.05 * squares(u),
        nothing,
        (0.0, 0.0, 0.0),
        40,
        0.993263756859,
        controls=2,
        stage=lambda m, t, x, u: [0.16 - (x[0] - 1) * (x[0] - 1) - (x[1] - 0.1) * (x[1] - 0.1)],
        goal=lambda m, x: [x[0] - 2, x[1], x[2]],
        start=lambda t: [0.5, -0.2],
    ),
    "pendulum to the top": Stated(
        "2 s to rest at the top exactly in |u| <= 12, the rate at most 2.5: the cheapest",
        "made for this bank",
        _symplectic_pendulum(0.05),
        lambda m, t, x, u: 0.025 * u[0] * u[0],
        nothing,
        (0.0, 0.0),
        40,
        39.272663561162,
        (-12.0, 12.0),
        stage=lambda m, t, x, u: [x[1] - 2.5, -2.5 - x[1]],
        goal=lambda m, x: [x[0] - math.pi, x[1]],
    ),
}  # fmt: skip


def ipopt(stated: Stated) -> Callable[[np.ndarray], tuple[float, int]]:
    """Return controls ↦ cost and iterations of IPOPT from resting states and those; NaN where it fails.

    Multiple shooting: states and controls are unknowns and the dynamics equations, with exact second
    derivatives by CasADi.
    """
    import casadi

    T, n, m = stated.horizon, len(stated.x0), stated.controls
    X, U = casadi.SX.sym("x", n, T + 1), casadi.SX.sym("u", m, T)
    cost, equations, bounds = 0, [X[:, 0] - casadi.DM(stated.x0)], []
    for t in range(T):
        x, u = casadi.vertsplit(X[:, t]), casadi.vertsplit(U[:, t])
        cost += stated.running(casadi, t, x, u)
        equations.append(X[:, t + 1] - casadi.vertcat(*stated.step(casadi, t, x, u)))
        bounds += stated.stage(casadi, t, x, u) if stated.stage else []
    last = casadi.vertsplit(X[:, T])
    cost += stated.terminal(casadi, last)
    equations += stated.goal(casadi, last) if stated.goal else []
    bounds += stated.end(casadi, last) if stated.end else []
    equations, bounds = casadi.vertcat(*equations), casadi.vertcat(*bounds)
    program = {
        "x": casadi.vertcat(casadi.vec(X), casadi.vec(U)),
        "f": cost,
        "g": casadi.vertcat(equations, bounds),
    }
    quiet = {"ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes"}
    exact = {"ipopt.tol": 1e-10, "ipopt.max_iter": 3000, "ipopt.bound_relax_factor": 0.0}
    solver = casadi.nlpsol("bank", "ipopt", program, quiet | exact)
    low, high = (np.broadcast_to(limit, m) for limit in stated.limits or (-np.inf, np.inf))
    free = np.full(n * (T + 1), np.inf)
    box = {
        "lbg": np.append(np.zeros(equations.numel()), np.full(bounds.numel(), -np.inf)),
        "ubg": 0,
        "lbx": np.append(-free, np.tile(low, T)),
        "ubx": np.append(free, np.tile(high, T)),
    }

    def solve(controls: np.ndarray) -> tuple[float, int]:
        answer = solver(x0=np.append(np.tile(stated.x0, T + 1), controls), **box)
        done = solver.stats()
        return float(answer["f"]) if done["success"] else math.nan, done["iter_count"]

    return solve


def certified(stated: Stated, guesses: int = 3, seed: int = 0) -> tuple[float, str]:
    """Return the least cost that IPOPT finds from the start and random controls, and how often."""
    solve, rng = ipopt(stated), np.random.default_rng(seed)
    shape = stated.first().shape
    found = [solve(rng.standard_normal(shape) if guess else stated.first())[0] for guess in range(guesses)]
    least = np.nanmin(found)
    same = sum(value <= least + 1e-6 * (1 + abs(least)) for value in found)
    return float(least), f"{same} of {guesses}"


def crocoddyl(stated: Stated) -> Callable[[], tuple[float, int]]:
    """Return a solve by FDDP of crocoddyl, in a box by BoxFDDP: a model in Python scalars, by differences."""
    import crocoddyl as croc

    n, m, T = len(stated.x0), stated.controls, stated.horizon

    class Action(croc.ActionModelAbstract):
        def __init__(self, t: int) -> None:
            croc.ActionModelAbstract.__init__(self, croc.StateVector(n), m, 1)
            self.t = t

        def calc(self, data: Any, x: np.ndarray, u: np.ndarray | None = None) -> None:
            parts = x.tolist()
            if u is None or self.t == T:
                data.cost, data.xnext = stated.terminal(math, parts), x
                return
            controls = u.tolist()
            data.cost = stated.running(math, self.t, parts, controls)
            data.xnext = np.array(stated.step(math, self.t, parts, controls), dtype=float)

    models = []
    for t in range(T + 1):
        model = croc.ActionModelNumDiff(Action(t), False)
        if stated.limits is not None:
            model.u_lb, model.u_ub = (np.array(np.broadcast_to(one, m), dtype=float) for one in stated.limits)
        models.append(model)
    shooting = croc.ShootingProblem(np.array(stated.x0), models[:-1], models[-1])
    shooting.nthreads = 1

    def solve() -> tuple[float, int]:
        method = (croc.SolverFDDP if stated.limits is None else croc.SolverBoxFDDP)(shooting)
        method.th_stop = 1e-9
        controls = list(stated.first())
        method.solve(shooting.rollout(controls), controls, 300, True)
        return method.cost, method.iter + 1

    return solve
