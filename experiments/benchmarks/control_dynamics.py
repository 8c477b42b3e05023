"""What moves in the bank of problems: steps, and rates with the rules that make steps of them.

Each takes a module, the time, and the components of state and control, as `Stated` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.benchmarks.control_stated import Parts


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


def pendulum_rates(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    return [x[1], u[0] - 9.81 * m.sin(x[0]) - 0.1 * x[1]]


def symplectic_pendulum(dt: float) -> Callable[..., Parts]:
    def step(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
        rate = x[1] + dt * pendulum_rates(m, t, x, u)[1]
        return [x[0] + dt * rate, rate]

    return step


def cart_pole_step(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    s, c = m.sin(x[1]), m.cos(x[1])
    a = (u[0] + 0.3 * s * (x[3] * x[3] + 9.81 * c)) / (1 + 0.3 * s * s)
    velocity = x[2] + 0.05 * a
    rate = x[3] - 0.05 * (a * c + 9.81 * s)
    return [x[0] + 0.05 * velocity, x[1] + 0.05 * rate, velocity, rate]


def van_der_pol(stiffness: float) -> Callable[..., Parts]:
    return lambda m, t, x, u: [stiffness * (1 - x[1] * x[1]) * x[0] - x[1] + u[0], x[0]]


def costed_van_der_pol(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """The oscillator and what it has cost so far."""
    return [*van_der_pol(1.0)(m, t, x[:2], u), squares(x[:2]) + u[0] * u[0]]


def acrobot_rates(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
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


def quadrotor_rates(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """Planar: position, height, tilt and their rates; two rotors, 1 kg."""
    lift = u[0] + u[1]
    return [x[3], x[4], x[5], -lift * m.sin(x[2]), lift * m.cos(x[2]) - 9.81, 4 * (u[0] - u[1])]


def unicycle_step(h: float) -> Callable[..., Parts]:
    return lambda m, t, x, u: [x[0] + h * u[0] * m.cos(x[2]), x[1] + h * u[0] * m.sin(x[2]), x[2] + h * u[1]]


def fishing_rates(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """Prey, predators and what they have cost so far."""
    prey, hunters, _ = x
    return [
        prey - prey * hunters - 0.4 * prey * u[0],
        -hunters + prey * hunters - 0.2 * hunters * u[0],
        (prey - 1) * (prey - 1) + (hunters - 1) * (hunters - 1),
    ]


def reactor_rates(m: Any, t: Any, x: Parts, u: Parts) -> Parts:
    """Concentration and temperature of a stirred tank, from its steady state (Kirk, 1970, section 6.2)."""
    a, b = x
    heat = (a + 0.5) * m.exp(25 * b / (b + 2))
    return [0.5 - a - heat, -2 * (b + 0.25) + heat - u[0] * (b + 0.25)]
