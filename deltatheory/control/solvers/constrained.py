"""The cheapest control that reaches given targets: ½|δ|² under constraints on outputs and on δ itself.

Both solvers linearize the outputs again and again. With equality targets the linear problem is solved
through the kernel W = J Jᵀ; with half-spaces and bounds on norms it is a second-order cone program, which
cvxpy solves in the few directions that can matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.control.solvers.base import SolverRun, Status
from deltatheory.control.solvers.objective import DeltaSolver, Objective, require_finite
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.deltas import Delta, PrefixTuning, PromptTuning
from deltatheory.deltas.prompt import start_embeddings, start_tokens

__all__ = ["Constrained", "MinimumEnergy", "NormBound", "cloud_bounds", "layer_bounds"]

_RANK = 1e-10  # eigenvalues of W below this share of the largest count as zero
_SHORTEST = 1e-6  # step of the line search
_SUFFICIENT = 0.1  # least ratio of actual to predicted decrease
_LARGEST_PENALTY = 1e6
_CONE = 1e-8  # Clarabel's gap


@dataclass(frozen=True, kw_only=True)
class MinimumEnergy(DeltaSolver):
    """min ½|δ|² subject to outputs(δ) = targets, by sequential quadratic programming.

    At δ_k with outputs y and rows J the linear problem min ½|δ|², y + J(δ - δ_k) = z has the solution
    δ = Jᵀα, W α = z - y + J δ_k with W = J Jᵀ, if that lies in the range of W (Kalman's minimum energy). A
    line search on ½|δ|² + ρ Σ|y - z| makes steps safe. Converged where the largest miss is below `tolerance`
    times 1 + |z| (outputs are in nats) and the change of δ below `tolerance` times |δ|.

    Attributes:
        targets: z, one number for all outputs or shape (n, k).
        outputs: "margin" (k = 1) or "logits", the differences z_c - z_0 (k = C - 1).
    """

    name = "minimum-energy"
    targets: float | Tensor = 1.0
    outputs: Literal["margin", "logits"] = "margin"
    tolerance: float = 1e-3

    def _solve(self, posed: Objective, run: SolverRun) -> tuple[Status, str]:
        delta, penalty, objective = run.value, 0.0, posed
        found = objective.outputs(delta, kind=self.outputs)
        targets = torch.as_tensor(self.targets).to(found.values)
        if targets.ndim and targets.shape != found.values.shape:
            raise ValueError(
                f"targets has shape {tuple(targets.shape)}: allowed are one number and {found.values.shape}."
            )
        while True:
            require_finite(found.values)
            miss = (found.values - targets).flatten()
            largest = float(miss.abs().max())
            price, solved = objective.price(delta), float(found.solved.double().mean())
            run.record(delta, price, metric=solved, miss=largest)
            run.value, run.cost = delta, price
            if run.spent:
                return Status.BUDGET, f"targets missed by up to {largest:.3g}: raise the budget"
            rows = found.rows().flatten(0, 1).double()
            require_finite(rows)
            wanted = rows @ delta.double() - miss
            values, vectors = torch.linalg.eigh(rows @ rows.T)
            kept = values > _RANK * values[-1]
            along = vectors[:, kept].T @ wanted
            outside = float((wanted - vectors[:, kept] @ along).norm())
            if outside > math.sqrt(_RANK) * float(wanted.norm()):
                return Status.INFEASIBLE, (
                    f"targets: their linear problem has rank {int(kept.sum())} for {len(miss)} outputs and "
                    f"misses them by {outside:.3g}; take fewer examples, more coordinates or other targets"
                )
            alpha = vectors[:, kept] @ (along / values[kept])
            step = (rows.T @ alpha - delta.double()).to(delta)
            run.details.update(
                multipliers=alpha.view_as(found.values),
                stationarity=float((delta.double() - rows.T @ alpha).norm()),
                miss=largest,
            )
            small = float(step.norm()) <= self.tolerance * max(
                float(delta.norm()), float((delta + step).norm())
            )
            if small and largest <= self.tolerance * (1 + float(targets.abs().max())):
                return Status.CONVERGED, ""
            penalty = max(penalty, 2 * float(alpha.abs().max()))
            merit = price + penalty * float(miss.abs().sum())
            slope = float(delta.double() @ step.double()) - penalty * float(miss.abs().sum())
            size = 1.0
            while True:
                trial = delta + size * step
                found = objective.outputs(trial, kind=self.outputs)
                missed = float((found.values - targets).abs().sum())
                if objective.price(trial) + penalty * missed <= merit + 1e-4 * size * slope:
                    break
                size /= 2
                if size < _SHORTEST:
                    return Status.STALLED, (
                        f"targets missed by up to {largest:.3g} and no step comes nearer: take nearer targets"
                    )
            delta = trial


@dataclass(frozen=True, eq=False)
class NormBound:
    """|δ_I - c| ≤ r.

    Attributes:
        name: for messages.
        coordinates: I.
        radius: r.
        centre: c, shape as I; 0 by default.
    """

    name: str
    coordinates: Int[Tensor, " k"]
    radius: float
    centre: Float[Tensor, " k"] | None = None

    def excess(self, delta: Tensor) -> float:
        """Return |δ_I - c| - r, above 0 where the bound is broken.

        >>> NormBound("first two", torch.tensor([0, 1]), radius=4.0).excess(torch.tensor([3.0, 4.0, 9.0]))
        1.0
        """
        part = delta[self.coordinates].double()
        return float((part if self.centre is None else part - self.centre.double()).norm()) - self.radius


def layer_bounds(system: LayeredSystem, radius: float) -> tuple[NormBound, ...]:
    """Return |u_t| ≤ r for every step t on which δ acts."""
    return tuple(
        NormBound(name, system.coordinates(t), radius)
        for t, name in enumerate(system.names)
        if len(system.coordinates(t))
    )


def cloud_bounds(delta: Delta, *, words: int = 256, seed: int = 0) -> tuple[NormBound, ...]:
    """Return bounds that keep every virtual token within the norms of real ones.

    The radius of a virtual token is the largest norm over a draw of the vocabulary: of word embeddings for a
    prompt, of the keys (or values) that the frozen block computes for a prefix.

    Args:
        delta: a prompt, or a prefix without an MLP.
        words: size of the draw; at most what the backbone takes in one text.
        seed: of the draw.

    Raises:
        ValueError: for another delta.
    """
    backbone = delta.backbone
    count = min(words, backbone.max_length - 1)
    positions = torch.arange(delta.size, device=backbone.device, dtype=torch.float64)
    zero = delta.initial()
    if isinstance(delta, PromptTuning):
        cloud = start_embeddings(backbone, start_tokens(backbone, count, seed=seed))
        pieces = {"prompt": (delta.coordinates.split(positions)["prompt"], delta.prompt(zero), cloud)}
    elif isinstance(delta, PrefixTuning) and delta.hidden is None:
        real = PrefixTuning(backbone, length=count, gate="none", blocks=delta.blocks, seed=seed)
        names, start, cloud = (
            delta.coordinates.split(positions),
            delta.keys_values(zero),
            real.keys_values(real.initial()),
        )
        pieces = {
            f"{t}.{part}": tuple(
                x.transpose(0, 1).flatten(1) for x in (names[f"{t}.{part}"], start[t][i], cloud[t][i])
            )
            for t in delta.blocks
            for i, part in enumerate(("key", "value"))
        }
    else:
        raise ValueError(f"delta={delta.name!r}: allowed are a prompt, and a prefix without an MLP.")
    return tuple(
        NormBound(f"{name}[{j}]", where.long(), float(cloud.norm(dim=1).max()), -start)
        for name, (rows, starts, cloud) in pieces.items()
        for j, (where, start) in enumerate(zip(rows, starts, strict=True))
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Constrained(DeltaSolver):
    """min ½|δ|² subject to half-spaces on the outputs and bounds on norms, by sequential convexification.

    With "margin" every example must have m = z_y - log Σ_{c≠y} exp z_c ≥ κ, with "logits" z_y - z_c ≥ κ for
    every other class. Each subproblem is a cone program with the outputs linearized at δ_k, a penalty ρ on
    what they miss (exact for large ρ), and a trust region that shrinks after a poor step. Bounds hold at
    every iterate. Only the span of the rows and the bounds' centres within each cell of coordinates that no
    bound separates can lower the objective, so the program is solved in those few directions.

    Converged where the predicted decrease is below `tolerance` times the merit (½|δ|² plus the penalty), or
    what the cone solver leaves; then a target that is missed by more than `tolerance` times 1 + |κ| makes the
    problem infeasible, as far as linearizations tell.

    Attributes:
        margin: κ.
        outputs: "margin" or "logits".
        bounds: on δ.
        penalty: ρ at the start; it grows tenfold while targets are missed at convergence.
    """

    name = "constrained"
    margin: float = 1.0
    outputs: Literal["margin", "logits"] = "margin"
    bounds: tuple[NormBound, ...] = ()
    penalty: float = 100.0
    tolerance: float = 1e-4
    positive = ("penalty",)

    def _half_spaces(self, objective: Objective, delta: Tensor) -> tuple[Tensor, float, Any]:
        """Return what must be at least κ, flat, the share of right answers, and the rows, when called."""
        found = objective.outputs(delta, kind=self.outputs)
        solved = float(found.solved.double().mean())
        if self.outputs == "margin":
            return found.values[:, 0], solved, lambda: found.rows()[:, 0].double()
        labels, count = objective.problem.train.labels, objective.problem.task.num_classes
        # z_y - z_c for c ≠ y from the differences z_c - z_0
        differences = torch.eye(count, dtype=torch.float64, device=delta.device)
        turn = torch.stack(
            [(differences[y] - differences)[torch.arange(count) != y][:, 1:] for y in labels.tolist()]
        )
        values = (turn @ found.values[:, :, None]).flatten()
        return values, solved, lambda: (turn @ found.rows().double()).flatten(0, 1)

    def _solve(self, posed: Objective, run: SolverRun) -> tuple[Status, str]:
        delta, penalty, radius = run.value, self.penalty, math.inf
        values, solved, rows = self._half_spaces(posed, delta)
        jacobian = None
        while True:
            require_finite(values)
            short = float((self.margin - values).clamp(min=0).max())
            price = posed.price(delta)
            reach = None if math.isinf(radius) else radius
            run.record(delta, price, metric=solved, miss=short, radius=reach)
            run.value, run.cost = delta, price
            if run.spent:
                return Status.BUDGET, f"targets missed by up to {short:.3g}: raise the budget"
            jacobian = rows() if jacobian is None else jacobian
            require_finite(jacobian)
            found = _subproblem(jacobian, values - self.margin, delta, self.bounds, penalty, radius)
            if isinstance(found, str):
                if radius < math.inf:
                    radius *= 10
                    continue
                if found == "infeasible":
                    names = ", ".join(bound.name for bound in self.bounds)
                    return Status.INFEASIBLE, f"no δ keeps within all of the bounds {names}: loosen one"
                return Status.ILL_CONDITIONED, (
                    f"the cone program has no answer ({found}): its numbers are too far apart; lower margin, "
                    f"now {self.margin:g}, or penalty, now {penalty:g}"
                )
            trial, multipliers, prices, promised = found
            run.details.update(multipliers=multipliers, bound_multipliers=prices, miss=short)
            merit = price + penalty * float((self.margin - values).clamp(min=0).sum())
            inside = all(bound.excess(delta) <= self.tolerance * (1 + bound.radius) for bound in self.bounds)
            predicted = merit - promised
            if inside and predicted <= self.tolerance * merit + _CONE:
                if short <= self.tolerance * (1 + abs(self.margin)):
                    return Status.CONVERGED, ""
                if penalty < _LARGEST_PENALTY:
                    penalty *= 10
                    radius = math.inf
                    continue
                return Status.INFEASIBLE, self._blame(short, prices)
            values_there, solved_there, rows_there = self._half_spaces(posed, trial)
            actual = merit - posed.price(trial)
            actual -= penalty * float((self.margin - values_there).clamp(min=0).sum())
            length = float((trial - delta).norm())
            if not inside or actual >= _SUFFICIENT * predicted:
                if inside and actual >= 0.5 * predicted:
                    radius = max(radius, 2 * length) if radius < math.inf else radius
                delta, values, solved, rows, jacobian = trial, values_there, solved_there, rows_there, None
            else:
                radius = length / 2
                if radius <= 1e-9 * (1 + float(delta.norm())):
                    return Status.STALLED, "no step lowers the merit: take float64, or a smaller penalty"

    def _blame(self, short: float, prices: Sequence[float]) -> str:
        binding = [
            b.name for p, b in sorted(zip(prices, self.bounds, strict=True), key=lambda x: -x[0]) if p > 0
        ]
        if not binding:
            return f"margin={self.margin}: missed by {short:.3g} with no bound in the way; lower it"
        return f"margin={self.margin}: missed by {short:.3g}; lower it, or loosen {', '.join(binding[:3])}"


def _cells(size: int, bounds: Sequence[NormBound]) -> list[Tensor]:
    """Return the coordinates that the same bounds act on, cell by cell."""
    member = torch.zeros(size, len(bounds) + 1, dtype=torch.bool)
    for k, bound in enumerate(bounds):
        member[bound.coordinates.cpu(), k] = True
    which = torch.unique(member, dim=0, return_inverse=True)[1]
    return [torch.nonzero(which == c)[:, 0] for c in range(int(which.max()) + 1)]


def _subproblem(
    rows: Tensor, slack: Tensor, delta: Tensor, bounds: Sequence[NormBound], penalty: float, radius: float
) -> tuple[Tensor, Tensor, list[float], float] | str:
    """Solve min ½|x|² + ρ Σ max(0, -(slack + rows (x - δ))) under the bounds and |x - δ| ≤ radius.

    Returns:
        x, the multipliers of the half-spaces and of the bounds, and the value; the status of the cone solver
        if it has no answer, "infeasible" if nothing keeps within the bounds.

    Raises:
        ImportError: without cvxpy.
    """
    try:
        import cvxpy as cp
    except ImportError as error:
        raise ImportError("constrained control needs cvxpy: pip install 'deltatheory[control]'.") from error
    here = delta.double()
    centres = torch.zeros(len(bounds), len(here), dtype=torch.float64, device=here.device)
    for k, bound in enumerate(bounds):
        if bound.centre is not None:
            centres[k, bound.coordinates] = bound.centre.double()
    bases = []
    for cell in _cells(len(here), bounds):
        span = torch.cat([rows[:, cell], here[None, cell], centres[:, cell]]).T
        left, values, _ = torch.linalg.svd(span[:, span.abs().amax(0) > 0], full_matrices=False)
        kept = values > 1e-12 * values[:1].sum()
        if kept.any():
            bases.append((cell, left[:, kept]))
    if not bases:
        bases.append((torch.arange(len(here)), torch.zeros(len(here), 1, dtype=torch.float64)))
    starts = [0, *torch.tensor([basis.shape[1] for _, basis in bases]).cumsum(0).tolist()]

    def reduce(vectors: Tensor) -> Any:
        return torch.cat([vectors[..., cell] @ basis for cell, basis in bases], -1).cpu().numpy()

    x = cp.Variable(starts[-1])
    missing = cp.Variable(len(slack), nonneg=True)
    point, image, middle = reduce(here), reduce(rows), reduce(centres)
    half_spaces = slack.cpu().numpy() + image @ (x - point) + missing >= 0
    cones = []
    for k, bound in enumerate(bounds):
        inside = set(bound.coordinates.tolist())
        chosen = [
            i
            for j, (cell, _) in enumerate(bases)
            if int(cell[0]) in inside
            for i in range(starts[j], starts[j + 1])
        ]
        cones.append(cp.norm(x[chosen] - middle[k, chosen]) <= bound.radius if chosen else None)
    within = [] if math.isinf(radius) else [cp.norm(x - point) <= radius]
    constraints = [half_spaces, *(c for c in cones if c is not None), *within]
    program = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + penalty * cp.sum(missing)), constraints)
    try:
        program.solve(solver=cp.CLARABEL)
    except cp.SolverError:
        return "solver error"
    if x.value is None or program.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        return program.status.removesuffix("_inaccurate")
    best = torch.zeros_like(here)
    answer = torch.from_numpy(x.value).to(here)
    for j, (cell, basis) in enumerate(bases):
        best[cell] = basis @ answer[starts[j] : starts[j + 1]]
    value: Any = program.value
    duals = torch.from_numpy(half_spaces.dual_value)
    prices = [0.0 if c is None else float(c.dual_value) for c in cones]
    return best.to(delta), duals, prices, float(value)
