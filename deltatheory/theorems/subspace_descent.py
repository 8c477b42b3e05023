"""Gradient descent inside a subspace: one step, and fresh subspaces (T05, T06).

The iterates are x+ = x - step · G ∇f(x), where G should be P, the orthogonal projector on range A.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    diagonal,
    eye,
    projector,
    random_fractions,
    random_orthogonal,
    squared_norm,
)
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.loss_functions import Quadratic, Separable
from deltatheory.theorems.splines import huber
from deltatheory.theorems.subspace_instances import (
    ENTRIES,
    OBLIQUE,
    axes,
    bowl,
    iterates,
    orthogonal_projection,
    quadratic,
    right_step,
    small_bowl,
    smooth,
    smooth_sample,
    stepping,
    strongly_convex_sample,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T05: descent ----


def _half(sampler: Sampler) -> Sampler:
    """Claim half the smoothness that there is, and step accordingly."""
    return with_entries(sampler, L=lambda x: x["L"] / 2, step=lambda x: 2 / x["L"])


def _t05a(x: Instance):
    before, after = iterates(x | {"N": 1})
    captured = squared_norm(projector(x["A"]) @ x["f"].gradient(before))
    return x["f"].value(after), x["f"].value(before) - captured / (2 * x["L"])


T05a = register(
    Theorem(
        id="T05a",
        name="descent in a subspace",
        latex=r"f(x-\tfrac1LP\nabla f)\le f(x)-\|P\nabla f(x)\|^2/(2L)",
        words="a gradient step in the subspace gains at least the captured gradient squared over 2L",
        kind="tight",
        entries=meanings(ENTRIES, "f L x0 A G step N"),
        sides=_t05a,
        sampler=stepping(smooth_sample),
        hypotheses=(
            smooth(_half(stepping(bowl))),
            right_step(with_entries(stepping(bowl), step=lambda x: 3 / x["L"])),
            orthogonal_projection(with_entries(stepping(small_bowl), G=OBLIQUE)),
        ),
        mutant=Mutant.scaled(_t05a, JUST_BELOW_ONE, stepping(small_bowl)),
        extremal=stepping(bowl),
        proof="Descent lemma; P is symmetric and idempotent, so ∇fᵀP∇f = ‖P∇f‖².",
        source="classical",
        certificates=("subspace_descent",),
        status=ProofStatus.certified("for all dimensions"),
    )
)


def _t05b(x: Instance):
    captured = [squared_norm(projector(x["A"]) @ x["f"].gradient(p)) for p in iterates(x)[:-1]]
    return min(captured), 2 * x["L"] * (x["f"].value(x["x0"]) - x["lowest"]) / x["N"]


def _with_floor(sampler: Sampler, N: int | None = None) -> Sampler:
    return with_entries(stepping(sampler, N), lowest=lambda x: x["f"].minimum_on(x["x0"], x["A"]))


T05b = register(
    Theorem(
        id="T05b",
        name="captured gradients vanish",
        latex=r"\min_{k<N}\|P\nabla f(x_k)\|^2\le2L(f(x_0)-f_S^*)/N",
        words="after N steps in the subspace some captured gradient is small, convex or not",
        kind="tight",
        entries=meanings(ENTRIES, "f L x0 A G step N lowest"),
        sides=_t05b,
        sampler=_with_floor(smooth_sample),
        hypotheses=(
            smooth(_half(_with_floor(bowl, 2))),
            right_step(with_entries(_with_floor(bowl, 2), step=lambda x: 3 / x["L"])),
            orthogonal_projection(with_entries(_with_floor(small_bowl, 2), G=OBLIQUE)),
            Hypothesis(
                "infimum over S",
                r"$f_S^*=\inf_S f>-\infty$",
                lambda x: x["lowest"] <= x["f"].minimum_on(x["x0"], x["A"]),
                with_entries(_with_floor(bowl, 1), lowest=lambda x: x["f"].value(x["x0"])),
            ),
        ),
        mutant=Mutant.scaled(_t05b, JUST_BELOW_ONE, _with_floor(bowl, 1)),
        extremal=_with_floor(bowl, 1),
        proof="Sum T05a over the N steps.",
        source="classical",
        status=ProofStatus.searched(),
    )
)


# ---- T06: a fresh subspace every step ----


def _fresh(sampler: Sampler) -> Sampler:
    """Add coordinate projectors in a rotated frame, equally likely, drawn anew for each of k steps."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        rng = np.random.default_rng(seed)
        D, k = len(x["x0"]), seed % 2 + 1
        d = int(rng.integers(1, D))
        U = random_orthogonal(rng, D)
        chosen = [[int(i in c) for i in range(D)] for c in combinations(range(D), d)]
        projectors = [U @ diagonal(c) @ U.T for c in chosen]
        return x | {"projectors": projectors, "draws": _all_draws(projectors, k), "d": d, "k": k}

    return sample


def _all_draws(projectors: list, k: int) -> list:
    return list(product(range(len(projectors)), repeat=k))


def _is_unbiased(x: Instance) -> bool:
    mean = sum(x["projectors"]) / len(x["projectors"])
    orthogonal = all(np.all(P == P.T) and np.all(P @ P == P) for P in x["projectors"])
    return orthogonal and bool(np.all(mean == eye(len(x["x0"])) * F(x["d"], len(x["x0"]))))


def _t06(x: Instance):
    f, total = x["f"], 0
    for draw in x["draws"]:
        point = x["x0"]
        for i in draw:
            point = point - x["projectors"][i] @ f.gradient(point) / x["L"]
        total = total + f.value(point) - f.minimum
    rate = 1 - x["d"] * x["mu"] / (len(x["x0"]) * x["L"])
    return total / len(x["draws"]), rate ** x["k"] * (f.value(x["x0"]) - f.minimum)


def _pl(seed: int) -> Instance:
    """Strongly convex in turn with quadratics that have a flat direction: PL only."""
    if seed % 2:
        return strongly_convex_sample(seed)
    rng = np.random.default_rng(seed)
    f, L = quadratic(rng, 3, F(1), F(seed % 3 + 1)), F(seed % 3 + 1)
    Q = random_orthogonal(rng, 3)
    f = Quadratic(Q @ diagonal([0, 1, L]) @ Q.T, f.centre)
    return {"f": f, "mu": F(1), "L": L, "x0": random_fractions(rng, 3), "star": f.centre, "A": axes(3, 1)}


def _even_bowl(seed: int) -> Instance:
    """½ L ‖x‖² with mu = L on R³ from (1, 1, 1), coordinate projectors of rank 1, two steps."""
    L = F(seed + 1)
    f = Quadratic(eye(3) * L, as_fractions([0, 0, 0]))
    projectors = [diagonal(row) for row in np.eye(3, dtype=int)]
    law = {"projectors": projectors, "draws": _all_draws(projectors, 2), "d": 1, "k": 2}
    return {"f": f, "mu": L, "L": L, "x0": as_fractions([1, 1, 1])} | law


def _far(seed: int) -> Instance:
    f = Separable((huber(F(1), F(1, 4)),) * 3)
    return _even_bowl(0) | {"f": f, "x0": as_fractions([seed + 3] * 3)}


T06 = register(
    Theorem(
        id="T06",
        name="fresh random subspaces",
        latex=r"E f(x_k)-f^*\le(1-\tfrac{d\mu}{DL})^k(f(x_0)-f^*)",
        words="a new random subspace at every step converges to the minimum of all of R^D, d/D times slower "
        "(a fixed one stalls at the gap); any law of projectors with mean (d/D) I",
        kind="tight",
        entries=meanings(ENTRIES, "f L mu x0")
        | {
            "projectors": "projectors that are equally likely, each (D, D)",
            "draws": "indices of the projectors of all k steps, equally likely",
            "d": "their rank",
            "k": "number of steps",
        },
        sides=_t06,
        sampler=_fresh(_pl),
        hypotheses=(
            smooth(with_entries(_even_bowl, L=lambda x: x["L"] / 2, mu=lambda x: x["L"] / 4)),
            Hypothesis(
                "PL",
                r"$\frac12\|\nabla f\|^2\ge\mu(f-f^*)$, $\mu>0$",
                lambda x: x["mu"] > 0 and x["f"].is_pl(x["mu"]),
                _far,
            ),
            Hypothesis(
                "unbiased",
                r"$E[P]=\frac dDI$, every $P$ an orthogonal projector",
                _is_unbiased,
                with_entries(_even_bowl, projectors=lambda x: x["projectors"][:1], draws=[(0, 0)]),
            ),
            Hypothesis(
                "fresh",
                "the projectors of different steps are independent",
                lambda x: sorted(x["draws"]) == _all_draws(x["projectors"], x["k"]),
                with_entries(_even_bowl, draws=[(i, i) for i in range(3)]),
            ),
        ),
        mutant=Mutant.scaled(_t06, JUST_BELOW_ONE, _even_bowl),
        extremal=_even_bowl,
        proof="T05a, E‖P∇f‖² = (d/D)‖∇f‖², PL; then condition on the earlier steps.",
        source="own form; after Kozak et al. 2021 (recalled, scaled projectors)",
        certificates=("coordinate_projectors",),
        status=ProofStatus.searched(),
    )
)
