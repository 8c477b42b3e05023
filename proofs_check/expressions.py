"""Expressions as JSON trees: rational functions, at a rational point, in words, or over intervals.

A tree is an integer, a variable's name, or a list: ["+", a, b, ...], ["*", a, b, ...], ["/", a, b],
["^", a, n] with an integer n from 0 to 9; over intervals ["exp", a], ["erf", a], ["sqrt", a] and ["pi"].
True and False are no integers, and a name is a letter with letters, digits and underscores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import add, mul

from proofs_check import intervals
from proofs_check.intervals import Jet, constant, enclose

Tree = int | str | list
Polynomial = dict[tuple[tuple[str, int], ...], int]  # sorted (variable, power > 0) -> coefficient, no zeros
MOST_PRODUCTS = 1 << 16  # of terms,
MOST_BITS = 1 << 12  # of a coefficient, and
MOST_DEGREE = 1 << 10  # of a term: a file cannot ask for more


def _plus(p: Polynomial, q: Polynomial) -> Polynomial:
    total = dict(p)
    for monomial, c in q.items():
        total[monomial] = total.get(monomial, 0) + c
    return {monomial: c for monomial, c in total.items() if c}


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    if len(p) * len(q) > MOST_PRODUCTS or any(abs(c) >> MOST_BITS for r in (p, q) for c in r.values()):
        raise ValueError("the expression is too large to be multiplied out")
    if any(sum(power for _, power in monomial) > MOST_DEGREE for r in (p, q) for monomial in r):
        raise ValueError("the degree of the expression is too large")
    total: Polynomial = {}
    for a, x in p.items():
        for b, y in q.items():
            powers = dict(a)
            for name, power in b:
                powers[name] = powers.get(name, 0) + power
            key = tuple(sorted(powers.items()))
            total[key] = total.get(key, 0) + x * y
    return {monomial: c for monomial, c in total.items() if c}


def _slope(p: Polynomial, name: str) -> Polynomial:
    """Return dp/dname."""
    total: Polynomial = {}
    for monomial, c in p.items():
        powers = dict(monomial)
        power = powers.pop(name, 0)
        if power:
            rest = powers | ({name: power - 1} if power > 1 else {})
            key = tuple(sorted(rest.items()))
            total[key] = total.get(key, 0) + c * power
    return total


@dataclass(frozen=True, eq=False)
class Quotient:
    """A rational function with integer coefficients: numerator and denominator, not reduced.

    >>> a, b = symbol("a"), symbol("b")
    >>> (a + b) * (a - b) == a**2 - b**2, (a * a - b * b) / (a - b) == a + b, a == b
    (True, True, False)
    """

    above: Polynomial
    below: Polynomial

    def __add__(self, other: Quotient | int | Fraction) -> Quotient:
        other = quotient(other)
        if self.below == other.below:
            return Quotient(_plus(self.above, other.above), self.below)
        above = _plus(_times(self.above, other.below), _times(other.above, self.below))
        return Quotient(above, _times(self.below, other.below))

    def __neg__(self) -> Quotient:
        return self * -1

    def __sub__(self, other: Quotient | int | Fraction) -> Quotient:
        return self + -quotient(other)

    def __rsub__(self, other: int | Fraction) -> Quotient:
        return quotient(other) + -self

    def __mul__(self, other: Quotient | int | Fraction) -> Quotient:
        other = quotient(other)
        return Quotient(_times(self.above, other.above), _times(self.below, other.below))

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Quotient | int | Fraction) -> Quotient:
        other = quotient(other)
        if not other.above:
            raise ValueError("a denominator is zero")
        return Quotient(_times(self.above, other.below), _times(self.below, other.above))

    def __rtruediv__(self, other: int | Fraction) -> Quotient:
        return quotient(other) / self

    def __pow__(self, power: int) -> Quotient:
        return reduce(mul, [self] * power, quotient(1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quotient):
            return NotImplemented
        return _times(self.above, other.below) == _times(other.above, self.below)

    def along(self, rates: Mapping[str, Quotient | int]) -> Quotient:
        """Return the derivative in t where every named variable moves at its rate, and no other moves.

        >>> x, e = symbol("x"), symbol("e")  # e = exp(x)
        >>> (x * e).along({"x": 1, "e": e}) == (1 + x) * e
        True
        """
        total = quotient(0)
        for name, rate in rates.items():
            above = _plus(
                _times(_slope(self.above, name), self.below),
                _times({(): -1}, _times(self.above, _slope(self.below, name))),
            )
            total = total + rate * Quotient(above, _times(self.below, self.below))
        return total

    def where(self, values: Mapping[str, Quotient | int]) -> Quotient:
        """Return the function with values for some of its variables.

        >>> (symbol("x") / symbol("y")).where({"x": 2, "y": symbol("z")}) == 2 / symbol("z")
        True
        """

        def at(p: Polynomial) -> Quotient:
            total = quotient(0)
            for monomial, c in p.items():
                powers = (quotient(values.get(name, symbol(name))) ** n for name, n in monomial)
                total = total + reduce(mul, powers, quotient(c))
            return total

        return at(self.above) / at(self.below)


def quotient(x: Quotient | int | Fraction) -> Quotient:
    """Return a number as a rational function."""
    if isinstance(x, Quotient):
        return x
    return Quotient({(): x.numerator} if x else {}, {(): x.denominator})


def symbol(name: str) -> Quotient:
    """Return a variable."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,20}", name):
        raise ValueError(f"not a variable's name: {name!r}")
    return Quotient({((name, 1),): 1}, {(): 1})


def expand(tree: Tree) -> Quotient:
    """Multiply out a tree.

    >>> expand(["*", ["+", "a", "b"], ["+", "a", ["*", -1, "b"]]])  # a² - b², over 1
    Quotient(above={(('a', 2),): 1, (('b', 2),): -1}, below={(): 1})

    Raises:
        ValueError: for a tree that is not a rational function, has the denominator zero, or is too large.

    """
    match tree:
        case int() if type(tree) is int:
            return quotient(tree)
        case str():
            return symbol(tree)
        case ["+", *terms] if terms:
            return reduce(add, map(expand, terms))
        case ["*", *factors] if factors:
            return reduce(mul, map(expand, factors))
        case ["/", a, b]:
            return expand(a) / expand(b)
        case ["^", a, power] if type(power) is int and 0 <= power <= 9:
            return expand(a) ** power
    raise ValueError(f"not a rational function: {tree!r}")


def variables(tree: Tree) -> set[str]:
    """Names in a tree.

    >>> sorted(variables(["/", "a", ["+", "b", 1]]))
    ['a', 'b']
    """
    match tree:
        case str():
            return {tree}
        case [_, *arguments]:
            return set().union(*map(variables, arguments)) if arguments else set()
    return set()


def text(tree: Tree) -> str:
    """Return a tree in the usual notation, which can be read in one way only.

    >>> text(["/", ["+", "a", 1], ["^", "b", 2]]), text(["/", 1, ["/", 2, "x"]]), text(["^", -1, 2])
    ('(a + 1)/b^2', '1/(2/x)', '(-1)^2')
    """
    match tree:
        case ["+" | "*" as sign, *terms]:
            return "(" + f" {sign} ".join(map(text, terms)) + ")"
        case ["/", a, b]:
            return f"{_operand(a, '/')}/{_operand(b, '/')}"
        case ["^", a, power]:
            return f"{_operand(a, '/^-')}^{power}"
        case [function, *arguments]:
            return f"{function}({', '.join(map(text, arguments))})" if arguments else str(function)
    return str(tree)


def _operand(tree: Tree, looser: str) -> str:
    """Put a tree in parentheses if what it is made by (a sign of its own, -) binds no closer."""
    made_by = tree[0] if isinstance(tree, list) else text(tree)[0]
    return f"({text(tree)})" if made_by in looser else text(tree)


def at_point(tree: Tree, point: dict[str, Fraction]) -> Fraction:
    """Value of a rational function at a rational point.

    >>> at_point(["/", "a", ["+", "a", 1]], {"a": Fraction(1, 2)})
    Fraction(1, 3)
    """
    match tree:
        case int() if type(tree) is int:
            return Fraction(tree)
        case str():
            return point[tree]
        case ["+", *terms]:
            return sum((at_point(term, point) for term in terms), Fraction())
        case ["*", *factors]:
            return reduce(mul, (at_point(factor, point) for factor in factors), Fraction(1))
        case ["/", a, b]:
            return at_point(a, point) / at_point(b, point)
        case ["^", a, power] if type(power) is int and 0 <= power <= 9:
            return at_point(a, point) ** power
    raise ValueError(f"not a rational function: {tree!r}")


def derivative(tree: Tree) -> Tree:
    """Return the derivative of a function of "x", not simplified.

    >>> text(derivative(["*", "x", ["exp", "x"]]))
    '((1 * exp(x)) + (x * (1 * exp(x))))'
    """
    match tree:
        case int() | ["pi"]:
            return 0
        case "x":
            return 1
        case ["+", *terms]:
            return ["+", *map(derivative, terms)]
        case ["*", a]:
            return derivative(a)
        case ["*", a, *rest]:
            return ["+", ["*", derivative(a), *rest], ["*", a, derivative(["*", *rest])]]
        case ["/", a, b]:
            above = ["+", ["*", derivative(a), b], ["*", -1, a, derivative(b)]]
            return ["/", above, ["*", b, b]]
        case ["exp", a]:
            return ["*", derivative(a), tree]
        case ["erf", a]:
            density = ["/", ["*", 2, ["exp", ["*", -1, a, a]]], ["sqrt", ["pi"]]]
            return ["*", derivative(a), density]
        case ["sqrt", a]:
            return ["/", derivative(a), ["*", 2, tree]]
    raise ValueError(f"not a function of x: {tree!r}")


def over_jet(tree: Tree, x: Jet) -> Jet:
    """Enclosure of a function of the one variable "x", and of its derivative."""
    match tree:
        case int() if type(tree) is int:
            return constant(enclose(tree))
        case "x":
            return x
        case ["pi"]:
            return constant(intervals.pi())
        case ["+", *terms]:
            return reduce(add, (over_jet(term, x) for term in terms))
        case ["*", *factors]:
            return reduce(mul, (over_jet(factor, x) for factor in factors))
        case ["/", a, b]:
            return over_jet(a, x) / over_jet(b, x)
        case ["exp", a]:
            return intervals.jet_exp(over_jet(a, x))
        case ["erf", a]:
            return intervals.jet_erf(over_jet(a, x))
        case ["sqrt", a]:
            return intervals.jet_sqrt(over_jet(a, x))
    raise ValueError(f"not a function of x: {tree!r}")
