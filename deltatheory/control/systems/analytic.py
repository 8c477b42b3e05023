"""Small systems given as functions: one function runs on numpy, for speed, and on torch, for derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from deltatheory import autodiff
from deltatheory.control.systems.program import Program
from deltatheory.control.systems.system import System
from deltatheory.control.systems.taylor import gradient_and_hessian, jacobian

__all__ = ["AnalyticSystem", "Derivatives", "Expansion", "namespace"]

Array = Any  # an ndarray, or a Tensor where torch derives
_FEW = 16  # trajectories: as many in floats, one after the other, take as long as arrays of all of them


def namespace(x: Array) -> ModuleType:
    """Return the module, `torch` or `numpy`, whose `sin`, `exp`, `concatenate`, ... take x."""
    return torch if isinstance(x, Tensor) else np


@dataclass(frozen=True)
class Derivatives:
    """First and second derivatives in z = (x, u) of a system's functions, by hand; numpy in, numpy out.

    Attributes:
        step: (t, x, u) ↦ ∂f/∂z, (..., n, n + m).
        running_cost: (t, x, u) ↦ gradient (..., n + m) and Hessian (..., n + m, n + m).
        terminal_cost: x ↦ gradient (..., n) and Hessian (..., n, n).
        curvature: (t, x, u, p) ↦ Σ_i p_i ∂²f_i/∂z², (..., n + m, n + m).
    """

    step: Callable[[Any, ndarray, ndarray], ndarray]
    running_cost: Callable[[Any, ndarray, ndarray], tuple[ndarray, ndarray]]
    terminal_cost: Callable[[ndarray], tuple[ndarray, ndarray]]
    curvature: Callable[[Any, ndarray, ndarray, ndarray], ndarray]


@dataclass(frozen=True, eq=False)
class Expansion:
    """A quadratic model along trajectories: time first, then initial states, z = (x, u).

    Attributes:
        F: ∂f/∂z, (T, b, n, n + m).
        gradient: of ℓ, (T, b, n + m).
        hessian: of ℓ, (T, b, n + m, n + m).
        terminal_gradient: of Φ, (b, n).
        terminal_hessian: of Φ, (b, n, n).
    """

    F: ndarray
    gradient: ndarray
    hessian: ndarray
    terminal_gradient: ndarray
    terminal_hessian: ndarray


class AnalyticSystem(System):
    """x_{t+1} = f(t, x_t, u_t) with J = Σ_t ℓ(t, x_t, u_t) + Φ(x_T), each given as a function.

    The functions broadcast over leading dimensions of x (..., n) and u (..., m), and t is an int or an array
    of ints that broadcasts against those dimensions. They are written with operators and with the module
    `namespace(x)`, so that one function runs on numpy arrays (rollouts) and on tensors (exact derivatives).
    As a `System` it is the torch face; a batch of initial states is one system whose cost is their sum, so
    that every gradient is that of the single problem.

    Args:
        step: f, (t, x, u) ↦ (..., n).
        running_cost: ℓ, (t, x, u) ↦ (...).
        terminal_cost: Φ, x ↦ (...).
        x0: initial state (n,), or a batch of them (b, n); computed with in float64.
        horizon: T, at least 1.
        control_size: m, at least 1.
        derivatives: by hand; by default exact ones, of the function written down as a `Program` here and now,
            where that cannot be by Taylor arithmetic in numpy, or else through torch (milliseconds an
            expansion).
        control_limits: lowest and highest control, each a number or (m,); infinities allowed.

    Raises:
        ValueError: for a horizon or control size below 1, an initial state that is not finite, limits that
            leave nothing between them, and functions that do not broadcast or return another shape.
    """

    def __init__(
        self,
        step: Callable[[Any, Array, Array], Array],
        running_cost: Callable[[Any, Array, Array], Array],
        terminal_cost: Callable[[Array], Array],
        x0: Any,
        horizon: int,
        control_size: int,
        *,
        derivatives: Derivatives | None = None,
        control_limits: tuple[Any, Any] | None = None,
    ) -> None:
        if horizon < 1:
            raise ValueError(f"horizon={horizon}: there is nothing to control; allowed is at least 1.")
        if control_size < 1:
            raise ValueError(f"control_size={control_size}: allowed is at least 1.")
        self.x0 = np.array(x0, dtype=np.float64)
        if self.x0.ndim not in (1, 2) or self.x0.size == 0:
            raise ValueError(f"x0: its shape is {self.x0.shape}; allowed are (n,) and (b, n).")
        if not np.isfinite(self.x0).all():
            raise ValueError("x0: it has NaN or infinite entries.")
        self.horizon, self.control_size = horizon, control_size
        self.control_limits = None if control_limits is None else _limits(control_limits, control_size)
        self._step, self._running, self._terminal = step, running_cost, terminal_cost
        self._check_shapes()
        self.derivatives = derivatives or self._exact()
        self._made_with = self._sample()

    def under(
        self, running_cost: Callable[[Any, Array, Array], Array], terminal_cost: Callable[[Array], Array]
    ) -> AnalyticSystem:
        """Return the same dynamics under other costs, with derivatives that are not by hand."""
        found = copy(self)
        found._running, found._terminal = running_cost, terminal_cost
        found._check_shapes()
        found.derivatives = found._exact()
        found._made_with = found._sample()
        return found

    def check_unchanged(self) -> None:
        """Ask the functions once more for some values of when the system was made.

        Raises:
            ValueError: where they return others, which derivatives written down since then do not know.
        """
        for (name, before), now in zip(self._made_with.items(), self._sample().values(), strict=True):
            if not np.array_equal(before, now, equal_nan=True):
                raise ValueError(
                    f"{name}: it returns other values than when the system was made; what it reads beside "
                    f"its arguments must stay as it was, and nothing may be drawn. Make the system anew."
                )

    @property
    def state_size(self) -> int:
        """Numbers in a state, n."""
        return self.x0.shape[-1]

    def initial_state(self) -> Tensor:
        """Return x_0, (n,) or (b, n)."""
        return torch.from_numpy(self.x0)

    def zero_controls(self) -> list[Tensor]:
        """Return T zeros of shape (m,) or (b, m)."""
        shape = (*self.x0.shape[:-1], self.control_size)
        return [torch.zeros(shape, dtype=torch.float64) for _ in range(self.horizon)]

    def zero(self) -> ndarray:
        """Return zero controls, (T, m) or (b, T, m)."""
        return np.zeros((*self.x0.shape[:-1], self.horizon, self.control_size))

    def value_of(self, controls: Sequence[Tensor]) -> ndarray:
        """Return controls as one array (T, m), or (b, T, m) for b initial states."""
        return np.moveaxis(np.stack([u.numpy(force=True) for u in controls]), 0, -2)

    def split(self, value: ndarray) -> list[Tensor]:
        """Return the controls of a value, each (m,) or (b, m)."""
        return [torch.tensor(u) for u in np.moveaxis(value, -2, 0)]

    def step(self, t: int, x: Tensor, u: Tensor) -> Tensor:
        """Return f(t, x, u)."""
        return self._step(t, x, u)

    def running_cost(self, t: int, x: Tensor, u: Tensor) -> Tensor:
        """Return ℓ(t, x, u), summed over the initial states."""
        return self._running(t, x, u).sum()

    def terminal_cost(self, x: Tensor) -> Tensor:
        """Return Φ(x), summed over the initial states."""
        return self._terminal(x).sum()

    def advance(self, t: Any, x: ndarray, u: ndarray) -> ndarray:
        """Return f(t, x, u) in numpy, for any leading dimensions."""
        return self._step(t, x, u)

    @cached_property
    def program(self) -> Program | None:
        """The straight-line program of f, in z = (x, u), where it is one."""
        return _program(partial(_apart, self._step, self.state_size), self.state_size + self.control_size)

    def follow(
        self, x: ndarray, offsets: ndarray, gains: ndarray, gaps: ndarray | None = None
    ) -> tuple[ndarray, ndarray]:
        """Return states (T + 1, b, s, n) and controls (T, b, s, m) of u_t = offset_t + K_t x_t in its limits.

        Args:
            x: initial states, (b, n).
            offsets: s for each of them, (T, b, s, m).
            gains: K, (T, b, m, n).
            gaps: what is left out of f in each step, (T, b, s, n).
        """
        T, b, s, m = offsets.shape
        states, controls = np.empty((T + 1, b, s, x.shape[1])), np.empty(offsets.shape)
        limits = self.control_limits
        if gaps is None and b * s <= _FEW and self.program is not None:
            within = limits or (np.full(m, -np.inf), np.full(m, np.inf))
            with suppress(ArithmeticError, ValueError):  # what is infinite or NaN in arrays
                for i, j in np.ndindex(b, s):
                    one = self.program.rollout(x[i], offsets[:, i, j], gains[:, i], within)
                    states[:, i, j], controls[:, i, j] = one
                return states, controls
        K = np.ascontiguousarray(gains.swapaxes(-1, -2))
        states[0] = now = np.repeat(x[:, None], s, 1)
        for t, (gain, u) in enumerate(zip(K, controls, strict=True)):
            np.matmul(now, gain, u)
            u += offsets[t]
            if limits is not None:
                np.maximum(u, limits[0], out=u)  # np.clip takes twice as long on so few
                np.minimum(u, limits[1], out=u)
            states[t + 1] = now = self.advance(t, now, u)
            if gaps is not None:
                states[t + 1] = now = now - gaps[t]
        return states, controls

    def costs(self, states: ndarray, controls: ndarray) -> Any:
        """Return J of each trajectory: states (T + 1, ..., n) and controls (T, ..., m) give (...)."""
        running = self._running(self._times(controls.ndim - 1), states[:-1], controls)
        return running.sum(0) + self._terminal(states[-1])

    def magnitude(self, states: ndarray, controls: ndarray) -> Any:
        """Return Σ|ℓ_t| + |Φ| of each trajectory, as `costs`."""
        running = self._running(self._times(controls.ndim - 1), states[:-1], controls)
        return np.abs(running).sum(0) + np.abs(self._terminal(states[-1]))

    def expand(self, states: ndarray, controls: ndarray) -> Expansion:
        """Return the quadratic model along trajectories (T + 1, b, n), (T, b, m), all steps at once."""
        t = self._times(2)
        F = self.derivatives.step(t, states[:-1], controls)
        gradient, hessian = self.derivatives.running_cost(t, states[:-1], controls)
        return Expansion(F, gradient, hessian, *self.derivatives.terminal_cost(states[-1]))

    def curvature(self, states: ndarray, controls: ndarray, costates: ndarray) -> ndarray:
        """Return Σ_i p_{t+1,i} ∂²f_i/∂z², (T, b, n + m, n + m), for costates (T + 1, b, n)."""
        return self.derivatives.curvature(self._times(2), states[:-1], controls, costates[1:])

    def _exact(self) -> Derivatives:
        """Return derivatives of programs or by Taylor arithmetic; by torch where neither knows a function."""
        functions = self._step, self._running, self._terminal
        n, k = self.state_size, self.state_size + self.control_size
        running = _program(partial(_apart, self._running, n), k)
        terminal = _program(partial(_timeless, self._terminal), n)
        found = _by_taylor(*functions)
        if self.program is not None:
            step, curvature = (partial(_together, f) for f in (self.program.jacobian, self.program.hessian))
            found = replace(found, step=step, curvature=curvature)
        if running is not None:
            found = replace(found, running_cost=partial(_together, running.gradient_and_hessian))
        if terminal is not None:
            found = replace(found, terminal_cost=partial(terminal.gradient_and_hessian, 0))
        z = np.stack([np.atleast_2d(self.x0)] * 2)
        t, u = np.array([[0], [self.horizon - 1]]), np.zeros((*z.shape[:-1], self.control_size))
        try:
            with np.errstate(all="ignore"):
                found.curvature(t, z, u, z)
                found.running_cost(t, z, u)
                found.terminal_cost(z)
        except Exception:  # whatever a function does to what is no array
            return _by_torch(*functions)
        return found

    def _times(self, ndim: int) -> ndarray:
        return np.arange(self.horizon).reshape(-1, *[1] * (ndim - 1))

    def _sample(self) -> dict[str, ndarray]:
        """Return the values of each function at some states and controls."""
        x = np.stack([np.atleast_2d(self.x0), np.atleast_2d(self.x0) + 0.37])
        u = np.full((*x.shape[:-1], self.control_size), 0.41)
        if self.control_limits is not None:
            u = u.clip(*self.control_limits)
        t = np.array([[0], [self.horizon - 1]])
        with np.errstate(all="ignore"):
            values = self._step(t, x, u), self._running(t, x, u), self._terminal(x)
        return dict(zip(("step", "running_cost", "terminal_cost"), values, strict=True))

    def _check_shapes(self) -> None:
        """Call each function once as an expansion does: two times, one trajectory more than one."""
        x = np.stack([np.atleast_2d(self.x0)] * 2)
        u = np.zeros((*x.shape[:-1], self.control_size))
        t = np.array([[0], [self.horizon - 1]])
        calls: dict[str, tuple[Callable[[], Array], tuple[int, ...]]] = {
            "step": (lambda: self._step(t, x, u), x.shape),
            "running_cost": (lambda: self._running(t, x, u), x.shape[:-1]),
            "terminal_cost": (lambda: self._terminal(x), x.shape[:-1]),
        }
        for name, (call, expected) in calls.items():
            try:
                with np.errstate(all="ignore"):
                    shape = np.shape(call())
            except (ValueError, IndexError, TypeError) as error:
                raise ValueError(
                    f"{name}: it fails on x of shape {x.shape}, u of shape {u.shape} and t of shape "
                    f"{t.shape} ({error}); write it to broadcast over leading dimensions."
                ) from error
            if shape != expected:
                raise ValueError(
                    f"{name}: on x of shape {x.shape} and u of shape {u.shape} it returns shape {shape}; "
                    f"allowed is {expected}."
                )


def _limits(limits: tuple[Any, Any], size: int) -> tuple[ndarray, ndarray]:
    low, high = (np.broadcast_to(np.asarray(limit, dtype=np.float64), (size,)) for limit in limits)
    if not (low < high).all():
        raise ValueError(f"control_limits={limits}: allowed is low < high in every coordinate.")
    return low, high


def _by_taylor(
    step: Callable[[Any, Array, Array], Array],
    running_cost: Callable[[Any, Array, Array], Array],
    terminal_cost: Callable[[Array], Array],
) -> Derivatives:
    """Derive by Taylor arithmetic, at all points at once."""
    return Derivatives(
        partial(_taylor_step, step),
        partial(_taylor_cost, running_cost),
        partial(gradient_and_hessian, terminal_cost),
        partial(_taylor_curvature, step),
    )


def _apart(f: Callable[..., Array], n: int, t: Any, z: Array) -> Array:
    return f(t, z[..., :n], z[..., n:])


def _timeless(f: Callable[[Array], Array], t: Any, x: Array) -> Array:
    return f(x)


def _together(f: Callable[..., Any], t: Any, x: ndarray, u: ndarray, *p: ndarray) -> Any:
    return f(t, np.concatenate([x, u], -1), *p)


def _program(f: Callable[[Any, Array], Array], size: int) -> Program | None:
    """Return f as a program with its derivatives; `None` where it is none."""
    try:
        return Program(f, size)
    except Exception:  # whatever a function does to what is no array
        return None


def _taylor_step(f: Callable[..., Array], t: Any, x: ndarray, u: ndarray) -> ndarray:
    return jacobian(partial(_apart, f, x.shape[-1], t), np.concatenate([x, u], -1))


def _taylor_cost(f: Callable[..., Array], t: Any, x: ndarray, u: ndarray) -> tuple[ndarray, ndarray]:
    return gradient_and_hessian(partial(_apart, f, x.shape[-1], t), np.concatenate([x, u], -1))


def _taylor_curvature(f: Callable[..., Array], t: Any, x: ndarray, u: ndarray, p: ndarray) -> ndarray:
    weighted = partial(_weighted, p, partial(_apart, f, x.shape[-1], t))
    return gradient_and_hessian(weighted, np.concatenate([x, u], -1))[1]


def _weighted(p: ndarray, f: Callable[[Array], Array], z: Array) -> Array:
    return (p * f(z)).sum(-1)


def _by_torch(
    step: Callable[[Any, Array, Array], Array],
    running_cost: Callable[[Any, Array, Array], Array],
    terminal_cost: Callable[[Array], Array],
) -> Derivatives:
    """Derive by torch: all columns in one product, as points of a batch that is n + m times as large."""

    def units(z: Tensor) -> tuple[Tensor, Tensor]:
        size = z.shape[-1]
        unit = torch.eye(size, dtype=z.dtype).view(size, *[1] * (z.ndim - 1), size)
        shape = (size, *z.shape)
        return z.expand(shape).clone(), unit.expand(shape).clone()

    def jacobian(f: Callable[[Tensor], Tensor], z: Tensor) -> ndarray:
        return autodiff.jvp(f, *units(z))[1].movedim(0, -1).numpy(force=True)

    def second(f: Callable[[Tensor], Tensor], z: Tensor) -> tuple[ndarray, ndarray]:
        total = lambda y: f(y).sum()  # noqa: E731
        hessian = autodiff.hvp(total, *units(z)).movedim(0, -1)
        return autodiff.grad(total, z).numpy(force=True), hessian.numpy(force=True)  # zeros may be lazy

    def joined(x: ndarray, u: ndarray) -> Tensor:
        return torch.from_numpy(np.concatenate([x, u], axis=-1))

    def step_derivative(t: Any, x: ndarray, u: ndarray) -> ndarray:
        n = x.shape[-1]
        return jacobian(lambda z: step(t, z[..., :n], z[..., n:]), joined(x, u))

    def running_derivatives(t: Any, x: ndarray, u: ndarray) -> tuple[ndarray, ndarray]:
        n = x.shape[-1]
        return second(lambda z: running_cost(t, z[..., :n], z[..., n:]), joined(x, u))

    def terminal_derivatives(x: ndarray) -> tuple[ndarray, ndarray]:
        return second(terminal_cost, torch.from_numpy(x))

    def curvature(t: Any, x: ndarray, u: ndarray, p: ndarray) -> ndarray:
        n, weights = x.shape[-1], torch.from_numpy(p)
        return second(lambda z: (weights * step(t, z[..., :n], z[..., n:])).sum(-1), joined(x, u))[1]

    return Derivatives(step_derivative, running_derivatives, terminal_derivatives, curvature)
