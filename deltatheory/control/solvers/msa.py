"""The method of successive approximations: sweep, then change every u_t by its own Hamiltonian.

Basic MSA (Chernousko & Lyubushin 1982) takes u_t = argmin H_t(x_t, ·, p_{t+1}) and need not go down: the new
u_t move the states that the costates were computed at. With a gradient step instead it is gradient descent.
E-MSA (Li et al. 2017, arXiv:1710.09513, section 3) minimizes the augmented Hamiltonian

    H_t(x_t, u, p_{t+1}) + ½ρ |f_t(x_t, u) - x_{t+1}|² + ½ρ |∂H_t/∂x (x_t, u, p_{t+1}) - p_t|²

and never goes up for ρ large enough. How large, Li et al. leave open; `certified_rho` says it. Let ℓ_t not
depend on x, f_t(·, u) be K_t-Lipschitz with a κ_t-Lipschitz Jacobian for every u in U, ∇Φ be λ-Lipschitz, and
Df_t, D∂H_t be the changes of f_t and ∂H_t/∂x at (x_t, p_{t+1}) from controls θ to φ. Then

    J(φ) - J(θ) <= Σ_t DH_t + Σ_t |D∂H_t| d_t + ½ Σ_t |p_{t+1}| κ_t d_t² + ½ λ d_T²,
    d_0 = 0, d_{t+1} = K_t d_t + |Df_t|.

Proof: d_t bounds the shift e_t of x_t. Φ gives p_T·e_T + ½λ|e_T|², and p_{t+1}·e_{t+1} - p_t·e_t is
p_{t+1}·Df_t, plus (D∂H_t)·e_t, plus a Taylor remainder of at most ½|p_{t+1}|κ_t|e_t|²; sum over t. With
|D∂H_t| d_t <= ½|D∂H_t|² + ½d_t² and d = M (|Df_t|)_t, M linear, the right side is at most
Σ (DH_t + ½|D∂H_t|² + C|Df_t|²), C = ½ λ_max(Mᵀ diag(1 + |p_{t+1}|κ_t, ..., λ) M); an E-MSA step makes it <= 0
if ρ >= max(1, 2C). That is a worst case: on random tanh networks it was 10 to 1000 times what J needed.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from deltatheory import autodiff
from deltatheory._shapes import Float
from deltatheory.control.pontryagin import Sweep, projected, sweep
from deltatheory.control.solvers.base import NAN_REMEDY, NO_GRADIENT, Solver, SolverRun, Status
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.control.systems.system import System
from deltatheory.problems import ClassificationProblem

__all__ = [
    "EMSA",
    "MSA",
    "StepConstants",
    "augmented_hamiltonian",
    "certified_rho",
    "change_bound",
    "minimize_hamiltonian",
]

_LARGEST_RHO = 1e12
_DIVERGED = "take a smaller step, bounds, an energy weight, or E-MSA"
_STALLED = "no change of the controls lowers the cost: compute in float64, or raise the tolerance"

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class StepConstants:
    """What the inequality of E-MSA asks of a system; ℓ_t must not depend on x.

    Attributes:
        lipschitz: K_t, a Lipschitz constant of x ↦ f_t(x, u) for every u in U, t = 0 .. T-1.
        curvature: κ_t, one of x ↦ ∂f_t/∂x (x, u).
        terminal: λ, one of ∇Φ.

    Raises:
        ValueError: for unequal numbers of them, or one that is negative or not finite.
    """

    lipschitz: tuple[float, ...]
    curvature: tuple[float, ...]
    terminal: float

    def __post_init__(self) -> None:
        if len(self.lipschitz) != len(self.curvature):
            raise ValueError(
                f"curvature: has {len(self.curvature)} steps; lipschitz has {len(self.lipschitz)}."
            )
        for name, values in (("lipschitz", self.lipschitz), ("curvature", self.curvature)):
            if not all(0 <= value < math.inf for value in values):
                raise ValueError(f"{name}={values}: all must be finite and at least 0.")
        if not 0 <= self.terminal < math.inf:
            raise ValueError(f"terminal={self.terminal}: must be finite and at least 0.")


def _weights(constants: StepConstants, costates: Sequence[Tensor]) -> np.ndarray:
    """Return |p_{t+1}| κ_t for t = 0 .. T-1, then λ: twice the coefficients of d_t²."""
    if len(costates) != len(constants.lipschitz) + 1:
        raise ValueError(
            f"costates: there are {len(costates)}; the constants are of {len(constants.lipschitz)} steps."
        )
    norms = [float(p.double().norm()) for p in costates[1:]]
    return np.array([p * k for p, k in zip(norms, constants.curvature, strict=True)] + [constants.terminal])


def _shifts(constants: StepConstants) -> np.ndarray:
    """Return M with d = M (|Df_0|, ..., |Df_{T-1}|), shape (T + 1, T)."""
    T = len(constants.lipschitz)
    M = np.zeros((T + 1, T))
    for t, K in enumerate(constants.lipschitz):
        M[t + 1] = K * M[t]
        M[t + 1, t] = 1.0
    return M


def certified_rho(constants: StepConstants, costates: Sequence[Tensor]) -> float:
    """Return max(1, 2C), rounded up, with which no E-MSA step from the trajectory of these costates raises J.

    Of one step M = (0, 1)ᵀ, and 2C is the terminal constant.

    >>> rho = certified_rho(StepConstants((5.0,), (7.0,), terminal=4.0), [torch.zeros(1), torch.ones(1)])
    >>> round(rho, 9), rho >= 4
    (4.0, True)

    Args:
        constants: of the system, over the controls that are allowed.
        costates: p_0 .. p_T.

    Raises:
        ValueError: for a number of costates other than T + 1.
    """
    weights = _weights(constants, costates)
    weights[:-1] += 1.0
    M = _shifts(constants)
    largest = float(np.linalg.eigvalsh(M.T @ (weights[:, None] * M))[-1])
    return max(1.0, (1 + 16 * len(weights) * torch.finfo(torch.float64).eps) * largest)


def change_bound(system: System, run: Sweep, controls: Sequence[Tensor], constants: StepConstants) -> float:
    """Return the bound on J(controls) - J(run), the right side of the module's inequality.

    Args:
        system: with horizon T.
        run: at the controls θ.
        controls: φ.
        constants: of the system, over controls that include φ.

    Raises:
        ValueError: for a number of steps that is not that of the constants.
    """
    weights = _weights(constants, run.costates)
    states = run.trajectory.states
    first, df, dp = 0.0, [], []
    for t, u in enumerate(controls):
        before = system.running_cost(t, states[t], run.trajectory.controls[t])
        value, f, q = _hamiltonian_parts(system, t, states[t], u, run.costates[t + 1])
        first += float((value - before - (run.costates[t + 1] * states[t + 1]).sum()).detach())
        df.append(float((f - states[t + 1]).detach().norm()))
        dp.append(float((q - run.costates[t]).detach().norm()))
    d = _shifts(constants) @ np.array(df)
    return first + float(np.array(dp) @ d[:-1]) + 0.5 * float(weights @ d**2)


def _hamiltonian_parts(
    system: System, t: int, x: Tensor, u: Tensor, p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return H_t, f_t and ∂H_t/∂x at (x, u, p)."""
    f, pull = autodiff.vjp(lambda y: system.step(t, y, u), x)
    cost, slope = autodiff.vjp(lambda y: system.running_cost(t, y, u), x)
    return cost + (p * f).sum(), f, pull(p) + slope(torch.ones_like(cost))


def augmented_hamiltonian(system: System, run: Sweep, t: int, u: Tensor, rho: float) -> Float[Tensor, ""]:
    """Return H_t(x_t, u, p_{t+1}) + ½ρ|f_t(x_t, u) - x_{t+1}|² + ½ρ|∂H_t/∂x (x_t, u, p_{t+1}) - p_t|².

    At the controls of `run` it is H_t, for every ρ (Li et al. 2017, eq. 24, in the minimum convention).

    Args:
        system: with horizon T.
        run: x_0 .. x_T and p_0 .. p_T.
        t: 0 .. T-1.
        u: control to try.
        rho: ρ >= 0; with 0 it is H_t, at the cost of H_t.
    """
    x, p = run.trajectory.states, run.costates
    if rho == 0:
        return system.running_cost(t, x[t], u) + (p[t + 1] * system.step(t, x[t], u)).sum()
    value, f, q = _hamiltonian_parts(system, t, x[t], u, p[t + 1])
    return value + 0.5 * rho * ((f - x[t + 1]).square().sum() + (q - p[t]).square().sum())


def minimize_hamiltonian(
    system: System, run: Sweep, *, rho: float = 0.0, bounds: Bounds = None, inner: int = 20
) -> list[Tensor]:
    """Return controls that lower the (augmented) Hamiltonian of every step, by L-BFGS-B from those of `run`.

    Each step has its own minimization. Where coordinates act in several steps, the sum of all Hamiltonians is
    minimized over δ instead, so that copies stay equal; the inequality of E-MSA, a sum too, still holds.

    Args:
        system: with horizon T.
        run: where the states and costates are from.
        rho: as in `augmented_hamiltonian`.
        bounds: lowest and highest value of every entry of u_t.
        inner: iterations of each minimization.
    """
    # The derivative in u of what holds ∂H/∂x: one backward through the states, and two through all that.
    backward = 2.5 if rho else 1.0

    def slope(t: int, u: Tensor) -> tuple[Tensor, Tensor]:
        system.count(t, backward=backward)
        return autodiff.value_and_grad(lambda v: augmented_hamiltonian(system, run, t, v, rho), u)

    controls = run.trajectory.controls
    steps = [t for t, u in enumerate(controls) if u.numel()]
    if not any(system.shares(t) for t in steps):
        new = {t: _lowest(lambda u, t=t: slope(t, u), controls[t], bounds, inner) for t in steps}
        return [new.get(t, u) for t, u in enumerate(controls)]

    def total(delta: Tensor) -> tuple[Tensor, Tensor]:
        parts = system.split(delta)
        slopes = {t: slope(t, parts[t]) for t in steps}
        gradients = [slopes[t][1] if t in slopes else u for t, u in enumerate(parts)]
        return torch.stack([value for value, _ in slopes.values()]).sum(), system.join(gradients)

    return system.split(_lowest(total, system.value_of(controls), bounds, inner))


def _lowest(
    objective: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, bounds: Bounds, inner: int
) -> Tensor:
    """Return where L-BFGS-B gets to, never higher than the start; the objective gives value and gradient."""

    def of(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(torch.from_numpy(z).to(start).view_as(start))
        return float(value.detach()), gradient.detach().double().flatten().cpu().numpy()

    z = start.detach().double().flatten().cpu().numpy()
    box = None if bounds is None else [bounds] * len(z)
    options = {"maxiter": inner, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize(of, z, jac=True, method="L-BFGS-B", bounds=box, options=options)
    return torch.from_numpy(found.x).to(start).view_as(start)


@dataclass(frozen=True, kw_only=True)
class SuccessiveApproximations(Solver):
    """What MSA and E-MSA share: sweep, change the controls, until there is a reason to stop.

    The value of a network is δ, that of another system its controls. `details["residuals"]` are those of
    `maximum_principle` at the value. Converged where the largest residual of stationarity is below
    `tolerance` times that at zero controls (at the start where that vanishes), and, under a running cost,
    times |∂ℓ_t/∂u| + |Bᵀp|, the two terms that cancel in it: an unstable system is far from any optimum at
    zero.

    Attributes:
        bounds: U, the lowest and highest value of every entry of u_t; `None` for no bounds. A start is
            brought into them.
        energy_weight: of |δ|²/2 beside the loss of a network; a system has its own running cost.
        target: cost at which to stop.
    """

    takes = (ClassificationProblem, System)
    positive = ("inner", "step_size", "rho")

    bounds: Bounds = None
    energy_weight: float = 0.0
    steps: int | None = 100
    target: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds={self.bounds}: the first must be below the second.")

    def _posed(self, problem: ClassificationProblem | System) -> System:
        if not isinstance(problem, System):
            return LayeredSystem(problem, energy_weight=self.energy_weight)
        if self.energy_weight:
            raise ValueError(
                f"energy_weight={self.energy_weight}: a system has its own running cost; allowed is 0."
            )
        return problem

    @abstractmethod
    def _next(self, system: System, run: Sweep, memory: dict[str, Any]) -> Sweep:
        """Return the sweep at changed controls; `run` itself where no change is found."""

    def _solve(self, posed: System, run: SolverRun) -> tuple[Status, str]:
        start, zero = (
            [projected(u, self.bounds) for u in u0] for u0 in (posed.split(run.value), posed.zero_controls())
        )
        now = sweep(posed, start)
        if not all(map(torch.equal, start, zero)):
            run.scale = max(self._residuals(posed, sweep(posed, zero)))
        memory: dict[str, Any] = {}
        while True:
            cost, residuals = float(now.trajectory.cost), self._residuals(posed, now)
            if not run.history or cost < run.cost:
                run.details["residuals"] = residuals
            if not math.isfinite(cost) or not math.isfinite(max(residuals)):
                what = f"residual became {max(residuals)}" if math.isfinite(cost) else f"cost became {cost}"
                raise FloatingPointError(f"the {what}: {_DIVERGED if run.history else NAN_REMEDY}")
            run.record(posed.value_of(now.trajectory.controls), cost, residual=max(residuals), **memory)
            if posed.examples and run.history[0]["residual"] == 0:
                return NO_GRADIENT
            run.scale = run.scale or run.history[0]["residual"]
            if end := self._end(posed, now, run):
                return end
            previous, now = now, self._next(posed, now, memory)
            if now is previous:
                return Status.STALLED, _STALLED

    def _terms(self, system: System, run: Sweep) -> float:
        """Return the largest |∂ℓ_t/∂u| + |Bᵀp|; infinity where no running cost pulls at a control."""
        x, us = run.trajectory.states, run.trajectory.controls
        own = [
            autodiff.grad(lambda v, t=t: system.running_cost(t, x[t], v), u).detach()
            for t, u in enumerate(us)
        ]
        if not any(bool(pull.any()) for pull in own):
            return math.inf
        return max(float(pull.norm() + (g - pull).norm()) for pull, g in zip(own, run.gradients, strict=True))

    def _residuals(self, system: System, run: Sweep) -> list[float]:
        pairs = zip(run.trajectory.controls, system.reduced(run.gradients), strict=True)
        return [float((u - projected(u - g, self.bounds)).norm()) for u, g in pairs]

    def _end(self, system: System, now: Sweep, run: SolverRun) -> tuple[Status, str] | None:
        first, last = run.history[0], run.history[-1]
        reached = self.target is not None and last["cost"] <= self.target
        small = last["residual"] <= self.tolerance * (run.scale or 0.0)
        if reached or (small and last["residual"] <= self.tolerance * self._terms(system, now)):
            return Status.CONVERGED, ""
        if not run.spent:
            return None
        if last["cost"] > first["cost"]:
            return (
                Status.DIVERGED,
                f"the cost went from {first['cost']:.4g} to {last['cost']:.4g}: {_DIVERGED}",
            )
        return Status.BUDGET, "allow more steps or passes, or take another step size"


@dataclass(frozen=True, kw_only=True)
class MSA(SuccessiveApproximations):
    """Basic MSA: u_t ← u_t - s ∂J/∂u_t, which is gradient descent, or u_t ← argmin of H_t over U.

    A gradient step takes for coordinates that act in several steps the sum over their copies. The argmin form
    has no guarantee, and without bounds or a running cost H_t need not have a minimum.

    Attributes:
        step_size: s, or "argmin".
        inner: L-BFGS-B iterations for each argmin.
    """

    name = "msa"
    step_size: float | Literal["argmin"] = 0.1
    inner: int = 20

    def _next(self, system: System, run: Sweep, memory: dict[str, Any]) -> Sweep:
        if self.step_size == "argmin":
            return sweep(system, minimize_hamiltonian(system, run, bounds=self.bounds, inner=self.inner))
        pairs = zip(run.trajectory.controls, system.reduced(run.gradients), strict=True)
        return sweep(system, [projected(u - self.step_size * g, self.bounds) for u, g in pairs])


@dataclass(frozen=True, kw_only=True)
class EMSA(SuccessiveApproximations):
    """Extended MSA (Li et al. 2017): u_t lowers the augmented Hamiltonian; J never goes up.

    Attributes:
        rho: ρ to begin with; a step that raises J is taken back and tried with 4ρ, after any other ρ is
            halved. Or the constants of the system: then ρ is `certified_rho` of each sweep, where no step has
            to be taken back.
        inner: L-BFGS-B iterations for each minimization.
    """

    name = "e-msa"
    rho: float | StepConstants = 0.01
    inner: int = 10

    def _next(self, system: System, run: Sweep, memory: dict[str, Any]) -> Sweep:
        before = run.trajectory.cost
        rounding = 10 * torch.finfo(before.dtype).eps * float(before.abs())
        if isinstance(self.rho, StepConstants):
            rho = certified_rho(self.rho, run.costates)
        else:
            rho = memory.get("rho", 2 * self.rho) / 2
        while rho <= _LARGEST_RHO:
            memory["rho"] = rho
            new = minimize_hamiltonian(system, run, rho=rho, bounds=self.bounds, inner=self.inner)
            if all(torch.equal(u, v) for u, v in zip(new, run.trajectory.controls, strict=True)):
                break
            after = sweep(system, new)
            if float(after.trajectory.cost - before) <= rounding:
                return after
            rho *= 4
        return run
