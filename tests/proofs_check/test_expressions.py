from __future__ import annotations

import re
from fractions import Fraction

import pytest
import sympy as sp

from proofs_check.expressions import at_point, derivative, expand, over_jet, quotient, symbol, text, variables
from proofs_check.intervals import constant, enclose
from proofs_check.prove.identities import tree

x, y, z = sp.symbols("x y z")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ((x + y) ** 3, sp.expand((x + y) ** 3), True),
        ((x**2 - y**2) / (x - y), x + y, True),
        (1 / x + 1 / y + 1 / z, (x * y + y * z + x * z) / (x * y * z), True),
        (sp.Rational(2, 3) * x, x - x / 3, True),
        ((x + y) ** 2, x**2 + y**2, False),
        (1 / (1 + x), 1 - x, False),
    ],
)
def test_equality_of_rational_functions(left, right, same: bool):
    assert (expand(tree(left)) == expand(tree(right))) is same
    point = {"x": Fraction(3, 7), "y": Fraction(-5, 2), "z": Fraction(11)}
    value = at_point(tree(left), point)
    assert sp.Rational(value.numerator, value.denominator) == left.subs(
        {k: sp.Rational(v.numerator, v.denominator) for k, v in point.items()}
    )


def test_expansion_is_sympys():
    expanded = expand(tree((x - 2 * y) ** 2 * z / 3))
    numerator, denominator = expanded.above, expanded.below
    poly = sp.Poly(sp.expand((x - 2 * y) ** 2 * z), x, y, z)
    total = sum(
        c * sp.prod(sp.Symbol(name) ** power for name, power in monomial) for monomial, c in numerator.items()
    )
    assert sp.expand(total * 3 / denominator[()] - poly.as_expr()) == 0


@pytest.mark.parametrize(
    "bad",
    [
        True,
        1.5,
        None,
        [],
        ["+"],
        ["/", 1, 0],
        ["^", "x", -1],
        ["^", "x", True],
        ["exp", "x"],
        {"x": 1},
        "x\n",
        "1",
    ],
)
def test_what_is_not_a_rational_function_is_refused(bad: object):
    with pytest.raises(ValueError, match=r"not a rational function|not a variable|denominator is zero"):
        expand(bad)


@pytest.mark.parametrize("bad", [True, 1.5, "y", ["sin", "x"], ["^", "x", 2]])
def test_what_is_not_a_function_of_x_is_refused(bad: object):
    with pytest.raises(ValueError, match="not a function of x"):
        over_jet(bad, constant(enclose(1)))


def test_text_and_variables():
    expression = ["/", ["+", "a", ["*", -1, "b"]], ["^", "c", 2]]
    assert text(expression) == "(a + (-1 * b))/c^2"
    assert variables(expression) == {"a", "b", "c"}


def trees(depth: int) -> list:
    """All shapes of quotients and powers, and sums and products over them, with leaves of either sign."""
    if depth == 0:
        return ["x", 2, -1]
    below = trees(depth - 1)
    pairs = [[sign, a, b] for sign in "+*/" for a in below for b in below[:: 1 + depth * 3]]
    return below + pairs + [["^", a, power] for a in below for power in (2, 3)]


def test_a_text_reads_as_what_was_checked():
    """Python reads it; 1/(2/x), (x/y)^2, (x^2)^3 and (-1)^2 keep their parentheses."""
    for expression in trees(2):
        read = text(expression).replace("^", "**")
        read = (
            re.sub(r"\d+", r"F(\g<0>)", read)
            if "**" not in read
            else re.sub(r"(?<!\*\*)\b(\d+)", r"F(\1)", read)
        )
        try:
            value = at_point(expression, {"x": Fraction(3, 7)})
        except ZeroDivisionError:
            continue
        assert eval(read, {"F": Fraction, "x": Fraction(3, 7)}) == value, (expression, read)


def test_derivatives():
    x, y, e = symbol("x"), symbol("y"), symbol("e")
    ratio = (x**2 + y) / (x - y)
    assert ratio.along({"x": 1}) == (2 * x * (x - y) - (x**2 + y)) / (x - y) ** 2
    assert (x * e).along({"x": 1, "e": x * e}) == e + x * x * e
    assert ratio.where({"y": 0}) == x
    assert quotient(Fraction(1, 2)) + Fraction(1, 2) == quotient(1)
    u, at = sp.Symbol("x"), Fraction(2, 3)
    trees = {
        "sqrt": (["sqrt", ["+", 1, ["*", "x", "x"]]], sp.sqrt(1 + u**2)),
        "exp": (["/", ["exp", ["*", -2, "x"]], ["+", 1, "x"]], sp.exp(-2 * u) / (1 + u)),
        "erf": (["*", 3, "x", ["erf", ["/", "x", ["sqrt", 2]]]], 3 * u * sp.erf(u / sp.sqrt(2))),
        "constant": (["*", ["pi"], 2], 2 * sp.pi),
    }
    for tree_, function in trees.values():
        enclosed = over_jet(derivative(tree_), constant(enclose(at))).value
        wanted = sp.N(sp.diff(function, u).subs(u, sp.Rational(2, 3)), 30)
        assert abs(sp.Rational(enclosed.low.numerator, enclosed.low.denominator) - wanted) < 1e-25
    with pytest.raises(ValueError, match="not a function of x"):
        derivative("y")


def test_what_is_too_large_is_refused_at_once():
    tower: object = ["+", *"abcdefgh"]
    for _ in range(9):
        tower = ["^", tower, 9]
    number: object = 3
    for _ in range(40):
        number = ["^", number, 9]
    for bad in (tower, number):
        with pytest.raises(ValueError, match="too large"):
            expand(bad)
