"""False claims about optimal control."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import permutations

from proofs_check.museum.false_claim import FalseClaim, Refutation
from proofs_check.rational import Matrix, combination, identity, matrix, solve


def _inverse_trace(terms: list[Matrix]) -> Fraction:
    """Return -tr((I + sum W_i)^-1)."""
    total = combination((1, identity(3)), *((1, w) for w in terms))
    inverse = solve(total, identity(3))
    return -sum((inverse[i][i] for i in range(3)), Fraction())


def greedy_inverse_trace() -> Refutation | None:
    """Draw three rank-one Gramians with small integers: adding one to a larger set has to gain less."""
    rng = random.Random(0)
    for _ in range(5000):
        vectors = [[rng.randint(-3, 3) for _ in range(3)] for _ in range(3)]
        w = [matrix([[a * b for a in v] for b in v]) for v in vectors]
        for i, j, k in permutations(range(3)):
            few = _inverse_trace([w[i], w[j]]) - _inverse_trace([w[i]])
            many = _inverse_trace([w[i], w[k], w[j]]) - _inverse_trace([w[i], w[k]])
            if many > few:
                return Refutation(
                    "exact",
                    {"vectors": [vectors[i], vectors[j], vectors[k]], "few": few, "many": many},
                    f"W_a = vv' with v = {vectors[i]}, {vectors[j]}, {vectors[k]}: adding the second to the "
                    f"first gains {few}, adding it to the first and third gains {many}",
                )
    return None


def minimum_condition_lora() -> Refutation | None:
    """Draw diagonal targets E and weights r: J = |D - E|^2/2 + r |D|^2/2 over rank D <= 1, so p = D - E.

    By Eckart-Young the optimum keeps the greatest entry, divided by 1 + r; another D may have a smaller H.
    """
    rng = random.Random(0)
    for _ in range(1000):
        e, r = [Fraction(rng.randint(1, 5)) for _ in range(2)], Fraction(1, rng.randint(1, 5))
        if e[0] <= e[1]:
            continue
        optimum = [e[0] / (1 + r), Fraction(0)]
        p = [optimum[0] - e[0], -e[1]]
        there = p[0] * optimum[0] + r * optimum[0] ** 2 / 2
        other = e[1] / r
        lower = p[1] * other + r * other**2 / 2
        if lower < there:
            return Refutation(
                "exact",
                {"target": e, "r": r, "optimum": optimum[0], "other": other, "H": (there, lower)},
                f"x_1 = W + D, rank D <= 1, Phi = |x_1 - W - diag({e[0]}, {e[1]})|^2/2, cost {r} |D|^2/2: "
                f"the optimum is D = diag({optimum[0]}, 0) with H = {there}, but D = diag(0, {other}) has "
                f"H = {lower}",
            )
    return None


def msa_descends() -> Refutation | None:
    """Draw scalar systems x+ = a x + b u, J = (x_T - y)^2/2 + r sum u^2/2, |u| <= 1; do one MSA step."""
    rng = random.Random(0)
    for _ in range(1000):
        a, b, y, steps = rng.randint(1, 2), rng.randint(1, 2), rng.randint(-2, 2), rng.randint(1, 3)
        r, us = Fraction(rng.randint(1, 4), 4), [Fraction(rng.randint(-4, 4), 4) for _ in range(steps)]

        def run(
            us: list[Fraction], a: int = a, b: int = b, y: int = y, r: Fraction = r
        ) -> tuple[Fraction, Fraction]:
            x = Fraction(1)
            for u in us:
                x = a * x + b * u
            return x - y, (x - y) ** 2 / 2 + r * sum(u * u for u in us) / 2

        p, before = run(us)
        after = []
        for _ in us:  # from the last step back: H = p (a x + b u) + r u^2/2 is least at the clipped -b p / r
            after.insert(0, max(Fraction(-1), min(Fraction(1), -b * p / r)))
            p = a * p
        worse = _run(after, a, b, y, r)[1]
        if worse > before:
            return Refutation(
                "exact",
                {"a": a, "b": b, "y": y, "r": r, "before": us, "after": after},
                f"x+ = {a}x + {b}u, x_0 = 1, |u| <= 1, J = (x_T - {y})^2/2 + {r} sum u^2/2: one step of MSA "
                f"takes u = {_text(us)} to {_text(after)}, and J from {before} to {worse}",
            )
    return None


def _run(us: list[Fraction], a: int, b: int, y: int, r: Fraction) -> tuple[Fraction, Fraction]:
    """Return the final costate and J."""
    x = Fraction(1)
    for u in us:
        x = a * x + b * u
    return x - y, (x - y) ** 2 / 2 + r * sum(u * u for u in us) / 2


def _text(v: list[Fraction]) -> str:
    return f"({', '.join(map(str, v))})"


CLAIMS = {
    "greedy-inverse-trace": FalseClaim(
        "f(S) = -tr((I + sum_S W_i)^-1) is submodular for W_i >= 0, so greedy choice has the ratio 1 - 1/e.",
        "published for the choice of actuators, corrected in arXiv 1609.08706",
        "T42: log det is submodular",
        greedy_inverse_trace,
    ),
    "minimum-condition-lora": FalseClaim(
        "Discrete maximum principle: at an optimal u, each u_t minimizes H_t(x_t, u, p_(t+1)) over all "
        "admissible u, the admissible updates being those of rank <= r.",
        "the maximum principle of continuous time, carried over to layers with rank constraints",
        "T32: grad_u H = 0 for interior u; the minimum needs convexity",
        minimum_condition_lora,
    ),
    "msa-descends": FalseClaim(
        "A step of the basic method of successive approximations, u_t = argmin H_t(x_t, u, p_(t+1)), never "
        "increases J.",
        "the basic method as often described",
        "T33: the extended method with a large enough penalty never does",
        msa_descends,
    ),
}
