"""What the restriction of a loss to a subspace inherits: smoothness, convexity, conditioning (T01).

Notation: f: R^D -> R, F(z) = f(x0 + A z) its restriction to x0 + range A.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    diagonal,
    eye,
    is_psd,
    random_fractions,
    random_orthogonal,
    random_positive,
    squared_norm,
)
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.loss_functions import Curve, Quadratic
from deltatheory.theorems.subspace_instances import (
    ENTRIES,
    axes,
    bowl,
    quadratic,
    smooth,
    smooth_sample,
    strongly_convex,
    strongly_convex_sample,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T01: what a subspace inherits ----


def _points(seed: int, sampler: Sampler = smooth_sample) -> Instance:
    x = sampler(seed)
    rng = np.random.default_rng(seed + 1)
    d = x["A"].shape[1]
    a2 = (x["A"] * x["A"]).sum()  # ‖A‖² <= ‖A‖_F²
    z1, z2 = random_fractions(rng, d), random_fractions(rng, d)
    return x | {"z1": z1, "z2": z2 + (z1 == z2).all() * 1, "a2": a2}


def _bowl_points(seed: int, curvature: str = "L") -> Instance:
    x = bowl(seed, curvature)
    return x | {"A": 3 * x["A"], "z1": as_fractions([1]), "z2": as_fractions([0]), "a2": F(9), "s2": F(9)}


def _restricted_gradients(x: Instance) -> np.ndarray:
    f, x0, A = x["f"], x["x0"], x["A"]
    return A.T @ f.gradient(x0 + A @ x["z1"]) - A.T @ f.gradient(x0 + A @ x["z2"])


def _t01a(x: Instance):
    change = _restricted_gradients(x)
    return squared_norm(change), (x["L"] * x["a2"]) ** 2 * squared_norm(x["z1"] - x["z2"])


T01a = register(
    Theorem(
        id="T01a",
        name="smoothness is inherited",
        latex=r"\|\nabla F(z)-\nabla F(z')\|\le L\|A\|^2\|z-z'\|,\quad F(z)=f(x_0+Az)",
        words="in a subspace the loss is at most ‖A‖² times less smooth; compared squared",
        kind="tight",
        entries=meanings(ENTRIES, "f L x0 A")
        | {
            "z1": "z, (d,)",
            "z2": "z', (d,)",
            "a2": "bound on ‖A‖²",
        },
        sides=_t01a,
        sampler=_points,
        hypotheses=(
            smooth(lambda seed: with_entries(_bowl_points, L=lambda x: x["L"] / 2)(seed)),
            Hypothesis(
                "norm of A",
                r"$\|A\|^2\le a^2$",
                lambda x: is_psd(x["a2"] * eye(x["A"].shape[1]) - x["A"].T @ x["A"]),
                with_entries(_bowl_points, a2=F(1)),  # as if the columns were orthonormal
            ),
        ),
        mutant=Mutant.scaled(_t01a, JUST_BELOW_ONE, _bowl_points),
        extremal=_bowl_points,
        proof="Chain rule: ∇F = Aᵀ∇f(x0 + A·), and each A costs a factor ‖A‖.",
        source="classical",
        status=ProofStatus.searched(),
    )
)


def _monotone_points(seed: int) -> Instance:
    x = _points(seed, strongly_convex_sample)
    return x | {"s2": _smallest_square(x["A"])}


def _smallest_square(A: np.ndarray) -> Fraction:
    """Return a rational lower bound on smin(A)², found by halving."""
    gram, s2 = A.T @ A, F(A.shape[0] * 100)
    while not is_psd(gram - s2 * eye(len(gram))):
        s2 /= 2
    return s2


def _t01b(x: Instance):
    step = x["z1"] - x["z2"]
    return _restricted_gradients(x) @ step, x["mu"] * x["s2"] * squared_norm(step)


def _valley(seed: int) -> Instance:
    """Return the line y = 2 through `Curve`, between two of its stationary points: PL without convexity."""
    line = {"x0": as_fractions([0, 2]), "A": axes(2, 1), "star": as_fractions([0, 0])}
    return {
        "f": Curve(),
        "mu": F(1),
        "L": F(9),
        "z1": as_fractions([1]),
        "z2": as_fractions([-1]),
        **line,
    } | {
        "a2": F(1),
        "s2": F(1),
    }


T01b = register(
    Theorem(
        id="T01b",
        name="strong convexity is inherited",
        latex=r"(\nabla F(z)-\nabla F(z'))^\top(z-z')\ge\mu\,s_{\min}(A)^2\|z-z'\|^2",
        words="in a subspace of full column rank the loss keeps strong convexity; the PL inequality is lost",
        kind="lower",
        entries=meanings(ENTRIES, "f mu x0 A")
        | {
            "z1": "z, (d,)",
            "z2": "z', (d,)",
            "s2": "lower bound on s_min(A)²",
        },
        sides=_t01b,
        sampler=_monotone_points,
        hypotheses=(
            strongly_convex(_valley),
            Hypothesis(
                "smallest singular value",
                r"$s_{\min}(A)^2\ge s^2>0$: $A$ has full column rank",
                lambda x: is_psd(x["A"].T @ x["A"] - x["s2"] * eye(x["A"].shape[1])),
                lambda seed: (
                    _bowl_points(seed)
                    | {"A": axes(len(bowl(seed)["x0"]), 1) @ as_fractions([[1, 1]]), "s2": F(1)}
                    | {"z1": as_fractions([1, 0]), "z2": as_fractions([0, 1])}
                ),
            ),
        ),
        mutant=Mutant.scaled(_t01b, 1 / JUST_BELOW_ONE, lambda seed: _bowl_points(seed, "mu")),
        extremal=lambda seed: _bowl_points(seed, "mu"),
        proof="Strong convexity at the two points, and ‖A(z-z')‖ >= smin(A)‖z-z'‖.",
        source="classical",
        status=ProofStatus.searched(),
    )
)


def _t01c(x: Instance):
    H, A = x["f"].H, x["A"]
    up, down = A @ x["z1"], A @ x["z2"]
    high, low = up @ H @ up / squared_norm(x["z1"]), down @ H @ down / squared_norm(x["z2"])
    return high / low, x["L"] / x["mu"]


def _orthonormal(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    D = int(rng.integers(3, 5))
    mu, L = F(1, 2), F(int(rng.integers(1, 9)))
    x = {"f": quadratic(rng, D, mu, L), "mu": mu, "L": L, "A": random_orthogonal(rng, D)[:, :2]}
    return x | {"z1": random_positive(rng, 2), "z2": random_fractions(rng, 2) + as_fractions([F(1, 7), 0])}


def _extreme_pair(seed: int) -> Instance:
    L = F(seed % 7 + 2)
    f = Quadratic(diagonal([L, 1, 1]), as_fractions([0, 0, 0]))
    z = {"z1": as_fractions([1, 0]), "z2": as_fractions([0, 1])}
    return {"f": f, "mu": F(1), "L": L, "A": axes(3, 2), **z}


T01c = register(
    Theorem(
        id="T01c",
        name="the condition number does not grow",
        latex=r"\kappa(A^\top HA)\le\kappa(H)\quad\text{for }A^\top A=I",
        words="an orthonormal basis of a subspace cannot worsen conditioning; read on two Rayleigh quotients",
        kind="tight",
        entries=meanings(ENTRIES, "f L mu A")
        | {
            "z1": "direction, (d,)",
            "z2": "direction, (d,)",
        },
        sides=_t01c,
        sampler=_orthonormal,
        hypotheses=(
            smooth(with_entries(_extreme_pair, L=lambda x: x["L"] - F(1, 2))),
            strongly_convex(with_entries(_extreme_pair, mu=F(3, 2), L=lambda x: x["L"])),
            Hypothesis(
                "orthonormal columns",
                "$A^\\top A=I$",
                lambda x: bool(np.all(x["A"].T @ x["A"] == eye(x["A"].shape[1]))),
                with_entries(_extreme_pair, A=lambda x: x["A"] * as_fractions([3, 1])),
            ),
        ),
        mutant=Mutant.scaled(_t01c, JUST_BELOW_ONE, _extreme_pair),
        extremal=_extreme_pair,
        proof="Cauchy interlacing: the eigenvalues of AᵀHA lie between those of H.",
        source="classical (Cauchy)",
        status=ProofStatus.searched(),
    )
)
