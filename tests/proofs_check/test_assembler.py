"""The trusted inequalities on functions that are known exactly: rational quadratics and Huber functions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import pytest

from proofs_check import assembler
from proofs_check.rational import inner, product, quadratic, transpose

HALF = Fraction(1, 2)
Vector = list[Fraction]


@dataclass
class Function:
    """value, gradient; minimum 0 at `best`."""

    value: Callable[[Vector], Fraction]
    gradient: Callable[[Vector], Vector]
    best: Vector


def minus(x: Vector, y: Vector) -> Vector:
    return [a - b for a, b in zip(x, y, strict=True)]


def quadratics(seed: int, n: int = 4, signs: tuple[int, ...] = (1,), top: Fraction = Fraction(1)) -> Function:
    """(y - b)'H(y - b)/2 with a spectrum in [-top, top]: H = sum l vv'/|v|^2 of orthogonal v, rational l."""
    rng = random.Random(seed)
    basis: list[Vector] = []
    while len(basis) < n:
        v = [Fraction(rng.randint(-3, 3)) for _ in range(n)]
        for u in basis:
            v = minus(v, [inner(u, v) / inner(u, u) * c for c in u])
        if any(v):
            basis.append(v)
    values = [rng.choice(signs) * top * Fraction(rng.randint(0, 6), 6) for _ in basis]
    values[0] = rng.choice(signs) * top
    h = [
        [sum(l * v[i] * v[j] / inner(v, v) for l, v in zip(values, basis, strict=True)) for j in range(n)]
        for i in range(n)
    ]
    b = [Fraction(rng.randint(-3, 3), 2) for _ in range(n)]
    return Function(
        lambda y: quadratic(h, minus(y, b)) / 2, lambda y: [inner(row, minus(y, b)) for row in h], b
    )


def huber(seed: int, n: int = 4, top: Fraction = Fraction(1)) -> Function:
    """Sum over coordinates of the Huber function with a rational threshold."""
    rng = random.Random(seed)
    b, width = [Fraction(rng.randint(-3, 3), 2) for _ in range(n)], Fraction(rng.randint(1, 6), 4)

    def value(t: Fraction) -> Fraction:
        return top * (t * t / 2 if abs(t) <= width else width * abs(t) - width * width / 2)

    def slope(t: Fraction) -> Fraction:
        return top * max(-width, min(width, t))

    return Function(lambda y: sum(map(value, minus(y, b))), lambda y: list(map(slope, minus(y, b))), b)


def point(f: Function, x: Vector) -> tuple[assembler.Point, dict, dict]:
    """A point whose x and g are symbols of their own, and what they are."""
    name = f"{len(x)}{x}"
    p = assembler.Point(
        assembler.symbol("P", f"x{name}"), assembler.symbol("P", f"g{name}"), assembler.value(f"f{name}")
    )
    return p, {("P", f"x{name}"): x, ("P", f"g{name}"): f.gradient(x)}, {f"f{name}": f.value(x)}


def worst(f: Function, mu: int | Fraction, seed: int) -> Fraction:
    """The least interpolation form over pairs of random points."""
    rng = random.Random(seed)
    points, vectors, values = [], {}, {}
    for _ in range(5):
        p, v, w = point(f, [Fraction(rng.randint(-9, 9), 3) for _ in range(4)])
        points.append(p)
        vectors |= v
        values |= w
    return min(
        assembler.evaluate(assembler.interpolation(p, q, mu), vectors, values) for p in points for q in points
    )


@pytest.mark.parametrize("seed", range(6))
def test_interpolation_holds_on_its_class_and_fails_outside(seed: int):
    assert worst(quadratics(seed), 0, seed) >= 0
    assert worst(huber(seed), 0, seed) >= 0
    assert worst(quadratics(seed, signs=(1, -1)), -1, seed) >= 0
    assert worst(quadratics(seed, top=Fraction(3, 2)), 0, seed) < 0  # not 1-smooth
    assert worst(quadratics(seed, signs=(-1,)), 0, seed) < 0  # not convex
    assert worst(quadratics(seed, signs=(-1,), top=Fraction(3, 2)), -1, seed) < 0


def test_interpolation_of_strongly_convex_functions_is_exact_on_their_quadratics():
    mu = Fraction(1, 3)
    eye = Function(lambda y: mu * inner(y, y) / 2, lambda y: [mu * c for c in y], [Fraction()] * 4)
    assert worst(eye, mu, 0) == 0
    assert worst(eye, Fraction(2, 3), 0) < 0


def run(f: Function, x0: Vector, h: Fraction, steps: int, rank: int) -> tuple[dict, dict, Fraction]:
    """Run the method itself, P = the first coordinates; fill in the symbols of `gradient_descent`."""
    start = minus(x0, f.best)
    vectors, values = {("P", "x"): start[:rank], ("Q", "x"): start[rank:]}, {}
    x = x0
    for k in range(steps + 1):
        g = f.gradient(x)
        vectors |= {("P", f"g{k}"): g[:rank], ("Q", f"g{k}"): g[rank:]}
        values[f"f{k}"] = f.value(x)
        last = values[f"f{k}"]
        x = minus(x, [h * c for c in g[:rank]] + [Fraction()] * (len(x) - rank))
    return vectors, values, last


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [quadratics, huber])
def test_gradient_descent_as_assembled_is_gradient_descent_as_run(seed: int, make: Callable[[int], Function]):
    h, steps, rates = Fraction(1), 3, [Fraction(1, 14), HALF]
    setting = assembler.gradient_descent(rates, h, steps)
    vectors, values, last = run(
        make(seed), [Fraction(seed + 1), Fraction(2), Fraction(-1), Fraction(5, 2)], h, steps, 2
    )
    forms = setting.inequalities
    assert len(forms) == (steps + 2) * (steps + 1)
    assert all(assembler.evaluate(form, vectors, values) >= 0 for form in forms.values())
    p, q = vectors["P", "x"], vectors["Q", "x"]
    assert (
        assembler.evaluate(setting.claim, vectors, values) == inner(p, p) / 14 + inner(q, q) / 2 - last >= 0
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_settings_of_one_point_hold_on_quadratics(seed: int):
    f = quadratics(seed, signs=(1, -1))
    x = [Fraction(seed), Fraction(1), Fraction(-2), Fraction(3, 2)]
    g = f.gradient(x)
    y = minus(x, g[:2] + [Fraction()] * 2)
    h = f.gradient(y)
    vectors = {("P", "g"): g[:2], ("Q", "g"): g[2:], ("P", "h"): h[:2], ("Q", "h"): h[2:]}
    values = {"f": f.value(x), "fy": f.value(y)}
    setting = assembler.subspace_descent([HALF])
    for form in [*setting.inequalities.values(), setting.claim]:
        assert assembler.evaluate(form, vectors, values) >= 0
    f = quadratics(seed)
    q = [Fraction(), Fraction(), Fraction(2), Fraction(-seed)]
    at = [a + b for a, b in zip(f.best, q, strict=True)]
    g = f.gradient(at)
    vectors = {("Q", "x"): q[2:], ("P", "g"): g[:2], ("Q", "g"): g[2:]}
    setting = assembler.gap_above([HALF])
    for form in [*setting.inequalities.values(), setting.claim]:
        assert assembler.evaluate(form, vectors, {"f": f.value(at)}) >= 0


def test_gradient_descent_wants_one_rate_or_two():
    with pytest.raises(ValueError, match="one rate or two, got 3"):
        assembler.gradient_descent([HALF] * 3, HALF, 1)


def test_forms():
    u = assembler.add((2, assembler.symbol("P", "a")), (1, assembler.symbol("Q", "a")))
    v = assembler.add((1, assembler.symbol("P", "b")), (3, assembler.symbol("P", "a")))
    form = assembler.dot(u, v)
    assert form == {("P", "a", "b"): 2, ("P", "a", "a"): 6}
    assert assembler.gram(form, "P", ["a", "b"]) == [[6, 1], [1, 0]]
    assert assembler.blocks(form) == {"P": ["a", "b"]}
    rows = [[Fraction(1), Fraction(2)]], [[Fraction(3)], [Fraction(4)]]
    assert product(*rows) == [[11]]
    assert transpose(rows[0]) == [[1], [2]]
