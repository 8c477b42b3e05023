"""Tight rates of gradient descent inside a subspace (T09, T10).

The iterates are x+ = x - step · G ∇f(x), where G should be P, the orthogonal projector on range A.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import as_fractions, diagonal, projector, squared_norm
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.loss_functions import Separable
from deltatheory.theorems.splines import huber, parabola
from deltatheory.theorems.subspace_instances import (
    ENTRIES,
    OBLIQUE,
    axes,
    iterates,
    minimiser,
    orthogonal_projection,
    plateau,
    right_step,
    small_bowl,
    smooth,
    smooth_sample,
    stepping,
)
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T09, T10: tight rates ----


def _convex(violator: Sampler) -> Hypothesis:
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


def _descent(sampler: Sampler) -> Sampler:
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
        entries=meanings(ENTRIES, "f L x0 star N h"),
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
                "$0<h\\le1$, $N\\ge0$",
                lambda x: 0 < x["h"] <= 1 and x["N"] >= 0,
                with_entries(_one_parabola, h=F(19, 10)),
            ),
            minimiser(_ramp),
        ),
        mutant=Mutant.scaled(_t09, JUST_BELOW_ONE, _worst_huber),
        extremal=_worst_huber,
        proof="Performance estimation: a certificate in closed form for every N.",
        source="Drori and Teboulle 2014, theorem 3.1",
        certificates=("gradient_descent_in_subspace", "gradient_descent_every_n"),
        status=ProofStatus.certified(
            "h = 1: N <= 10, and every N by an identity; h = 1/2: N <= 5; other h recalled"
        ),
    )
)


def _t10(x: Instance):
    away = x["x0"] - x["star"]
    inside = projector(x["A"]) @ away
    left = x["f"].value(iterates(x)[-1]) - x["f"].value(x["star"])
    return left, x["L"] / (4 * x["N"] + 2) * squared_norm(inside) + x["L"] / 2 * squared_norm(away - inside)


def _lifted(sampler: Sampler) -> Sampler:
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
        entries=meanings(ENTRIES, "f L x0 star A G step N"),
        sides=_t10,
        sampler=stepping(_convex_sample),
        hypotheses=(
            _convex(_plateau_start),
            smooth(with_entries(_worst_lifted, L=F(1, 3), step=F(3), f=Separable((parabola(F(1)),) * 2))),
            minimiser(with_entries(_lifted(_ramp), x0=lambda x: x["x0"] * as_fractions([1, 0]))),
            right_step(with_entries(stepping(small_bowl, 1), step=lambda x: F(19, 10) / x["L"])),
            orthogonal_projection(with_entries(stepping(small_bowl), G=OBLIQUE)),
        ),
        mutant=Mutant.scaled(_t10, JUST_BELOW_ONE, _worst_lifted),
        extremal=_worst_lifted,
        proof="The certificate of T09 plus, across S, a sum of squares for every N.",
        source="own; extends Drori and Teboulle 2014",
        certificates=("gradient_descent", "lifting"),
        status=ProofStatus.certified("N <= 10; the part across S by an identity at N = 3"),
    )
)
