"""Iterative LQR and differential dynamic programming for small systems, batched over initial states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray
from scipy.linalg import get_lapack_funcs

from deltatheory.control.solvers.base import Solver, SolverRun, Status
from deltatheory.control.solvers.riccati import BackwardRecursion, recursion
from deltatheory.control.systems.analytic import AnalyticSystem, Expansion

__all__ = ["DDP", "ILQR"]

_REMEDIES = {  # from the best to the worst
    Status.CONVERGED: "",
    Status.BUDGET: "the steps ran out: raise steps, or start from `value`",
    Status.STALLED: (
        "no step lowers the cost under any regularization: derivatives given by hand may be wrong (leave "
        "them out to compare), or the functions are not smooth, as the cost of a chaotic system is not: "
        "shorten its horizon"
    ),
    Status.ILL_CONDITIONED: (
        "R + BᵀPB is not positive definite where the iterations end, and regularization finds no lower cost: "
        "the cost is not convex in the controls, which may sit at a bound or at a saddle. Give them a larger "
        "positive cost, or rescale states and controls if second derivatives differ hugely or are infinite"
    ),
    Status.DIVERGED: (
        "states, costs or derivatives are not finite along the trajectory, nor along one found by multiple "
        "shooting: pass a `start` that keeps an unstable system bounded, shorten the horizon or the time "
        "step, look for NaN in the functions, and give the controls a positive cost if the cost has no "
        "lower bound"
    ),
}
_ROUNDING = 1e-14  # the least tolerance
_CLOSING = 50  # backward passes at most that close the gaps of an infeasible start
(_solve_bands,) = get_lapack_funcs(("tbtrs",), dtype=np.float64)
_MOST = 1e12  # largest regularization, in its units; largest gain, in first costs


@dataclass(frozen=True, kw_only=True)
class SecondOrderShooting(Solver):
    """What iLQR and DDP share: a backward pass of Riccati's recursion, then a rollout, until all are done.

    The value is the controls (T, m), or (b, T, m) for b initial states; the rows of the history have the mean
    cost over them. `details`: states, costates and the gradient ∂J/∂u at the controls returned, the gains of
    the feedback around them, the stationarity (the largest entry of the projected derivative in a control
    where those after it follow the gains), iterations and status of each problem; with exact second
    derivatives also whether the (unconstrained) problem has a strict minimum there: a saddle, such as a
    symmetric start leads to, has not.

    Attributes:
        steps: backward passes at most.
        tolerance: a problem is done when its quadratic model, at no more than the first regularization,
            promises to lower the cost by less than this share of it: ½gᵀH⁻¹g, which bounds let out where
            they hold. The cost counts as Σ|ℓ_t| + |Φ|, or as what its first two derivatives make of the
            states and controls where that is less (an offset says nothing), both along the present
            trajectory. Where nothing lowers the cost any more it is done too if the stationarity is below
            this to the power ⅔ of the largest ∂ℓ/∂u and no control is at its bound.
        step_sizes: how many steps 1, ½, ¼, ... are tried at most; 2 is where the model promises too little.
        regularization: first weight μ of ½ μ |δu|², in units of the mean second derivative of the running
            cost in the controls; a factor of 10 down after a full step, up after none.
    """

    takes = (AnalyticSystem,)
    positive = ("step_sizes", "regularization")

    steps: int | None = 500
    tolerance: float = 1e-9
    step_sizes: int = 6
    regularization: float = 1e-6

    _exact: ClassVar[tuple[bool, ...]] = (False,)

    def _posed(self, problem: AnalyticSystem) -> AnalyticSystem:
        return problem

    def _solve(self, posed: AnalyticSystem, run: SolverRun) -> tuple[Status, str]:
        work = _Trajectories(self, posed, run.value)
        if work.finite.any():
            run.record(work.value, work.cost, active=len(work.active))
        while work.active.size and not run.spent:
            columns = work.iterate()
            run.record(work.value, work.cost, **columns)
        return work.finish(run)


@dataclass(frozen=True, kw_only=True)
class ILQR(SecondOrderShooting):
    """Iterative LQR: LQR on the linearized dynamics and the exact quadratic model of the cost, rolled out.

    Li & Todorov (2004); the Gauss-Newton step with a nonlinear rollout. Regularization of the controls
    (Levenberg-Marquardt, as in Tassa, Erez & Todorov, 2012, section II-F), box constraints by projected
    Newton in the backward pass (Tassa, Mansard & Todorov, 2014). Converges linearly.
    """

    name = "ilqr"


@dataclass(frozen=True, kw_only=True)
class DDP(SecondOrderShooting):
    """Differential dynamic programming: as `ILQR`, with the second derivatives of the dynamics as well.

    Jacobson & Mayne (1970). They are contracted with the costate of the current trajectory (Pantoja, 1988;
    Dunn & Bertsekas, 1989), so that all steps are evaluated at once and the full step is Newton's. Far from
    the optimum that model is often indefinite: each iteration tries it and the model of `ILQR`, with a
    regularization of its own each, in the same two loops over time, and keeps the lower cost. Converges
    quadratically.
    """

    name = "ddp"
    _exact = (False, True)


class _Lowest:
    """The lowest cost that a model leads a problem to, by a step of which size, (models, b), and where."""

    def __init__(self, X: ndarray, U: ndarray, models: int) -> None:
        self.costs, self.sizes = np.full((models, X.shape[1]), np.inf), np.ones((models, X.shape[1]))
        self.states, self.controls = (np.repeat(a[:, None], models, 1) for a in (X, U))

    def lower(
        self, chosen: ndarray, sizes: ndarray, costs: ndarray, states: ndarray, controls: ndarray
    ) -> None:
        """Take what is lower of some steps, (..., chosen, sizes)."""
        costs = np.where(np.isfinite(costs), costs, np.inf)
        size, least = costs.argmin(1), costs.min(1)
        new = np.flatnonzero(least < self.costs[chosen])
        place, size = tuple(axis[new] for axis in np.nonzero(chosen)), size[new]
        self.costs[place], self.sizes[place] = least[new], sizes[size]
        self.states[:, *place], self.controls[:, *place] = states[:, new, size], controls[:, new, size]


class _Trajectories:
    """The trajectories of all problems, of which `active` are not done; time first, then problems."""

    def __init__(self, settings: SecondOrderShooting, system: AnalyticSystem, start: ndarray) -> None:
        system.check_unchanged()
        self.settings, self.system = settings, system
        self.T, self.n, self.m = system.horizon, system.state_size, system.control_size
        x0 = np.atleast_2d(system.x0)
        self.U = self._clipped(np.moveaxis(start.reshape(len(x0), self.T, self.m), 0, 1))
        self.mu = np.full((len(settings._exact), len(x0)), settings.regularization)
        with np.errstate(all="ignore"):
            states, _ = system.follow(x0, self.U[:, :, None], np.zeros((self.T, len(x0), self.m, self.n)))
            self.X = states[:, :, 0]
            self.J = system.costs(self.X, self.U)
            for problem in np.flatnonzero(~(np.isfinite(self.X).all((0, 2)) & np.isfinite(self.J))).tolist():
                self._close_gaps(problem)
        self.first = np.abs(self.J)
        self.relaxed = np.zeros(len(x0), dtype=bool)
        self.iterations = np.zeros(len(x0), dtype=int)
        self.finite = np.isfinite(self.X).all((0, 2)) & np.isfinite(self.J)
        self.status = np.array([Status.BUDGET] * len(x0), dtype=object)
        self.status[~self.finite] = Status.DIVERGED
        self.active = np.flatnonzero(self.finite)

    @property
    def value(self) -> ndarray:
        """The controls, (T, m) or (b, T, m)."""
        return self._shaped(self.U)

    @property
    def cost(self) -> float:
        """The mean of J over the problems in which it is finite."""
        return float(self.J[self.finite].mean())

    def _close_gaps(self, problem: int) -> None:
        """Find controls that a rollout survives where those of the start overflow, by multiple shooting.

        The states rest at x_0, and what the dynamics make of them differs by gaps, which a step of size α
        leaves 1 - α of: the whole of them goes at once, or as much as keeps the cost finite (the infeasible
        start of FDDP: Mastalli et al., 2020). Nothing changes where that finds no trajectory.
        """
        one = slice(problem, problem + 1)
        X, U = np.repeat(self.X[:1, one], self.T + 1, 0), self.U[:, one]
        for _ in range(_CLOSING):
            times = np.arange(self.T)[:, None]
            gaps = self.system.advance(times, X[:-1], U) - X[1:]
            backward = self._backward(X, U, self.system.expand(X, U), self.mu[:, one], gaps)
            usable = np.all(backward.definite, axis=0)
            if not usable.any():
                return
            sizes = 0.5 ** np.arange(self.settings.step_sizes)
            states, controls = self._rollouts(X, U, backward.gains, usable, sizes, gaps)
            costs = self.system.costs(states, controls)
            costs[~(np.isfinite(states).all((0, 3)) & np.isfinite(costs))] = np.inf
            if not np.isfinite(costs).any():
                return
            largest = np.isfinite(costs).any(0).argmax()  # the longest step that any model survives
            chosen = costs[:, largest].argmin(), largest
            X, U = states[:, *chosen][:, None], controls[:, *chosen][:, None]
            if largest == 0:
                self.X[:, one], self.U[:, one], self.J[one] = X, U, costs[chosen]
                return

    def iterate(self) -> dict[str, Any]:
        """Do one backward pass and one rollout for the active problems; return columns of the history."""
        active, settings = self.active, self.settings
        X, U, J, mu = self.X[:, active], self.U[:, active], self.J[active], self.mu[:, active]
        with np.errstate(all="ignore"):
            model = self.system.expand(X, U)
            backward = self._backward(X, U, model, mu)
            usable = np.all(backward.definite, axis=0)
            promise = -0.5 * backward.values[0, ..., 0, 0]
            found = self._search(X, U, backward.gains, promise, usable)

        lowest, step = found.costs, found.sizes
        lower = lowest < J
        best, rows = lowest.argmin(0), np.arange(len(active))
        better = lower.any(0)
        chosen = best[better], rows[better]
        self.X[:, active[better]] = found.states[:, *chosen]
        self.U[:, active[better]] = found.controls[:, *chosen]
        self.J[active[better]] = lowest[chosen]
        self.iterations[active] += 1

        tolerance, size = max(settings.tolerance, _ROUNDING), _size(model, X, U)
        scale = np.minimum(self.system.magnitude(X, U), size) + tolerance * size
        small = usable & (promise <= tolerance * scale)
        done = (small & (mu <= settings.regularization)).any(0)
        # Where so little is promised nothing may be left to lower: ask once at the first regularization.
        little = small.any(0)
        resting = little & ~done & ~self.relaxed[active]
        self.relaxed[active] = (self.relaxed[active] | resting) & (little | ~better)
        lost = ~(np.isfinite(model.F).all((0, 2, 3)) & np.isfinite(model.hessian).all((0, 2, 3)))
        lost |= self.J[active] < -_MOST * (1 + self.first[active])  # unbounded below
        mu = np.where(lower & (step >= 1 / 2), mu / 10, np.where(lower & (step >= 1 / 8), mu, mu * 10))
        mu = np.where(resting, settings.regularization, mu.clip(settings.regularization * 1e-3, _MOST))
        stuck = ~better & (mu >= _MOST).all(0)
        self.mu[:, active] = mu
        for where, status in (
            (stuck, Status.STALLED),
            (stuck & ~usable.any(0), Status.ILL_CONDITIONED),
            (lost, Status.DIVERGED),
            (done, Status.CONVERGED),
        ):
            self.status[active[where]] = status
        self.active = active[~(done | lost | stuck)]
        return {
            "active": len(active),
            "step": float(step[best, rows].min()),
            "regularization": float(mu.min(0).max()),
        }

    def finish(self, run: SolverRun) -> tuple[Status, str]:
        """Hand over what was found, with the derivatives at it; return the worst status, with its remedy."""
        with np.errstate(all="ignore"):
            model = self.system.expand(self.X, self.U)
            costates = _costates(model)
            gradient = model.gradient[..., self.n :]
            gradient = gradient + (costates[1:, :, None, :] @ model.F[..., self.n :])[..., 0, :]
            backward = self._backward(self.X, self.U, model, np.zeros_like(self.mu))
        definite = np.all(backward.definite, axis=0)
        self.status[(self.status == Status.STALLED) & ~definite.any(0)] = Status.ILL_CONDITIONED
        # Where later controls follow the gains: the gradient's rounding grows as an unstable system does.
        slope = backward.stages[:, definite.argmax(0), np.arange(len(self.J)), 0, 1 + self.n :]
        slope = np.where(definite.any(0)[:, None], slope, gradient)
        projected = self.U - self._clipped(self.U - slope)
        # Nothing lowers the cost at a stationary point of an indefinite model either; but of a cost that is
        # concave between bounds any vertex may be one.
        stuck = (self.status == Status.STALLED) | (self.status == Status.ILL_CONDITIONED)
        price = np.abs(model.gradient[..., self.n :]).max((0, 2))
        stationary = np.abs(projected).max((0, 2)) <= self.settings.tolerance ** (2 / 3) * price
        limits = self.system.control_limits
        free = True if limits is None else ((limits[0] < self.U) & (limits[1] > self.U)).all((0, 2))
        self.status[stuck & stationary & free] = Status.CONVERGED
        worst = max(self.status, key=list(_REMEDIES).index)
        failed = int((self.status != Status.CONVERGED).sum())
        remedy = _REMEDIES[worst]
        if failed and len(self.J) > 1:
            remedy = f"{failed} of {len(self.J)} initial states: {remedy}"

        shaped = self._shaped

        def single(array: ndarray) -> Any:
            return array.tolist()[0] if self.system.x0.ndim == 1 else array

        run.value, run.cost = self.value, single(self.J)
        run.details |= {
            "states": shaped(self.X),
            "costates": shaped(costates),
            "gradient": shaped(gradient),
            "gains": shaped(backward.gains[:, 0, ..., 1:]),
            "stationarity": single(np.abs(projected).max((0, 2))),
            "iterations": single(self.iterations),
            "status": single(self.status),
        }
        if self.settings._exact[-1]:
            run.details["strict_minimum"] = single(np.all(backward.definite[:, -1], axis=0))
        return worst, remedy

    def _shaped(self, array: ndarray) -> ndarray:
        """Return an array with problems first, or without them where there is one initial state alone."""
        return array[:, 0] if self.system.x0.ndim == 1 else np.moveaxis(array, 0, 1)

    def _backward(
        self, X: ndarray, U: ndarray, model: Expansion, mu: ndarray, gaps: ndarray | float = 0.0
    ) -> BackwardRecursion:
        """Run the recursion for every model and problem, models first, at regularizations mu (models, b).

        The states follow the dynamics but for `gaps` f(x_t, u_t) - x_{t+1}, (T, b, n).
        """
        T, b, n1, k = self.T, X.shape[1], 1 + self.n, 1 + self.n + self.m
        exact = self.settings._exact
        F = np.zeros((T, b, n1, k))
        F[..., 0, 0], F[..., 1:, 0], F[..., 1:, 1:] = 1, gaps, model.F
        L = np.zeros((T, len(exact), b, k, k))
        L[..., 0, 1:] = L[..., 1:, 0] = model.gradient[:, None]
        L[..., 1:, 1:] = model.hessian[:, None]
        for i, second_order in enumerate(exact):
            if second_order:
                L[:, i, :, 1:, 1:] += self.system.curvature(X, U, _costates(model))
        u = np.arange(n1, k)
        unit = np.abs(model.hessian[..., u - 1, u - 1]).mean((0, 2))
        L[..., u, u] += (mu * np.where(unit > 0, unit, 1.0))[..., None]
        V = np.zeros((b, n1, n1))
        V[..., 0, 1:] = V[..., 1:, 0] = model.terminal_gradient
        V[..., 1:, 1:] = model.terminal_hessian
        bounds = None
        if self.system.control_limits is not None:
            low, high = ((limit - U)[:, None] for limit in self.system.control_limits)
            bounds = low, high
        return recursion(F[:, None], L, V, bounds)

    def _search(self, X: ndarray, U: ndarray, gains: ndarray, promise: ndarray, usable: ndarray) -> _Lowest:
        """Return what full steps lead to, double and short ones.

        Double ones are tried where the full one brings a quarter more than was promised; short ones, ever
        more at once, where none brings three quarters of what the model says, α (2 - α) of the promise.
        """
        found, J = _Lowest(X, U, len(usable)), self.J[self.active]
        self._try(found, X, U, gains, usable, np.ones(1))
        self._try(found, X, U, gains, usable & (J - found.costs > 1.25 * promise), np.full(1, 2.0))
        short = 0.5 ** np.arange(1, self.settings.step_sizes)
        for sizes in short[:2], short[2:]:
            kept = J - found.costs >= 0.75 * promise * found.sizes * (2 - found.sizes)
            self._try(found, X, U, gains, usable & ~kept.any(0), sizes)
        return found

    def _try(
        self, found: _Lowest, X: ndarray, U: ndarray, gains: ndarray, chosen: ndarray, sizes: ndarray
    ) -> None:
        if chosen.any() and sizes.size:
            states, controls = self._rollouts(X, U, gains, chosen, sizes)
            found.lower(chosen, sizes, self.system.costs(states, controls), states, controls)

    def _rollouts(
        self,
        X: ndarray,
        U: ndarray,
        gains: ndarray,
        chosen: ndarray,
        sizes: ndarray,
        gaps: ndarray | None = None,
    ) -> tuple[ndarray, ndarray]:
        """Roll out u = ū + α k + K (x - x̄) for the chosen of models and problems: (T + 1, chosen, α, n).

        Of `gaps` 1 - α is left.
        """
        problem = np.nonzero(chosen)[1]
        X, U, gains = X[:, problem], U[:, problem], gains[:, chosen]
        K = gains[..., 1:]
        offsets = (U - (K @ X[:-1, ..., None])[..., 0])[:, :, None] + sizes[:, None] * gains[:, :, None, :, 0]
        left = None if gaps is None else (1 - sizes)[:, None] * gaps[:, problem, None]
        return self.system.follow(X[0], offsets, K, left)

    def _clipped(self, U: ndarray) -> ndarray:
        limits = self.system.control_limits
        return U.copy() if limits is None else np.clip(U, *limits)


def _size(model: Expansion, X: ndarray, U: ndarray) -> ndarray:
    """Return Σ |∇ℓ|·z + ½ zᵀ|∇²ℓ|z and the same of Φ, (b,), at z = (|x|, |u|).

    A state is no smaller than the terms that it is a sum of, |A||x| + |B||u|: one that is brought to 0 counts
    as what rounding is relative to.
    """
    z = np.abs(np.concatenate([X[:-1], U], -1))
    X = np.abs(X)
    X[1:] = np.maximum(X[1:], (np.abs(model.F) @ z[..., None])[..., 0])
    z[..., : X.shape[-1]] = X[:-1]

    def total(z: ndarray, gradient: ndarray, hessian: ndarray) -> ndarray:
        return (z * (np.abs(gradient) + 0.5 * (np.abs(hessian) @ z[..., None])[..., 0])).sum(-1)

    running = total(z, model.gradient, model.hessian).sum(0)
    return running + total(X[-1], model.terminal_gradient, model.terminal_hessian)


def _costates(model: Expansion) -> ndarray:
    """Return p_T = ∇Φ, p_t = ∂ℓ_t/∂x + A_tᵀ p_{t+1}, (T + 1, b, n), from one triangular system of bands."""
    T, b, n, _ = model.F.shape
    right = np.concatenate([model.gradient[..., :n], model.terminal_gradient[None]]).swapaxes(0, 1)
    bands = np.zeros((b, T + 1, n, 2 * n))  # of column (t + 1, i) what stands above the diagonal, -A_t[i]
    for i in range(n):
        np.negative(model.F[:, :, i, :n].swapaxes(0, 1), out=bands[:, 1:, i, n - 1 - i : 2 * n - 1 - i])
    p, _ = _solve_bands(bands.reshape(-1, 2 * n).T, right.reshape(-1, 1), diag="U")
    return p.reshape(b, T + 1, n).swapaxes(0, 1)
