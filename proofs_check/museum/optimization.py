"""False claims about restriction to subspaces, and about random subspaces."""

from __future__ import annotations

import random
from fractions import Fraction

from proofs_check.intervals import Interval, enclose, pi, sqrt
from proofs_check.museum.false_claim import FalseClaim, Refutation


def pl_inherited() -> Refutation | None:
    """Draw f(x, y) = (y - q(x))^2/2 with cubics q: |grad f|^2 >= 2f and min f = 0, claimed on y = c too.

    On the line the minimum is 0 as well, because a cubic takes every value; the claim needs F'^2 >= 2F there.
    """
    rng = random.Random(0)
    for _ in range(10000):
        a, b, c = rng.choice((-2, -1, 1, 2)), rng.randint(-6, 6), rng.randint(-4, 4)
        for x in (Fraction(k, 2) for k in range(-8, 9)):
            slope, value = 3 * a * x**2 + b, a * x**3 + b * x
            f, derivative = (c - value) ** 2 / 2, -(c - value) * slope
            if derivative**2 < 2 * f and derivative == 0:
                return Refutation(
                    "exact",
                    {"a": a, "b": b, "c": c, "x": x},
                    f"f(x,y) = (y - q(x))^2/2 with q = {a}x^3 + {b}x is 1-PL on the plane with minimum 0; on "
                    f"the line y = {c} the minimum is 0 too, but x = {x} is stationary with f = {f}",
                )
    return None


def gordon_converse() -> Refutation | None:
    """Go through the sets {+-e_1, ..., +-e_k}: a random subspace misses a finite set, whatever its width.

    w = E max |g_i| over k coordinates is sqrt(2/pi) for k = 1 and 2/sqrt(pi) for k = 2, and grows with k.
    """
    widths: dict[int, Interval] = {1: sqrt(enclose(2) / pi()), 2: enclose(2) / sqrt(pi())}
    for D in range(2, 10):
        for k, width in widths.items():
            for d in range(1, D):
                if (width * width).low > D - d:
                    return Refutation(
                        "intervals",
                        {"D": D, "d": d, "k": k},
                        f"T = {{+-e_1, ..., +-e_{k}}} in R^{D}: w(T)^2 >= {float((width * width).low):.6f} > "
                        f"D - d = {D - d}, but a Haar subspace of dimension {d} < {D} contains none of the "
                        f"{2 * k} points, almost surely",
                    )
    return None


CLAIMS = {
    "pl-inherited": FalseClaim(
        "If f is mu-PL (|grad f|^2 >= 2 mu (f - min f)), so is its restriction to every affine subspace.",
        "an assumption in the analysis of training in subspaces",
        "T01: smoothness and strong convexity are inherited",
        pl_inherited,
    ),
    "gordon-converse": FalseClaim(
        "If d > D - w(T)^2, a random subspace of dimension d meets the closed set T on the sphere with "
        "probability > 0.",
        "Gordon's theorem read backwards, as for thresholds of intrinsic dimension",
        "T14: w(T) < sqrt(D - d) makes misses likely; nothing follows the other way",
        gordon_converse,
    ),
}
