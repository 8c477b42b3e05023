"""Gradient descent inside a subspace: one step, fresh subspaces, tight rates (T05, T06, T09, T10).

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
from deltatheory.theorems.functions import Quadratic, Separable, huber, parabola
from deltatheory.theorems.instances import Instance, with_entries
from deltatheory.theorems.subspace_instances import (
    axes,
    bowl,
    minimiser,
    plateau,
    quadratic,
    smooth,
    smooth_sample,
    strongly_convex_sample,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction
OBLIQUE = as_fractions([[1, 3], [0, 0]])  # projects on the first axis, not orthogonally


# ---- Instances and hypotheses of the method ----


def stepping(sampler, N: int | None = None):
    """Add the method to instances: P, step 1/L, and N steps (1 to 4 by the seed)."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        return x | {"G": projector(x["A"]), "step": 1 / x["L"], "N": N or seed % 4 + 1}

    return sample


def _small_bowl(seed: int) -> Instance:
    """½ L ‖x‖² on R², S the first axis."""
    L = F(seed % 5 + 2)
    f = Quadratic(eye(2) * L, as_fractions([0, 0]))
    return {"f": f, "L": L, "mu": F(1), "x0": as_fractions([1, 1]), "star": f.centre, "A": axes(2, 1)}


def _half(sampler):
    """Claim half the smoothness that there is, and step accordingly."""
    return with_entries(sampler, L=lambda x: x["L"] / 2, step=lambda x: 2 / x["L"])


def _right_step(violator) -> Hypothesis:
    return Hypothesis("step", "the step is $1/L$", lambda x: x["step"] == 1 / x["L"], violator)


def _orthogonal_projection(violator) -> Hypothesis:
    return Hypothesis(
        "orthogonal projection",
        "the gradient is projected by $P$, orthogonally",
        lambda x: bool(np.all(x["G"] == projector(x["A"]))),
        violator,
    )


def _iterates(x: Instance) -> list[np.ndarray]:
    points = [x["x0"]]
    for _ in range(x["N"]):
        points.append(points[-1] - x["step"] * (x["G"] @ x["f"].gradient(points[-1])))
    return points


# ---- T05: descent ----


def _t05a(x: Instance):
    before, after = _iterates(x | {"N": 1})
    captured = squared_norm(projector(x["A"]) @ x["f"].gradient(before))
    return x["f"].value(after), x["f"].value(before) - captured / (2 * x["L"])


T05a = register(
    Theorem(
        id="T05a",
        name="descent in a subspace",
        latex=r"f(x-\tfrac1LP\nabla f)\le f(x)-\|P\nabla f(x)\|^2/(2L)",
        words="a gradient step in the subspace gains at least the captured gradient squared over 2L",
        kind="tight",
        sides=_t05a,
        sampler=stepping(smooth_sample),
        hypotheses=(
            smooth(_half(stepping(bowl))),
            _right_step(with_entries(stepping(bowl), step=lambda x: 3 / x["L"])),
            _orthogonal_projection(with_entries(stepping(_small_bowl), G=OBLIQUE)),
        ),
        mutant=Mutant.scaled(_t05a, JUST_BELOW_ONE, stepping(_small_bowl)),
        extremal=stepping(bowl),
        proof="Descent lemma; P is symmetric and idempotent, so ∇fᵀP∇f = ‖P∇f‖².",
        source="classical",
        status=ProofStatus.certified("for all dimensions"),
    )
)


def _t05b(x: Instance):
    captured = [squared_norm(projector(x["A"]) @ x["f"].gradient(p)) for p in _iterates(x)[:-1]]
    return min(captured), 2 * x["L"] * (x["f"].value(x["x0"]) - x["lowest"]) / x["N"]


def _with_floor(sampler, N: int | None = None):
    return with_entries(stepping(sampler, N), lowest=lambda x: x["f"].minimum_on(x["x0"], x["A"]))


T05b = register(
    Theorem(
        id="T05b",
        name="captured gradients vanish",
        latex=r"\min_{k<N}\|P\nabla f(x_k)\|^2\le2L(f(x_0)-f_S^*)/N",
        words="after N steps in the subspace some captured gradient is small, convex or not",
        kind="tight",
        sides=_t05b,
        sampler=_with_floor(smooth_sample),
        hypotheses=(
            smooth(_half(_with_floor(bowl, 2))),
            _right_step(with_entries(_with_floor(bowl, 2), step=lambda x: 3 / x["L"])),
            _orthogonal_projection(with_entries(_with_floor(_small_bowl, 2), G=OBLIQUE)),
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


def _fresh(sampler):
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
        sides=_t06,
        sampler=_fresh(_pl),
        hypotheses=(
            smooth(with_entries(_even_bowl, L=lambda x: x["L"] / 2, mu=lambda x: x["L"] / 4)),
            Hypothesis("PL", r"$\frac12\|\nabla f\|^2\ge\mu(f-f^*)$", lambda x: x["f"].is_pl(x["mu"]), _far),
            Hypothesis(
                "unbiased",
                r"$E[P]=\frac dDI$",
                lambda x: bool(
                    np.all(
                        sum(x["projectors"]) / len(x["projectors"])
                        == eye(len(x["x0"])) * F(x["d"], len(x["x0"]))
                    )
                ),
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
        status=ProofStatus.searched(),
    )
)


# ---- T09, T10: tight rates ----


def _convex(violator) -> Hypothesis:
    return Hypothesis("convex", "$f$ is convex", lambda x: x["f"].is_convex, violator)


def _t09(x: Instance):
    point = x["x0"]
    for _ in range(x["N"]):
        point = point - x["h"] / x["L"] * x["f"].gradient(point)
    rate = x["L"] / (4 * x["N"] * x["h"] + 2)
    return x["f"].value(point) - x["f"].value(x["star"]), rate * squared_norm(x["x0"] - x["star"])


def _convex_sample(seed: int) -> Instance:
    """Return sums of Huber functions and parabolas in turn with quadratics."""
    x = smooth_sample(seed)
    if seed % 3:
        return x
    rng = np.random.default_rng(seed)
    wells = [huber(x["L"], F(1, 3)), huber(x["L"], F(2)), parabola(x["L"]), parabola(x["mu"])]
    return x | {"f": Separable(tuple(wells[int(i)] for i in rng.integers(0, 4, len(x["x0"]))))}


def _descent(sampler):
    return with_entries(
        sampler, N=lambda x: 1 + int(x["x0"][0]) % 4, h=lambda x: F(1, 1 + int(x["x0"][-1]) % 2)
    )


def _worst_huber(seed: int) -> Instance:
    """Return the Huber function that gradient descent leaves only after N steps."""
    N, h = seed % 4 + 1, F(1, seed % 3 + 1)
    c = 1 / (2 * N * h + 1)
    L = F(seed % 5 + 1)
    f = Separable((huber(L, c),))
    return {"f": f, "L": L, "x0": as_fractions([1]), "star": as_fractions([0]), "h": h, "N": N}


def _one_parabola(seed: int) -> Instance:
    return _worst_huber(seed) | {"f": Separable((parabola(F(1)),)), "L": F(1), "N": 1, "h": F(1)}


def _ramp(seed: int) -> Instance:
    """Return a point on the ramp of a Huber function, downhill of all iterates, called x*."""
    N = seed % 4 + 1
    f = Separable((huber(F(1), F(1)),))
    return {"f": f, "L": F(1), "x0": as_fractions([2 * N + 2]), "star": as_fractions([2]), "h": F(1), "N": N}


T09 = register(
    Theorem(
        id="T09",
        name="tight rate of gradient descent in a subspace",
        latex=r"F(x_N)-F^*\le\frac{L\,R^2}{4Nh+2},\quad 0<h\le1",
        words="N steps h/L on a convex L-smooth loss, here the restriction F of f to S; R is the distance to "
        "a minimiser of F in S; no smaller constant holds",
        kind="tight",
        sides=_t09,
        sampler=_descent(_convex_sample),
        hypotheses=(
            _convex(
                lambda seed: {
                    "f": Separable((plateau(F(seed + 1)),)),
                    "L": F(seed + 1),
                    **{"x0": as_fractions([F(19, 10)]), "star": as_fractions([0]), "h": F(1), "N": 3},
                }
            ),
            smooth(with_entries(_one_parabola, L=F(1, 3))),
            Hypothesis(
                "short step",
                "$0<h\\le1$",
                lambda x: 0 < x["h"] <= 1,
                with_entries(_one_parabola, h=F(19, 10)),
            ),
            minimiser(_ramp),
        ),
        mutant=Mutant.scaled(_t09, JUST_BELOW_ONE, _worst_huber),
        extremal=_worst_huber,
        proof="Performance estimation: a certificate in closed form for every N.",
        source="Drori and Teboulle 2014, theorem 1",
        status=ProofStatus.certified(
            "h = 1: N <= 10, and every N by an identity; h = 1/2: N <= 5; other h recalled"
        ),
    )
)


def _t10(x: Instance):
    away = x["x0"] - x["star"]
    inside = projector(x["A"]) @ away
    left = x["f"].value(_iterates(x)[-1]) - x["f"].value(x["star"])
    return left, x["L"] / (4 * x["N"] + 2) * squared_norm(inside) + x["L"] / 2 * squared_norm(away - inside)


def _lifted(sampler):
    """Put an instance on a line into R², with a parabola across it."""

    def sample(seed: int) -> Instance:
        x = sampler(seed)
        f = Separable((*x["f"].parts, parabola(x["L"])))
        zero, across = as_fractions([0]), as_fractions([2])
        points = {
            "x0": np.concatenate([x["x0"], across]),
            "star": np.concatenate([x["star"], zero]),
        }
        return x | points | {"f": f, "A": axes(2, 1), "G": diagonal([1, 0]), "step": 1 / x["L"]}

    return sample


def _worst_lifted(seed: int) -> Instance:
    N = seed % 4 + 1
    f = Separable((huber(F(1), F(1, 2 * N + 1)),))
    return _lifted(lambda _: {"f": f, "L": F(1), "x0": as_fractions([1]), "star": as_fractions([0]), "N": N})(
        seed
    )


def _plateau_start(seed: int) -> Instance:
    point = {"x0": as_fractions([F(19, 10)]), "star": as_fractions([0])}
    x = {"f": Separable((plateau(F(seed + 1)),)), "L": F(seed + 1), "N": 3} | point
    return with_entries(_lifted(lambda _: x), x0=as_fractions([F(19, 10), 0]))(seed)


T10 = register(
    Theorem(
        id="T10",
        name="tight rate lifted to the whole space",
        latex=r"f(x_N)-f^*\le\tfrac L{4N+2}\|P(x_0-x^*)\|^2+\tfrac L2\|Q(x_0-x^*)\|^2",
        words="N gradient steps inside S against the minimum over all of R^D: the rate in the subspace plus "
        "the price of the subspace; both constants are the best",
        kind="tight",
        sides=_t10,
        sampler=stepping(_convex_sample),
        hypotheses=(
            _convex(_plateau_start),
            smooth(with_entries(_worst_lifted, L=F(1, 3), step=F(3), f=Separable((parabola(F(1)),) * 2))),
            minimiser(with_entries(_lifted(_ramp), x0=lambda x: x["x0"] * as_fractions([1, 0]))),
            _right_step(with_entries(stepping(_small_bowl, 1), step=lambda x: F(19, 10) / x["L"])),
            _orthogonal_projection(with_entries(stepping(_small_bowl), G=OBLIQUE)),
        ),
        mutant=Mutant.scaled(_t10, JUST_BELOW_ONE, _worst_lifted),
        extremal=_worst_lifted,
        proof="The certificate of T09 plus, across S, a sum of squares for every N.",
        source="own; extends Drori and Teboulle 2014",
        status=ProofStatus.certified("N <= 10; the part across S by an identity at N = 3"),
    )
)
