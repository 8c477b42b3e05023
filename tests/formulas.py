"""Small systems written as formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deltatheory.control.systems.system import System


class Formula(System):
    """x_0, m controls a step, f(t, x, u), ℓ(t, x, u) and Φ(x)."""

    def __init__(
        self,
        x0: Tensor,
        sizes: list[int],
        step: Callable[[int, Tensor, Tensor], Tensor],
        terminal: Callable[[Tensor], Tensor],
        running: Callable[[int, Tensor, Tensor], Tensor] = lambda t, x, u: 0.0 * u.sum(),
    ) -> None:
        self.x0, self.sizes, self.horizon = x0, sizes, len(sizes)
        self._step, self._terminal, self._running = step, terminal, running

    def initial_state(self) -> Tensor:
        return self.x0

    def zero_controls(self) -> list[Tensor]:
        return [self.x0.new_zeros(m) for m in self.sizes]

    def step(self, t: int, x: Tensor, u: Tensor) -> Tensor:
        return self._step(t, x, u)

    def running_cost(self, t: int, x: Tensor, u: Tensor) -> Tensor:
        return self._running(t, x, u)

    def terminal_cost(self, x: Tensor) -> Tensor:
        return self._terminal(x)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scalar(start: float) -> Tensor:
    return torch.tensor([start], dtype=torch.float64)


def concave(c: float) -> Formula:
    """x_1 = u, Φ = x², ℓ = -c u²: for 0 < c < 1 the optimum is u = 0, which maximizes H (Butkovskii 1963)."""
    return Formula(scalar(0.0), [1], lambda t, x, u: u, lambda x: x @ x, lambda t, x, u: -c * (u @ u))


def overshoot() -> Formula:
    """x_1 = u, Φ = ½(x - 0.1)²: at u = 0, J = .005, H is linear and its minimum over [-1, 1] is at u = 1."""
    return Formula(scalar(0.0), [1], lambda t, x, u: u, lambda x: 0.5 * (x - 0.1) @ (x - 0.1))


def linear_quadratic(T: int = 4, n: int = 3, m: int = 2) -> Formula:
    """x_{t+1} = A x + B u, ℓ = ½|x|² + ½|u|², Φ = |x|²."""
    A, B = drawn(0, n, n) / n**0.5, drawn(1, n, m)
    return Formula(
        drawn(2, n),
        [m] * T,
        lambda t, x, u: A @ x + B @ u,
        lambda x: x @ x,
        lambda t, x, u: 0.5 * (x @ x) + 0.5 * (u @ u),
    )


def tanh_network(seed: int, T: int = 4, n: int = 3, samples: int = 4, gain: float = 1.0) -> Formula:
    """x_{t+1} = tanh(x W_t + u_t) on some samples at once, ℓ = ½ r|u|², Φ = ½|x - y|²/samples."""
    weights, target = gain * drawn(seed, T, n, n), torch.tanh(drawn(seed + 1, samples, n))
    system = Formula(
        drawn(seed + 2, samples, n),
        [n] * T,
        lambda t, x, u: torch.tanh(x @ weights[t] + u),
        lambda x: 0.5 * ((x - target) ** 2).sum() / samples,
        lambda t, x, u: 0.005 * (u @ u),
    )
    system.weights = weights
    return system
