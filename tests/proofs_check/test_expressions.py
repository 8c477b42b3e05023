from __future__ import annotations

from fractions import Fraction

import pytest
import sympy as sp

from proofs_check.expressions import at_point, equal, expand, over_jet, text, variables
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
    assert equal(tree(left), tree(right)) is same
    point = {"x": Fraction(3, 7), "y": Fraction(-5, 2), "z": Fraction(11)}
    value = at_point(tree(left), point)
    assert sp.Rational(value.numerator, value.denominator) == left.subs(
        {k: sp.Rational(v.numerator, v.denominator) for k, v in point.items()}
    )


def test_expansion_is_sympys():
    numerator, denominator = expand(tree((x - 2 * y) ** 2 * z / 3))
    poly = sp.Poly(sp.expand((x - 2 * y) ** 2 * z), x, y, z)
    total = sum(
        c * sp.prod(sp.Symbol(name) ** power for name, power in monomial) for monomial, c in numerator.items()
    )
    assert sp.expand(total * 3 / denominator[()] - poly.as_expr()) == 0


@pytest.mark.parametrize(
    "bad", [True, 1.5, None, [], ["+"], ["/", 1, 0], ["^", "x", -1], ["exp", "x"], {"x": 1}]
)
def test_what_is_not_a_rational_function_is_refused(bad: object):
    with pytest.raises(ValueError, match=r"not a rational function|not an expression|denominator is zero"):
        expand(bad)


@pytest.mark.parametrize("bad", [True, 1.5, "y", ["sin", "x"], ["^", "x", 2]])
def test_what_is_not_a_function_of_x_is_refused(bad: object):
    with pytest.raises(ValueError, match=r"not a function of x|not an expression"):
        over_jet(bad, constant(enclose(1)))


def test_text_and_variables():
    expression = ["/", ["+", "a", ["*", -1, "b"]], ["^", "c", 2]]
    assert text(expression) == "(a + (-1 * b))/c^2"
    assert variables(expression) == {"a", "b", "c"}
