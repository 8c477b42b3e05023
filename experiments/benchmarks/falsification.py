"""Whether planted faults are found: false bounds of every kind, ten seeds each; true ones must stand.

    python -m experiments.benchmarks.falsification --out experiments/results/benchmarks

The first six are false in rare regions, or only by a hundredth; of each kind of fault there are three more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import erf, exp, isqrt, pi, sqrt
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any

import numpy as np
import typer

from deltatheory.testing import (
    claim,
    combine,
    dimensions,
    falsify,
    integers,
    losses,
    ltv_systems,
    matrices,
    projectors,
    psd_matrices,
    quadratics,
    vectors,
)
from deltatheory.theorems import Bound, get_theorem, intervals
from deltatheory.theorems.exact import inverse
from experiments.measuring import write
from experiments.page import Table

F = Fraction
Sides = Callable[[Any], tuple[Any, Any]]
SEEDS = range(10)
HUNDREDTH = F(99, 100)


@dataclass(frozen=True)
class Planted:
    """A bound that is false, or one that is true and nearly violated.

    Attributes:
        kind: what makes it hard.
        bound: the bound.
        false: whether it is.
    """

    kind: str
    bound: Bound
    false: bool = True


# ---- Six bounds: three false in rare regions only, three with a tight case and a hundredth too strong ----


def _kantorovich(A: Any, v: Any, limit: Any) -> tuple[Any, Any]:
    n = v @ v
    return (v @ A @ v) * (v @ inverse(A) @ v), limit * n * n


def _nearly_singular(x: Any) -> tuple[Any, Any]:
    shift = (x["v"][0] * 0 + 1) / 100
    return _kantorovich(x["A"] + np.eye(3, dtype=int) * shift, x["v"], 100)


def _conditioned(share: Fraction) -> Sides:
    """At condition 9 the limit is (9 + 1)^2 / (4 * 9)."""
    return lambda x: _kantorovich(x["f"].H, x["x0"] - x["star"], share * F(25, 9))


def _variance(share: Fraction) -> Sides:
    def sides(x: Any) -> tuple[Any, Any]:
        weights = [intervals.exp(k) for k in x["k"]]
        p = [w / sum(weights) for w in weights]
        mean = sum(p * x["k"])
        return sum(p * (x["k"] - mean) ** 2), share * (max(x["k"]) - min(x["k"])) ** 2 / 4

    return sides


def _overlap(limit: Fraction) -> Sides:
    """|P1 Q2|^2 of subspaces of dimension 4 in 6 is at most 2."""
    return lambda x: (((x["P1"] @ (np.eye(6, dtype=int) - x["P2"])) ** 2).sum(), limit)


def _energy(limit: int) -> Sides:
    """e'(JJ')^-1 e, of J that may be singular."""
    return lambda x: (x["e"] @ inverse(x["J"] @ x["J"].T) @ x["e"], limit * (x["e"] @ x["e"]))


_TURNED = quadratics(3, 9, 1)
_KEYS = combine(k=vectors(4))
_PAIR = combine(P1=projectors(6, 4), P2=projectors(6, 4))
_REACHED = combine(J=matrices(2, 3), e=vectors(2))
SIX = [
    Planted("one of six", claim("Kantorovich, 1 <= A <= 9", _conditioned(HUNDREDTH), _TURNED)),
    Planted("one of six", claim("variance of keys", _variance(HUNDREDTH), _KEYS)),
    Planted("one of six", claim("overlap of subspaces", _overlap(2 * HUNDREDTH), _PAIR)),
    Planted(
        "one of six",
        claim("Kantorovich, A = RR' + I/100", _nearly_singular, combine(A=psd_matrices(3), v=vectors(3))),
    ),
    Planted("one of six", claim("overlap, by dimensions", _overlap(F(26, 15)), _PAIR)),
    Planted("one of six", claim("energy", _energy(10**4), _REACHED)),
]


# ---- Three of each kind ----


def _gap(share: Fraction) -> Sides:
    """f - f* <= L/2 |x0 - x*|^2."""

    def sides(x: Any) -> tuple[Any, Any]:
        away = x["x0"] - x["star"]
        return x["f"].value(x["x0"]) - x["f"].minimum, share * x["L"] / 2 * (away @ away)

    return sides


def _gradient(x: Any) -> tuple[Any, Any]:
    away, slope = x["x0"] - x["star"], x["f"].gradient(x["x0"])
    return slope @ slope, (HUNDREDTH * x["L"]) ** 2 * (away @ away)


def _gain(x: Any) -> tuple[Any, Any]:
    moved = x["S"]["A"][1] @ x["S"]["A"][0] @ x["v"]
    return moved @ moved, (HUNDREDTH * F(81, 100)) ** 2 * (x["v"] @ x["v"])


def _distinct(x: Any) -> tuple[Any, Any]:
    v = x["v"]
    return (v @ v) ** 3, 10**6 * ((v[0] - v[1]) * (v[1] - v[2]) * (v[2] - v[0])) ** 2


def _average(x: Any) -> tuple[Any, Any]:
    """The largest of six squares is at most 99/100 of their sum."""
    return max(x["v"] ** 2), HUNDREDTH * sum(x["v"] ** 2)


def _away_from_zero(x: Any) -> tuple[Any, Any]:
    return x["A"][0, 0] * 0 + 1, 100 * (x["A"] ** 2).sum()


def _adjugate(x: Any) -> tuple[Any, Any]:
    """e'W^-1 e again, with W^-1 written out and nothing claimed where it is singular."""
    W = x["J"] @ x["J"].T
    det = W[0, 0] * W[1, 1] - W[0, 1] ** 2
    if det == 0:
        return det, det
    turned = np.array([[W[1, 1], -W[0, 1]], [-W[0, 1], W[0, 0]]]) / det
    return x["e"] @ turned @ x["e"], 10**8 * (x["e"] @ x["e"])


def _inverse_norm(x: Any) -> tuple[Any, Any]:
    solved = inverse(x["A"]) @ x["v"]
    return solved @ solved, 10**6 * (x["v"] @ x["v"])


def _quotient(x: Any) -> tuple[Any, Any]:
    return 1 / (x["v"][0] - x["v"][1]) ** 2, x["v"][0] * 0 + 10**5


def _is_prime(n: int) -> bool:
    return all(n % k for k in range(2, isqrt(n) + 1))


def _sized_overlap(D: int) -> Any:
    """The claim min(d, D - d) <= 7/4 at d = 2 falls for D >= 4 only."""
    return combine(P1=projectors(D, 2), P2=projectors(D, 2)).map(lambda x: x | {"D": D})


def _across(x: Any) -> tuple[Any, Any]:
    return ((x["P1"] @ (np.eye(x["D"], dtype=int) - x["P2"])) ** 2).sum(), F(7, 4)


def _scaled(id: str, share: Fraction, **changes: Any) -> Bound:
    theorem = get_theorem(id)

    def sides(x: Any) -> tuple[Any, Any]:
        left, right = theorem.sides(x)
        return left, right * share

    return replace(theorem, sides=sides, **changes)


_LINE = combine(v=vectors(1))
_SQUARE = combine(A=psd_matrices(2), v=vectors(2))
_UNAIDED = {"extremal": None, "closest": None}
OWN = [
    Planted("constants of a domain", claim("gap of quadratics", _gap(HUNDREDTH), quadratics(3, 5, 0))),
    Planted("constants of a domain", claim("gradients of losses", _gradient, losses(3, 4, 1))),
    Planted("constants of a domain", claim("gains", _gain, combine(S=ltv_systems(2, 1, 2), v=vectors(2)))),
    Planted("zeros and repeats", claim("distinct entries", _distinct, combine(v=vectors(3)))),
    Planted("zeros and repeats", claim("one entry of six", _average, combine(v=vectors(6)))),
    Planted("zeros and repeats", claim("away from zero", _away_from_zero, combine(A=psd_matrices(4)))),
    Planted("nearly singular", claim("energy, guarded", _adjugate, _REACHED)),
    Planted("nearly singular", claim("norm of an inverse", _inverse_norm, _SQUARE)),
    Planted("nearly singular", claim("a quotient", _quotient, combine(v=vectors(2)))),
    Planted(
        "whole numbers",
        claim("n^2 <= 2^n", lambda x: (F(x["n"] ** 2), F(2 ** x["n"])), combine(n=integers(1, 40))),
    ),
    Planted(
        "whole numbers",
        claim(
            "n^2 + n + 41 is prime",
            lambda x: (F(1 - _is_prime(x["n"] ** 2 + x["n"] + 41)), F(0)),
            combine(n=integers(0, 60)),
        ),
    ),
    Planted("whole numbers", claim("overlap in any dimension", _across, dimensions(3, 5, _sized_overlap))),
    Planted(
        "small and large sides",
        claim("1e-12", lambda x: (x["v"][0] ** 2 / 10**12, x["v"][0] ** 2 / (2 * 10**12)), _LINE),
    ),
    Planted(
        "small and large sides",
        claim("1e12", lambda x: (x["v"][0] ** 2 * (10**12 + 10**5), x["v"][0] ** 2 * 10**12), _LINE),
    ),
    Planted(
        "small and large sides",
        claim(
            "an identity of 1e-14",
            lambda x: (x["v"][0] / 10**14, x["v"][0] / 10**14 * (1 + F(1, 10**6))),
            _LINE,
            kind="identity",
        ),
    ),
    Planted("floats only", claim("sine", lambda x: (np.sin(x["v"][0]), 0.999), _LINE, rational=False)),
    Planted(
        "floats only",
        claim(
            "softplus",
            lambda x: (np.logaddexp(0, x["v"][0]), max(x["v"][0], 0) + 0.69),
            _LINE,
            rational=False,
        ),
    ),
    Planted(
        "floats only",
        claim(
            "slope of GELU",
            lambda x: (
                (1 + erf(x["v"][0] / sqrt(2))) / 2 + x["v"][0] * exp(-(x["v"][0] ** 2) / 2) / sqrt(2 * pi),
                1.128,
            ),
            _LINE,
            rational=False,
        ),
    ),
    Planted("theorems", _scaled("T46", F(1, 2))),
    Planted("theorems", _scaled("T02", F(19, 20), **_UNAIDED)),
    Planted("theorems", _scaled("T43b", F(19, 20), **_UNAIDED)),
]


def _inverted(x: Any) -> tuple[Any, Any]:
    A = x["A"] + np.eye(3) * 1e-7
    return np.linalg.solve(A, A @ x["v"]), x["v"]


TRUE = [
    Planted("true and tight", claim("Kantorovich, 1 <= A <= 9", _conditioned(F(1)), _TURNED), false=False),
    Planted("true and tight", claim("variance of keys", _variance(F(1)), _KEYS), false=False),
    Planted("true and tight", claim("overlap of subspaces", _overlap(F(2)), _PAIR), false=False),
    Planted(
        "true, ill-conditioned, floats only",
        claim(
            "A^-1 A v = v",
            _inverted,
            combine(A=psd_matrices(3, 1), v=vectors(3)),
            kind="identity",
            rational=False,
        ),
        false=False,
    ),
]
PLANTED = [*SIX, *OWN, *TRUE]


def main(out: Annotated[Path, typer.Option(help="Folder for falsification.{json,md}.")]) -> None:
    """Write one row a bound."""
    rows = [row(planted) for planted in PLANTED]
    text = Table("", list(rows[0]), [list(one.values()) for one in rows]).body() + "\n\n"
    false = [one for one in rows if not one["kind"].startswith("true")]
    slowest = max(one["slowest, CPU s"] for one in false)
    found = sum(one["refuted"] == f"{len(SEEDS)} of {len(SEEDS)}" for one in false)
    accused = sum(not one["refuted"].startswith("0") for one in rows if one not in false)
    text += (
        f"Found with every seed: {found} of {len(false)} planted faults, the slowest search in {slowest} s. "
        f"Refuted although true: {accused} of {len(rows) - len(false)}."
    )
    write(out / "falsification", {"rows": rows}, text)


def row(planted: Planted) -> dict[str, Any]:
    """Return how often a bound was refuted, and how long it took."""
    found, seconds = [], []
    for seed in SEEDS:
        began = process_time()
        found.append(falsify(planted.bound, seed=seed))
        seconds.append(process_time() - began)
    return {
        "kind": planted.kind,
        "bound": planted.bound.label,
        "refuted": f"{sum(one.refuted for one in found)} of {len(found)}",
        "confirmed": ", ".join(sorted({one.confirmed for one in found if one.refuted})) or "-",
        "evaluations, median": median(one.evaluations for one in found),
        "slowest, CPU s": round(max(seconds), 2),
    }


if __name__ == "__main__":
    typer.run(main)
