"""Losses, starts, subspaces and steps for the subspace theorems, and hypotheses that they share."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.exact import (
    as_fractions,
    diagonal,
    eye,
    projector,
    random_fractions,
    random_full_rank,
    random_orthogonal,
    random_positive,
)
from deltatheory.theorems.instances import Instance, Sampler
from deltatheory.theorems.loss_functions import AbsoluteValue, Quadratic, Separable
from deltatheory.theorems.splines import Spline, huber, parabola
from deltatheory.theorems.theorem import Hypothesis

__all__ = [
    "ENTRIES",
    "OBLIQUE",
    "axes",
    "bowl",
    "flat_bowl",
    "iterates",
    "kink",
    "minimiser",
    "off_centre",
    "orthogonal_projection",
    "plateau",
    "quadratic",
    "right_step",
    "small_bowl",
    "smooth",
    "smooth_sample",
    "stepping",
    "strongly_convex",
    "strongly_convex_sample",
]

F = Fraction

ENTRIES = {
    "f": "loss on R^D, one of `loss_functions`",
    "L": "its smoothness",
    "mu": "its strong convexity, or PL constant",
    "x0": "start, (D,)",
    "star": "x*, a minimiser of f, (D,)",
    "A": "columns that span the subspace, (D, d)",
    "x": "where training in the subspace ended, (D,)",
    "lowest": "least value of f, or of f on the subspace",
    "G": "what projects the gradient, (D, D)",
    "step": "length of a step",
    "N": "number of steps",
    "h": "length of a step, times L",
}


def plateau(L: Fraction) -> Spline:
    """Return a well that flattens out: L-smooth, not convex, minimum 0 at 0."""
    return Spline((F(-2), F(-1), F(1), F(2)), (F(0), -L, L, -L, F(0)), F(0), L)


def axes(D: int, d: int) -> np.ndarray:
    """Return the first d axes of R^D as columns."""
    return eye(D)[:, :d]


def quadratic(rng: np.random.Generator, D: int, mu: Fraction, L: Fraction) -> Quadratic:
    """Return a quadratic whose extreme eigenvalues are mu and L."""
    inner = [mu + (L - mu) * F(int(rng.integers(0, 5)), 4) for _ in range(D - 2)]
    Q = random_orthogonal(rng, D)
    return Quadratic(Q @ diagonal([mu, *inner, L]) @ Q.T, random_fractions(rng, D))


def smooth_sample(seed: int, strongly: bool = False) -> Instance:
    """L-smooth f with a minimiser, a start and a subspace: quadratics and sums of wells in turn."""
    rng = np.random.default_rng(seed)
    D = int(rng.integers(2, 5))
    d = int(rng.integers(1, D))
    mu, L = random_positive(rng, 2) * as_fractions([1, 10]) / 3
    mu, L = min(mu, L), max(mu, L)
    x0 = random_fractions(rng, D)
    if seed % 3:
        f = quadratic(rng, D, mu if strongly or seed % 2 else F(0), L)
        return {"f": f, "mu": mu, "L": L, "x0": x0, "star": f.centre, "A": random_full_rank(rng, D, d)}
    wells = [parabola(mu), parabola(L)] if strongly else [plateau(L), huber(L, F(1, 2)), parabola(L)]
    f = Separable(tuple(wells[int(i)] for i in rng.integers(0, len(wells), D)))
    return {"f": f, "mu": mu, "L": L, "x0": x0, "star": as_fractions([0] * D), "A": axes(D, d)}


def strongly_convex_sample(seed: int) -> Instance:
    """As `sample`, and mu-strongly convex."""
    return smooth_sample(seed, strongly=True)


def bowl(seed: int, curvature: str = "L") -> Instance:
    """½ c ‖x‖², where every bound of this family holds with equality."""
    rng = np.random.default_rng(seed)
    D = int(rng.integers(2, 5))
    L = F(int(rng.integers(2, 9)))
    mu = F(1) if curvature == "L" else L
    f = Quadratic(eye(D) * L, as_fractions([0] * D))
    x0 = as_fractions(rng.integers(1, 6, D))
    return {"f": f, "mu": mu, "L": L, "x0": x0, "star": f.centre, "A": axes(D, 1)}


def flat_bowl(seed: int) -> Instance:
    """As `bowl`, with curvature mu."""
    return bowl(seed, "mu")


# ---- Hypotheses that several theorems share ----


def smooth(violator: Sampler) -> Hypothesis:
    """Return that f is L-smooth."""
    return Hypothesis(
        "L-smooth", r"$\nabla f$ is $L$-Lipschitz on $R^D$", lambda x: x["f"].is_smooth(x["L"]), violator
    )


def strongly_convex(violator: Sampler) -> Hypothesis:
    """Return that f is mu-strongly convex."""
    return Hypothesis(
        "strongly convex",
        r"$f-\frac\mu2\|x\|^2$ is convex, $\mu>0$",
        lambda x: x["mu"] > 0 and x["f"].is_strongly_convex(x["mu"]),
        violator,
    )


def minimiser(violator: Sampler) -> Hypothesis:
    """Return that the point called x* minimises f."""
    return Hypothesis("minimiser", r"$x^*$ minimises $f$", lambda x: x["f"].is_minimiser(x["star"]), violator)


def kink(seed: int) -> Instance:
    """Return c Σ|x_i| near its kink: no L is enough for it."""
    c = F(seed % 5 + 1)
    x0 = as_fractions([F(1, 10), F(1, 10)])
    star = as_fractions([0, 0])
    return {"f": AbsoluteValue(c), "L": F(2), "mu": F(1), "x0": x0, "star": star, "A": axes(2, 1)}


def off_centre(seed: int) -> Instance:
    """Return the bowl with a point that is no minimiser called x*: the start is uphill of it."""
    return bowl(seed) | {"star": bowl(seed)["x0"] / 2}


# ---- Gradient descent inside the subspace ----

OBLIQUE = as_fractions([[1, 3], [0, 0]])  # projects on the first axis, not orthogonally


def stepping(sampler: Sampler, N: int | None = None) -> Sampler:
    """Add the method to instances: P, step 1/L, and N steps (1 to 4 by the seed)."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        return x | {"G": projector(x["A"]), "step": 1 / x["L"], "N": N or seed % 4 + 1}

    return sample


def small_bowl(seed: int) -> Instance:
    """½ L ‖x‖² on R², S the first axis."""
    L = F(seed % 5 + 2)
    f = Quadratic(eye(2) * L, as_fractions([0, 0]))
    return {"f": f, "L": L, "mu": F(1), "x0": as_fractions([1, 1]), "star": f.centre, "A": axes(2, 1)}


def right_step(violator: Sampler) -> Hypothesis:
    """Return that all steps, at least one, are 1/L."""
    return Hypothesis(
        "step", "the step is $1/L$, $N\\ge1$", lambda x: x["step"] == 1 / x["L"] and x["N"] >= 1, violator
    )


def orthogonal_projection(violator: Sampler) -> Hypothesis:
    """Return that the gradient is projected orthogonally."""
    return Hypothesis(
        "orthogonal projection",
        "the gradient is projected by $P$, orthogonally",
        lambda x: bool(np.all(x["G"] == projector(x["A"]))),
        violator,
    )


def iterates(x: Instance) -> list[np.ndarray]:
    """Return x_0, ..., x_N with x+ = x - step · G ∇f(x)."""
    points = [x["x0"]]
    for _ in range(x["N"]):
        points.append(points[-1] - x["step"] * (x["G"] @ x["f"].gradient(points[-1])))
    return points
