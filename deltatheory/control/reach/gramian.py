"""What a delta can reach: the output-controllability Gramian W = J Jᵀ and what follows from it.

J is the Jacobian of the outputs of some examples in δ, so W is the tangent kernel of `tangent.py`. Where
every coordinate of δ acts in one layer, W = Σ_t W_t with W_t = J_t J_tᵀ over the coordinates of layer t. A
coordinate that acts in several layers (a random subspace, Uni-LoRA) belongs to none of them: its columns of J
are sums over layers, and those coordinates are a part of their own here, so that the parts always add up.
Energy is ‖δ - δ_0‖² from the point δ_0 of the linearization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float, Int
from deltatheory.control.reach.parts import part_kernels, resolved_groups
from deltatheory.control.solvers.base import Status
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import ClassificationProblem
from deltatheory.results import Result

__all__ = [
    "Gramian",
    "JacobianLipschitz",
    "LeastEnergy",
    "ReachabilityBall",
    "estimate_lipschitz",
    "minimum_energy",
    "output_gramian",
    "reachability_ball",
]

_RANK = 1e-10  # eigenvalues of J Jᵀ below this share of the largest are rounding of a float32 J


@dataclass(frozen=True, eq=False)
class Gramian(Result):
    """The output-controllability Gramian of a delta, in total and by part.

    Attributes:
        total: shape (o, o), W in float64; outputs are ordered by example, then output.
        start: shape (o,), the outputs y_0 that W is linearized at.
        parts: name of a layer (or other group of coordinates) ↦ its W_t; they add up to `total`.
        exact: False where long rows were sketched, so that W is an unbiased estimate.
        passes: forward-equivalents over single examples.
        seconds: time taken.
    """

    total: Float[Tensor, "o o"]
    start: Float[Tensor, " o"]
    parts: dict[str, Float[Tensor, "o o"]] = field(default_factory=dict)
    exact: bool = True
    passes: float = 0.0
    seconds: float = 0.0

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.total)
        return values.flip(0).clamp(min=0), vectors.flip(1)

    @property
    def eigenvalues(self) -> Float[Tensor, " o"]:
        """The eigenvalues of W, largest first."""
        return self._eigen[0]

    @property
    def eigenvectors(self) -> Float[Tensor, "o o"]:
        """The directions of the outputs that belong to them, in columns."""
        return self._eigen[1]

    def rank(self, tolerance: float = _RANK) -> int:
        """Return how many eigenvalues exceed `tolerance` times the largest."""
        values = self.eigenvalues
        return int(((values > tolerance * values[0]) & (values > 0)).sum())

    def semi_axes(self, energy: float) -> Float[Tensor, " o"]:
        """Return the semi-axes of what the linearized network reaches with ‖δ - δ_0‖² <= energy.

        They are √(energy · λ_i) along the eigenvectors, around `start`.

        Raises:
            ValueError: for a negative energy.
        """
        if not energy >= 0:
            raise ValueError(f"energy={energy}: must be at least 0.")
        return (energy * self.eigenvalues).sqrt()

    def shares(self) -> dict[str, float]:
        """Return each part's share of the trace: how much of the outputs' movement comes from it."""
        whole = float(self.total.trace())
        return {name: float(part.trace()) / whole if whole else 0.0 for name, part in self.parts.items()}


def output_gramian(
    problem: ClassificationProblem,
    *,
    examples: int,
    groups: Mapping[str, Int[Tensor, " g"]] | Literal["layer", "module"] = "layer",
    outputs: Literal["logits", "margin"] = "logits",
    sketch: int | None = None,
    seed: int = 0,
    at: Tensor | None = None,
    on_example: Callable[[int, int], None] | None = None,
) -> Gramian:
    """Return W = Σ_t W_t of a problem's delta over its first training examples.

    In layers this is Σ_t Φ_{T,t} B_t B_tᵀ Φ_{T,t}ᵀ over the stacked outputs of the examples, with one control
    u_t for all of them; it is also the empirical tangent kernel of the controls.

    Args:
        problem: whose delta is the control.
        examples: n; W has n outputs (margins) or n (C - 1) (differences of logits).
        groups: "layer", "module", or names ↦ coordinates as in `part_tangent_rows`.
        outputs: "logits" or "margin".
        sketch: longest row to keep of each run of coordinates, where W takes rows of J; `None` for all of
            them.
        seed: of the sketches.
        at: the δ_0 to linearize at; δ = 0 by default.
        on_example: called with (done, total).

    Raises:
        ValueError: as `coordinate_groups` and `part_tangent_rows`.
        FloatingPointError: if the Jacobian is not finite.
    """
    by, chosen = resolved_groups(problem, groups, examples)
    found = part_kernels(
        problem,
        chosen,
        by=by,
        train=examples,
        outputs=outputs,
        sketch=sketch,
        seed=seed,
        at=at,
        on_example=on_example,
    )
    return Gramian(
        total=_finite(found.kernel()),
        start=(found.start.logits[:, 1:] - found.start.logits[:, :1]).flatten().double(),
        parts=found.parts,
        exact=found.exact,
        passes=found.passes,
        seconds=found.seconds,
    )


def _finite(rows: Tensor) -> Tensor:
    if not rows.isfinite().all():
        raise FloatingPointError(
            "the Jacobian is not finite: look for NaN in the weights, or take another δ."
        )
    return rows


@dataclass(frozen=True, eq=False)
class LeastEnergy:
    """The least ‖u‖² that brings the linearized outputs to given targets.

    Attributes:
        status: `CONVERGED`, or `INFEASIBLE` where no control reaches the targets.
        remedy: what to do then.
        energy: (z - y_0)ᵀ W⁺ (z - y_0): of the targets, or of the nearest outputs that can be reached.
        least_norm: ‖z - y_0‖/√λ_max, which ‖u‖ cannot be below.
        distance: from the targets to the nearest outputs that can be reached; 0 where they can.
        multipliers: shape (o,), α with the control u = Jᵀα.
        by_part: αᵀ W_t α, the energy that each part of the Gramian spends; they add up to `energy`.
    """

    status: Status
    remedy: str
    energy: float
    least_norm: float
    distance: float
    multipliers: Float[Tensor, " o"]
    by_part: dict[str, float]


def minimum_energy(
    gramian: Gramian, targets: Float[Tensor, " o"], *, tolerance: float = _RANK
) -> LeastEnergy:
    """Solve min ‖u‖² subject to y_0 + J u = z: the value is (z - y_0)ᵀ W⁺ (z - y_0) iff z - y_0 ∈ range W.

    Source: classical; by the optimality conditions u = Jᵀα with W α = z - y_0.

    >>> gramian = Gramian(total=torch.diag(torch.tensor([4.0, 1.0])).double(), start=torch.zeros(2).double())
    >>> minimum_energy(gramian, torch.tensor([2.0, 3.0])).energy  # 2²/4 + 3²/1
    10.0

    Args:
        gramian: W and y_0.
        targets: z, in the order of `gramian.start`.
        tolerance: eigenvalues below this share of the largest count as zero, and targets count as reachable
            where √tolerance of their change, or less, lies outside the range.

    Raises:
        ValueError: for targets of another number than the outputs, or that are not finite.
    """
    if targets.shape != gramian.start.shape or not targets.isfinite().all():
        raise ValueError(
            f"targets: have shape {tuple(targets.shape)}; needed are {len(gramian.start)} finite numbers."
        )
    change = targets.to(gramian.start) - gramian.start
    kept = gramian.rank(tolerance)
    values, vectors = gramian.eigenvalues[:kept], gramian.eigenvectors[:, :kept]
    along = vectors.T @ change
    distance = float((change - vectors @ along).norm())
    reachable = distance <= math.sqrt(tolerance) * float(change.norm())
    alpha = vectors @ (along / values)
    largest = float(values[0]) if kept else 0.0
    remedy = ""
    if not reachable:
        remedy = (
            f"targets: lie {distance:.3g} away from what the linearized network reaches (rank {kept} of "
            f"{len(change)} outputs); tune more coordinates, act in more layers, or ask for other targets."
        )
    return LeastEnergy(
        status=Status.CONVERGED if reachable else Status.INFEASIBLE,
        remedy=remedy,
        energy=float((along.square() / values).sum()),
        least_norm=float(change.norm()) / math.sqrt(largest) if largest else math.inf,
        distance=0.0 if reachable else distance,
        multipliers=alpha,
        by_part={name: float(alpha @ part @ alpha) for name, part in gramian.parts.items()},
    )


@dataclass(frozen=True)
class JacobianLipschitz:
    """A lower bound of the Lipschitz constant of δ ↦ J(δ), from pairs of points in a ball.

    Attributes:
        value: the largest ‖J(u) - J(v)‖/‖u - v‖ met.
        radius: of the ball.
        pairs: how many were compared.
    """

    value: float
    radius: float
    pairs: int


def estimate_lipschitz(
    problem: ClassificationProblem,
    *,
    examples: int,
    radius: float,
    draws: int = 6,
    outputs: Literal["logits", "margin"] = "logits",
    seed: int = 0,
) -> JacobianLipschitz:
    """Estimate the Lipschitz constant of the Jacobian near δ = 0, from below.

    The points are 0 and random ones in the range of Jᵀ, where the controls of the ball move: in
    thousands of dimensions other directions hardly bend the outputs.

    Args:
        problem: whose delta is the control.
        examples: the first training examples, as for the Gramian.
        radius: of the ball.
        draws: number of random points, at radii from radius/draws to radius.
        outputs: "logits" or "margin".
        seed: of the points.

    Raises:
        ValueError: for a radius that is not positive, fewer than one draw, or a Jacobian of 0 at δ = 0.
        FloatingPointError: if a Jacobian is not finite.
    """
    check_number("examples", examples, whole=True, least=2)
    check_number("radius", radius, above=0)
    check_number("draws", draws, whole=True, above=0)

    def jacobian(at: Tensor) -> Tensor:
        size = problem.delta.size
        features = tangent_rows(problem, train=examples, test=0, outputs=outputs, sketch=size, at=at)
        return _finite(features.rows).flatten(0, 1)

    generator = torch.Generator().manual_seed(seed)
    points = [problem.delta.initial()]
    jacobians = [jacobian(points[0])]
    if not jacobians[0].any():
        raise ValueError("problem: its Jacobian at δ = 0 is 0: to first order no control acts.")
    for k in range(draws):
        mixed = jacobians[0].T @ torch.randn(len(jacobians[0]), generator=generator).to(jacobians[0])
        points.append((k + 1) / draws * radius * mixed / mixed.norm())
        jacobians.append(jacobian(points[-1]))
    ratios = [
        float(torch.linalg.matrix_norm(jacobians[i] - jacobians[j], 2) / (points[i] - points[j]).norm())
        for i in range(len(points))
        for j in range(i)
    ]
    return JacobianLipschitz(max(ratios), radius, len(ratios))


@dataclass(frozen=True)
class ReachabilityBall:
    """A ball of outputs around y_0 all of which some control reaches, in the network itself.

    Radii are rounded down, so that they hold of W as it is given. A W of a network has the rounding of its
    dtype in it: no number here is a certificate.

    Attributes:
        radius: of the ball; 0 where nothing is promised.
        control_radius: ρ: the controls that reach it have ‖u‖ <= ρ.
        smallest: s, the smallest singular value of J.
        lipschitz: M.
        estimated: whether M or W is an estimate: then the ball is one too.
        remedy: what to do where the radius is 0, or where it is an estimate.
    """

    radius: float
    control_radius: float
    smallest: float
    lipschitz: float
    estimated: bool
    remedy: str


def reachability_ball(
    gramian: Gramian, lipschitz: float | JacobianLipschitz, *, limit: float = math.inf
) -> ReachabilityBall:
    """Return the ball of outputs that controls of norm ρ reach: radius sρ - Mρ²/2.

    Let F be C¹ on the ball of radius ρ with F' M-Lipschitz there, s = σ_min(F'(0)) > 0 and ρ <= s/M. Then F
    maps it onto a set that contains the ball of radius sρ - Mρ²/2 around F(0), at best s²/(2M) (Graves 1950,
    by lifting the straight path: u' = J(u)⁺ (z - y_0)). With a = s - Mρ it is tight for su - (M/2)u|u|.

    >>> gramian = Gramian(total=4 * torch.eye(1).double(), start=torch.zeros(1).double())
    >>> ball = reachability_ball(gramian, 0.5)
    >>> round(ball.radius, 9), round(ball.control_radius, 9)  # s = 2, M = 1/2: s²/(2M) at s/M
    (4.0, 4.0)

    Args:
        gramian: W at δ_0; s² is its smallest eigenvalue.
        lipschitz: M, a number that you can prove, or an estimate, which the result then calls so.
        limit: the largest ρ for which M holds; an estimate brings its own.

    Raises:
        ValueError: for an M or a limit that is not positive.
    """
    constant = lipschitz.value if isinstance(lipschitz, JacobianLipschitz) else lipschitz
    remedies = [] if gramian.exact else ["W is sketched: raise sketch above the size of δ"]
    if isinstance(lipschitz, JacobianLipschitz):
        limit = min(limit, lipschitz.radius)
        remedies.append("M is a lower bound from sampled points: give a number that you can prove")
    check_number("lipschitz", constant, above=0)
    if not limit > 0:
        raise ValueError(f"limit={limit}: must be above 0.")
    outputs = len(gramian.start)
    if gramian.rank() < outputs:
        remedy = (
            f"W has rank {gramian.rank()} of {outputs}: J is not onto, so nothing is promised; take fewer "
            "examples, or tune more coordinates."
        )
        return ReachabilityBall(0.0, 0.0, 0.0, constant, bool(remedies), remedy)
    unit = torch.finfo(torch.float64).eps
    # Eigenvalues are off by a few units of the largest for each row; rank says that this is far above.
    least = float(gramian.eigenvalues[-1]) - 16 * outputs * unit * float(gramian.eigenvalues[0])
    s = (1 - 4 * unit) * math.sqrt(least)
    rho = min((1 - 4 * unit) * s / constant, limit)
    radius = (1 - 8 * unit) * (s - constant * rho / 2) * rho
    remedy = f"an estimate: {', and '.join(remedies)}." if remedies else ""
    return ReachabilityBall(radius, rho, s, constant, bool(remedies), remedy)
