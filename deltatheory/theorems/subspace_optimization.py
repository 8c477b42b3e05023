"""What a subspace costs: inheritance, the gap above and below, a-posteriori bounds (T01-T04, T08).

Notation: f: R^D -> R, S = x0 + range A, P the orthogonal projector on range A, Q = I - P, f_S* = min_S f,
x* a minimiser of f, f* = f(x*).
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
    projector,
    random_fractions,
    random_full_rank,
    random_orthogonal,
    random_positive,
    rank,
    solve,
    squared_norm,
)
from deltatheory.theorems.functions import Curve, Quadratic, Separable, huber, parabola
from deltatheory.theorems.instances import Instance, with_entries
from deltatheory.theorems.subspace_instances import (
    axes,
    bowl,
    flat_bowl,
    kink,
    minimiser,
    off_centre,
    quadratic,
    smooth,
    smooth_sample,
    strongly_convex,
    strongly_convex_sample,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T01: what a subspace inherits ----


def _points(seed: int, sampler=smooth_sample) -> Instance:
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


# ---- T02, T03: the gap ----


def _off(x: Instance) -> np.ndarray:
    """Q (x0 - x*)."""
    away = x["x0"] - x["star"]
    return away - projector(x["A"]) @ away


def _gap(x: Instance):
    return x["f"].minimum_on(x["x0"], x["A"]) - x["f"].value(x["star"])


def _t02(x: Instance):
    return _gap(x), x["L"] / 2 * squared_norm(_off(x))


T02 = register(
    Theorem(
        id="T02",
        name="the gap of a subspace, from above",
        latex=r"f_S^*-f^*\le\tfrac L2\|Q(x_0-x^*)\|^2",
        words="the best loss in a subspace exceeds the best of all by at most L/2 times the squared distance "
        "that the subspace misses the minimiser by; no convexity",
        kind="tight",
        sides=_t02,
        sampler=smooth_sample,
        hypotheses=(smooth(kink), minimiser(off_centre)),
        mutant=Mutant.scaled(_t02, JUST_BELOW_ONE, bowl),
        extremal=bowl,
        proof="Descent lemma from x*, where ∇f = 0, to its projection on S.",
        source="own form; classical",
        status=ProofStatus.certified("for all dimensions"),
    )
)


def _t03(x: Instance):
    return _gap(x), x["mu"] / 2 * squared_norm(_off(x))


T03 = register(
    Theorem(
        id="T03",
        name="the gap of a subspace, from below",
        latex=r"f_S^*-f^*\ge\tfrac\mu2\|Q(x_0-x^*)\|^2",
        words="under strong convexity missing the minimiser costs at least mu/2 times the squared distance",
        kind="lower",
        sides=_t03,
        sampler=strongly_convex_sample,
        hypotheses=(
            strongly_convex(
                with_entries(
                    bowl, f=lambda x: Quadratic(diagonal([x["L"], *[0] * (len(x["x0"]) - 1)]), x["star"])
                )
            ),  # flat in the directions that S misses
            minimiser(with_entries(bowl, mu=lambda x: x["L"], star=lambda x: -x["x0"])),
        ),
        mutant=Mutant.scaled(_t03, 1 / JUST_BELOW_ONE, flat_bowl),
        extremal=flat_bowl,
        proof="Strong convexity at x*, and every point of S is at least ‖Q(x0-x*)‖ away.",
        source="own form; classical",
        status=ProofStatus.certified("for all dimensions"),
    )
)


# ---- T04: what a trained delta says of the gap ----


def _stationary(sampler):
    """Move the start of quadratics to the minimum over S, and of sums of wells along the axes to 0."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        f, A = x["f"], x["A"]
        if isinstance(f, Quadratic):
            at = x["x0"] + A @ solve(A.T @ f.H @ A, -A.T @ f.gradient(x["x0"]))
        else:
            at = x["x0"] * as_fractions([int(not row.any()) for row in A])
        return x | {"x": at}

    return sample


def _across(x: Instance):
    g = x["f"].gradient(x["x"])
    return g - projector(x["A"]) @ g


def _t04a(x: Instance):
    return x["f"].value(x["x"]) - x["f"].minimum, squared_norm(_across(x)) / (2 * x["mu"])


def _far_on_huber(seed: int) -> Instance:
    c = F(1, 4)
    f = Separable((parabola(F(1)), huber(F(1), c)))
    far = as_fractions([0, seed % 9 + 3])
    return {"f": f, "mu": F(1), "L": F(1), "x": far, "x0": far, "A": axes(2, 1), "star": as_fractions([0, 0])}


T04a = register(
    Theorem(
        id="T04a",
        name="the gap after training, from above",
        latex=r"P\nabla f(x)=0\ \Rightarrow\ f(x)-f^*\le\|Q\nabla f(x)\|^2/(2\mu)",
        words="once training in the subspace has converged, the rest of the gradient bounds what was lost",
        kind="tight",
        sides=_t04a,
        sampler=_stationary(strongly_convex_sample),
        hypotheses=(
            Hypothesis(
                "PL",
                r"$\frac12\|\nabla f\|^2\ge\mu(f-f^*)$ on $R^D$",
                lambda x: x["f"].is_pl(x["mu"]),
                _far_on_huber,
            ),
            Hypothesis(
                "stationary in S",
                r"$P\nabla f(x)=0$",
                lambda x: bool(np.all(x["A"].T @ x["f"].gradient(x["x"]) == 0)),
                with_entries(flat_bowl, x=lambda x: x["x0"]),
            ),
        ),
        mutant=Mutant.scaled(_t04a, JUST_BELOW_ONE, _stationary(flat_bowl)),
        extremal=_stationary(flat_bowl),
        proof="The PL inequality at x, where ∇f = Q∇f.",
        source="own form; after Polyak 1963",
        status=ProofStatus.certified("for all dimensions"),
    )
)


def _t04b(x: Instance):
    return x["f"].value(x["x"]) - x["lowest"], squared_norm(_across(x)) / (2 * x["L"])


def _with_minimum(sampler):
    return with_entries(_stationary(sampler), lowest=lambda x: x["f"].minimum)


T04b = register(
    Theorem(
        id="T04b",
        name="the gap after training, from below",
        latex=r"f(x)-\inf f\ge\|Q\nabla f(x)\|^2/(2L)",
        words="the gradient across the subspace shows how much at least was lost, converged or not",
        kind="lower",
        sides=_t04b,
        sampler=_with_minimum(smooth_sample),
        hypotheses=(
            smooth(with_entries(_with_minimum(bowl), L=lambda x: x["L"] / 2)),
            Hypothesis(
                "infimum",
                r"$f^*=\inf f>-\infty$",
                lambda x: x["lowest"] <= x["f"].minimum,
                with_entries(_with_minimum(bowl), lowest=lambda x: x["f"].value(x["x"]) / 2),
            ),  # the best value met so far taken for the infimum
        ),
        mutant=Mutant.scaled(_t04b, 1 / JUST_BELOW_ONE, _with_minimum(bowl)),
        extremal=_with_minimum(bowl),
        proof="One descent step from x reaches f(x) - ‖∇f‖²/(2L) >= inf f.",
        source="own form; classical",
        status=ProofStatus.certified("for all dimensions"),
    )
)


# ---- T08: the exact toy of intrinsic dimension ----


def _low_rank_quadratic(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    D = int(rng.integers(3, 6))
    k = int(rng.integers(1, D))
    d = int(rng.integers(k, D))
    B = random_full_rank(rng, D, k)
    x = {"f": Quadratic(B @ B.T, random_fractions(rng, D)), "x0": random_fractions(rng, D), "k": k}
    while True:
        A = random_full_rank(rng, D, d)
        if rank(B.T @ A) == k:
            return x | {"A": A}


def _t08(x: Instance):
    return x["f"].minimum_on(x["x0"], x["A"]), x["f"].minimum


def _too_small(seed: int) -> Instance:
    f = Quadratic(diagonal([1, 2, 0, 0]), as_fractions([0] * 4))
    return {"f": f, "x0": as_fractions([1, 1, seed, 1]), "A": axes(4, 1), "k": 2}


T08 = register(
    Theorem(
        id="T08",
        name="threshold on quadratics",
        latex=r"\mathrm{rank}(HA)=\mathrm{rank}\,H\ \Rightarrow\ f_S^*=f^*",
        words="a subspace in general position reaches the minimum of a convex quadratic as soon as its "
        "dimension is the rank of the Hessian; a Haar one does if, and from x0 not optimal only if, d >= k",
        kind="identity",
        sides=_t08,
        sampler=_low_rank_quadratic,
        hypotheses=(
            Hypothesis(
                "enough dimensions", "$d\\ge k=rank H$", lambda x: x["A"].shape[1] >= x["k"], _too_small
            ),
            Hypothesis(
                "general position",
                r"$\mathrm{rank}(HA)=\min(d,k)$",
                lambda x: rank(x["f"].H @ x["A"]) == min(x["A"].shape[1], x["k"]),
                with_entries(_too_small, A=eye(4)[:, 2:]),  # P H = 0
            ),
        ),
        mutant=Mutant(
            "one dimension fewer suffices",
            lambda x: _t08(x | {"A": x["A"][:, : x["k"] - 1]}),
            with_entries(_too_small, A=axes(4, 2)),
        ),
        proof="H A has the range of H, so H(x0 - c + A z) = 0 has a solution z.",
        source="own form",
        status=ProofStatus.searched(),
    )
)
