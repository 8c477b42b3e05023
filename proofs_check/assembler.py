"""From a setting to the inequalities that every function of its class satisfies: performance estimation.

A vector is a linear combination of symbols, each of which lives in one of the orthogonal blocks "P" (the
range of the projector P) and "Q" (its complement, Q = I - P). A form is linear in function values and
quadratic in vectors. Everything is scaled to L = 1 (f / L), or to mu = 1 where there is no L.

A witness is data that satisfy every inequality of a setting. Where these are interpolation inequalities for
all pairs, a function of the class takes such data. In T03 and T04 a witness can only beat a rate above 1/2,
because up to 1/2 the claim is a sum of the inequalities, and ||x||^2/2 beats such a rate.

Sources: interpolation of smooth strongly convex functions after Taylor, Hendrickx, Glineur (2017), Theorem 4
(mu = -L: smooth, not convex); performance estimation after Drori, Teboulle (2014).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

from proofs_check.certificate import Undecided

Vector = dict[tuple[str, str], Fraction]  # (block, symbol) -> coefficient
Form = dict[tuple[str, ...], Fraction]  # ("f", name) or (block, symbol, symbol) -> coefficient
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Point:
    """Where a function is looked at: x, its gradient g there, its value f (a form)."""

    x: Vector
    g: Vector
    f: Form


@dataclass(frozen=True)
class Setting:
    """What is known and what is claimed.

    Args:
        statement: the claim in words.
        claim: the form that is claimed to be >= 0.
        known: gives the forms that are >= 0 for every function of the class, by name.

    """

    statement: str
    claim: Form
    known: Callable[[], dict[str, Form]]

    @cached_property
    def inequalities(self) -> dict[str, Form]:
        """What `known` gives, computed once."""
        return self.known()


def add(*terms: tuple[int | Fraction, dict]) -> dict:
    """Return sum_k c_k u_k of vectors or of forms, without its zeros.

    >>> add((2, symbol("P", "x")), (-1, symbol("P", "x"))) == symbol("P", "x")
    True
    """
    total: dict = {}
    for c, u in terms:
        for key, value in u.items():
            total[key] = total.get(key, 0) + Fraction(c) * value
    return {key: value for key, value in total.items() if value}


def symbol(block: str, name: str) -> Vector:
    """Return the vector that is one symbol of a block."""
    return {(block, name): Fraction(1)}


def value(name: str) -> Form:
    """Return the form of a function value that is not yet known."""
    return {("f", name): Fraction(1)}


def dot(u: Vector, v: Vector) -> Form:
    """Return <u, v>: symbols of different blocks are orthogonal.

    >>> dot(add((1, symbol("P", "x")), (1, symbol("Q", "x"))), symbol("P", "g"))
    {('P', 'g', 'x'): Fraction(1, 1)}
    """
    total: Form = {}
    for (block, a), x in u.items():
        for (other, b), y in v.items():
            if block == other:
                key = (block, *sorted((a, b)))
                total[key] = total.get(key, Fraction()) + x * y
    return {key: c for key, c in total.items() if c}


def square(u: Vector) -> Form:
    """Return ||u||^2."""
    return dot(u, u)


def interpolation(i: Point, j: Point, mu: int | Fraction) -> Form:
    """Return f_i - f_j - <g_j, x> - (||g||^2 + mu ||x||^2 - 2 mu <g, x>) / (2 - 2 mu) of differences x, g.

    It is >= 0 for every function whose curvature lies between mu and L = 1, -1 <= mu < 1.
    """
    x, g = add((1, i.x), (-1, j.x)), add((1, i.g), (-1, j.g))
    c = 1 / Fraction(2 - 2 * mu)
    return add(
        (1, i.f), (-1, j.f), (-1, dot(j.g, x)), (-c, square(g)), (-c * mu, square(x)), (2 * c * mu, dot(g, x))
    )


def interpolations(points: dict[str, Point], mu: int | Fraction) -> dict[str, Form]:
    """All ordered pairs: "i>j" bounds f_i from below by what is known at j."""
    return {
        f"{i}>{j}": interpolation(p, q, mu) for i, p in points.items() for j, q in points.items() if i != j
    }


MINIMISER = Point({}, {}, {})  # x* = 0, zero gradient, f* = 0


def gradient_descent(rates: list[Fraction], h: Fraction, steps: int) -> Setting:
    """T09 (one rate) and T10 (two): `steps` steps x+ = x - (h/L) P grad f(x) on a convex L-smooth f.

    T09 is about F, the function on the subspace itself, and its own minimiser there, so there is no Q.
    """
    if len(rates) not in (1, 2):
        raise ValueError(f"gradient descent has one rate or two, got {len(rates)}")
    x, q = symbol("P", "x"), symbol("Q", "x") if len(rates) == 2 else {}
    start = add(*((rate, square(u)) for rate, u in zip(rates, (x, q), strict=False)))
    points = {"*": MINIMISER}
    for k in range(steps + 1):
        g = symbol("P", f"g{k}")
        points[str(k)] = Point(
            add((1, x), (1, q)), add((1, g), *[(1, symbol("Q", f"g{k}"))] * bool(q)), value(f"f{k}")
        )
        x = add((1, x), (-h, g))
    if q:
        words = f"{steps} steps ({h})/L along -P grad f: f(x_{steps}) - min f <= "
        words += " + ".join(f"{r} L ||{b}(x0-x*)||^2" for r, b in zip(rates, "PQ", strict=True))
    else:
        words = f"F = f on the subspace S, {steps} steps ({h})/L along -grad F: F(x_{steps}) - min_S F <= "
        words += f"{rates[0]} L ||x0-x*_S||^2, x*_S a minimiser of F on S"
    return Setting(
        f"convex, L-smooth, {words}",
        add((1, start), (-1, value(f"f{steps}"))),
        lambda: interpolations(points, 0),
    )


def descent_rates(h: Fraction, steps: int, two_blocks: bool) -> list[Fraction]:
    """Return the constants of T09 and T10, which are stated for 0 < h <= 1."""
    if not 0 < h <= 1:
        raise Undecided(f"the theorem is about steps h/L with 0 < h <= 1, not h = {h}")
    return [1 / (4 * steps * h + 2), *[HALF] * two_blocks]


def gap_above(rates: list[Fraction]) -> Setting:
    """T02: L-smooth, not convex; y = the projection of x* on S, y - x* = Q(x0 - x*)."""
    q = symbol("Q", "x")
    y = Point(q, add((1, symbol("P", "g")), (1, symbol("Q", "g"))), value("f"))
    return Setting(
        f"L-smooth: min_S f - f* <= {rates[0]} L ||Q(x0-x*)||^2",
        add((rates[0], square(q)), (-1, y.f)),
        lambda: interpolations({"*": MINIMISER, "y": y}, -1),
    )


def gap_below(rates: list[Fraction]) -> Setting:
    """T03: mu-strongly convex; any x in S, x - x* = p + q with q = Q(x0 - x*); strong convexity at x*."""
    q = symbol("Q", "x")
    x = add((1, symbol("P", "x")), (1, q))
    return Setting(
        f"mu-strongly convex: f - f* >= {rates[0]} mu ||Q(x0-x*)||^2 on all of S",
        add((1, value("f")), (-rates[0], square(q))),
        lambda: {"strongly convex at *": add((1, value("f")), (-HALF, square(x)))},
    )


def sandwich_below(rates: list[Fraction]) -> Setting:
    """T04, left: L-smooth, f >= f* everywhere, P grad f(x) = 0; looked at x - (1/L) Q grad f(x) as well."""
    g = symbol("Q", "g")
    x = Point({}, g, value("f"))
    y = Point(add((-1, g)), add((1, symbol("P", "h")), (1, symbol("Q", "h"))), value("fy"))
    return Setting(
        f"L-smooth, P grad f(x) = 0: f(x) - f* >= {rates[0]} ||Q grad f(x)||^2 / L",
        add((1, x.f), (-rates[0], square(g))),
        lambda: interpolations({"x": x, "y": y}, -1) | {"f >= f* at y": y.f},
    )


def sandwich_above(rates: list[Fraction]) -> Setting:
    """T04, right: mu-PL on the whole space, P grad f(x) = 0."""
    g = symbol("Q", "g")
    return Setting(
        f"mu-PL, P grad f(x) = 0: f(x) - f* <= {rates[0]} ||Q grad f(x)||^2 / mu",
        add((rates[0], square(g)), (-1, value("f"))),
        lambda: {"PL at x": add((HALF, square(g)), (-1, value("f")))},
    )


def subspace_descent(rates: list[Fraction]) -> Setting:
    """T05: one step x+ = x - (1/L) P grad f(x), L-smooth, not convex."""
    g = symbol("P", "g")
    x = Point({}, add((1, g), (1, symbol("Q", "g"))), value("f"))
    y = Point(add((-1, g)), add((1, symbol("P", "h")), (1, symbol("Q", "h"))), value("fy"))
    return Setting(
        f"L-smooth: f(x - P grad f(x) / L) <= f(x) - {rates[0]} ||P grad f(x)||^2 / L",
        add((1, x.f), (-1, y.f), (-rates[0], square(g))),
        lambda: interpolations({"x": x, "y": y}, -1),
    )


@dataclass(frozen=True)
class WorstCase:
    """A claim with constants.

    Args:
        upper: whether it is an upper bound, which a smaller rate makes stronger.
        build: rates, **parameters -> the setting.
        rates: **parameters -> the constants of the theorem.

    """

    upper: bool
    build: Callable[..., Setting]
    rates: Callable[..., list[Fraction]] = lambda: [HALF]


SETTINGS: dict[str, WorstCase] = {
    "gradient_descent_in_subspace": WorstCase(
        True, gradient_descent, partial(descent_rates, two_blocks=False)
    ),
    "gradient_descent": WorstCase(True, gradient_descent, partial(descent_rates, two_blocks=True)),
    "gap_above": WorstCase(True, gap_above),
    "gap_below": WorstCase(False, gap_below),
    "sandwich_below": WorstCase(False, sandwich_below),
    "sandwich_above": WorstCase(True, sandwich_above),
    "subspace_descent": WorstCase(False, subspace_descent),
}


def blocks(*forms: Form) -> dict[str, list[str]]:
    """Return the vector symbols of the forms, by block."""
    found: dict[str, set[str]] = {}
    for form in forms:
        for block, *names in form:
            if block != "f":
                found.setdefault(block, set()).update(names)
    return {block: sorted(names) for block, names in sorted(found.items())}


def gram(form: Form, block: str, names: list[str]) -> list[list[Fraction]]:
    """Return the symmetric matrix M with form = sum_ij M_ij <names_i, names_j> on a block.

    >>> gram(dot(symbol("P", "x"), symbol("P", "g")), "P", ["g", "x"])[0]
    [Fraction(0, 1), Fraction(1, 2)]
    """
    return [
        [form.get((block, *sorted((a, b))), Fraction()) * (1 if a == b else HALF) for b in names]
        for a in names
    ]


def evaluate(form: Form, vectors: Mapping[Any, list[Any]], values: Mapping[str, Any]) -> Any:
    """Return a form at given vectors ((block, symbol) -> list of numbers) and function values."""
    total: Any = Fraction()
    for (block, *names), c in form.items():
        if block == "f":
            total += c * values[names[0]]
        else:
            u, v = (vectors[block, name] for name in names)
            total += c * sum((a * b for a, b in zip(u, v, strict=True)), Fraction())
    return total
