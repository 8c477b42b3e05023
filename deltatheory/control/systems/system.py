"""A finite-horizon discrete dynamical system with costs: x_{t+1} = f_t(x_t, u_t), J = Σ ℓ_t + Φ(x_T)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltatheory import autodiff

__all__ = ["LinearMap", "Linearization", "System", "Trajectory"]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map between tensors of given shapes, as two products; dense only when asked.

    Attributes:
        apply: v ↦ M v.
        adjoint: w ↦ Mᵀ w.
        shape_in: of v.
        shape_out: of w.
    """

    apply: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]

    def dense(self, like: Tensor) -> Tensor:
        """Return M as a matrix (outputs, inputs), row by row; dtype and device are `like`'s."""
        size = torch.Size(self.shape_out).numel()
        unit = torch.eye(size, dtype=like.dtype, device=like.device)
        return torch.stack([self.adjoint(row.view(self.shape_out)).flatten() for row in unit])


@dataclass(frozen=True, eq=False)
class Linearization:
    """f_t near (x, u): the next state and the maps A_t = ∂f/∂x and B_t = ∂f/∂u."""

    state: Tensor
    A: LinearMap
    B: LinearMap


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States x_0 .. x_T, controls u_0 .. u_{T-1} and the total cost J."""

    states: list[Tensor]
    controls: list[Tensor]
    cost: Tensor


class System(ABC):
    """x_{t+1} = f_t(x_t, u_t), t = 0 .. T-1, with J(u) = Σ_t ℓ_t(x_t, u_t) + Φ(x_T), to be minimized.

    All functions are pure and differentiable. States and controls may change shape from step to step. What a
    network adds to that, the examples that its passes go over and coordinates that several steps share, is
    nothing here; a system that has it says so.

    Attributes:
        horizon: T, at least 1.
    """

    horizon: int

    @property
    def names(self) -> tuple[str, ...]:
        """What each step is, for messages and figures."""
        return tuple(f"step {t}" for t in range(self.horizon))

    @abstractmethod
    def initial_state(self) -> Tensor:
        """Return x_0."""

    @abstractmethod
    def zero_controls(self) -> list[Tensor]:
        """Return u_0 .. u_{T-1}, all zero."""

    @abstractmethod
    def step(self, t: int, x: Tensor, u: Tensor) -> Tensor:
        """Return x_{t+1} = f_t(x, u)."""

    @abstractmethod
    def running_cost(self, t: int, x: Tensor, u: Tensor) -> Tensor:
        """Return the scalar ℓ_t(x, u)."""

    @abstractmethod
    def terminal_cost(self, x: Tensor) -> Tensor:
        """Return the scalar Φ(x_T)."""

    # The controls as one value, as a solution holds them.

    def value_of(self, controls: Sequence[Tensor]) -> Any:
        """Return controls as one tensor (T, m), or as a list where their sizes differ."""
        same = len({u.shape for u in controls}) == 1
        return torch.stack(list(controls)) if same else list(controls)

    def split(self, value: Any) -> list[Tensor]:
        """Return the controls u_0 .. u_{T-1} of a value: the inverse of `value_of`."""
        return list(value)

    def join(self, parts: Sequence[Tensor]) -> Any:
        """Return the adjoint of `split`: of the ∂J/∂u_t it makes the derivative of J in the value."""
        return self.value_of(parts)

    def zero(self) -> Any:
        """Return the value of zero controls."""
        return self.value_of(self.zero_controls())

    def shares(self, t: int) -> bool:
        """Return whether a coordinate of u_t acts in another step too, so that u_t has a copy of it."""
        return False

    def reduced(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return ∂J/∂u_t with the copies of a shared coordinate summed, as J depends on the coordinate."""
        return self.split(self.join(gradients))

    # What a network spends.

    @property
    def examples(self) -> int:
        """Number of examples that a pass of the network goes over; 0 where there is no network."""
        return 0

    @property
    def passes(self) -> float:
        """Forward-equivalents over single examples that were spent so far."""
        return 0.0

    def count(self, t: int | None = None, *, forward: float = 0.0, backward: float = 0.0) -> None:
        """Count passes over all examples, of all steps or of step t alone, as `Problem.count` does."""
        return  # a small system has none

    def rollout(self, controls: Sequence[Tensor]) -> Trajectory:
        """Return the states that controls lead through, and J.

        Raises:
            ValueError: for a number of controls other than the horizon.
        """
        if len(controls) != self.horizon:
            raise ValueError(f"controls: there are {len(controls)}; the horizon is {self.horizon}.")
        states = [self.initial_state()]
        cost: Tensor | float = 0.0
        for t, u in enumerate(controls):
            cost = cost + self.running_cost(t, states[t], u)
            states.append(self.step(t, states[t], u))
        return Trajectory(states, list(controls), cost + self.terminal_cost(states[-1]))

    def linearize(self, t: int, x: Tensor, u: Tensor) -> Linearization:
        """Return f_t(x, u) with A_t and B_t as products, never as matrices."""
        following, pull_x = autodiff.vjp(lambda y: self.step(t, y, u), x)
        _, pull_u = autodiff.vjp(lambda v: self.step(t, x, v), u)
        shapes = tuple(x.shape), tuple(u.shape), tuple(following.shape)
        return Linearization(
            following,
            LinearMap(
                lambda v: autodiff.jvp(lambda y: self.step(t, y, u), x, v)[1], pull_x, shapes[0], shapes[2]
            ),
            LinearMap(
                lambda v: autodiff.jvp(lambda w: self.step(t, x, w), u, v)[1], pull_u, shapes[1], shapes[2]
            ),
        )
