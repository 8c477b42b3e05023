"""Expressions as JSON trees: expanded as rational functions, at a rational point, or over intervals.

A tree is an integer, a variable's name, or a list: ["+", a, b, ...], ["*", a, b, ...], ["/", a, b],
["^", a, n] with an integer n from 0 to 9; over intervals ["exp", a], ["erf", a], ["sqrt", a] and ["pi"].
"""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from operator import add, mul

from proofs_check import intervals
from proofs_check.intervals import Jet, constant, enclose

Tree = int | str | list
Polynomial = dict[tuple[tuple[str, int], ...], int]  # sorted (variable, power > 0) -> coefficient, no zeros


def _plus(p: Polynomial, q: Polynomial) -> Polynomial:
    total = dict(p)
    for monomial, c in q.items():
        total[monomial] = total.get(monomial, 0) + c
    return {monomial: c for monomial, c in total.items() if c}


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for a, x in p.items():
        for b, y in q.items():
            powers = dict(a)
            for name, power in b:
                powers[name] = powers.get(name, 0) + power
            key = tuple(sorted(powers.items()))
            total[key] = total.get(key, 0) + x * y
    return {monomial: c for monomial, c in total.items() if c}


def expand(tree: Tree) -> tuple[Polynomial, Polynomial]:
    """Numerator and denominator (not reduced) of a rational function.

    >>> expand(["*", ["+", "a", "b"], ["+", "a", ["*", -1, "b"]]])  # a² - b², over 1
    ({(('a', 2),): 1, (('b', 2),): -1}, {(): 1})

    Raises:
        ValueError: for a tree that is not a rational function, or with the denominator zero.

    """
    match tree:
        case bool():
            raise ValueError(f"not an expression: {tree!r}")
        case int():
            return ({(): tree} if tree else {}), {(): 1}
        case str():
            return {((tree, 1),): 1}, {(): 1}
        case ["+", *terms] if terms:
            total = expand(terms[0])
            for n, d in map(expand, terms[1:]):
                if d == total[1]:
                    total = _plus(total[0], n), d
                else:
                    total = _plus(_times(total[0], d), _times(n, total[1])), _times(total[1], d)
            return total
        case ["*", *factors] if factors:
            parts = [expand(factor) for factor in factors]
            return reduce(_times, [n for n, _ in parts]), reduce(_times, [d for _, d in parts])
        case ["/", a, b]:
            (n, d), (p, q) = expand(a), expand(b)
            if not p:
                raise ValueError("a denominator is zero")
            return _times(n, q), _times(d, p)
        case ["^", a, int(power)] if 0 <= power <= 9:
            return expand(["*", 1, *[a] * power])
    raise ValueError(f"not a rational function: {tree!r}")


def equal(left: Tree, right: Tree) -> bool:
    """Are two rational functions the same? Both are expanded and multiplied out.

    >>> equal(["^", ["+", "a", 1], 2], ["+", ["^", "a", 2], ["*", 2, "a"], 1])
    True
    """
    (n, d), (p, q) = expand(left), expand(right)
    return _times(n, q) == _times(p, d)


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
    """Return a tree in the usual notation.

    >>> text(["/", ["+", "a", 1], ["^", "b", 2]])
    '(a + 1)/b^2'
    """
    match tree:
        case ["+" | "*" as sign, *terms]:
            return "(" + f" {sign} ".join(map(text, terms)) + ")"
        case ["/" | "^" as sign, a, b]:
            return f"{text(a)}{sign}{text(b)}"
        case [function, *arguments]:
            return f"{function}({', '.join(map(text, arguments))})" if arguments else str(function)
    return str(tree)


def at_point(tree: Tree, point: dict[str, Fraction]) -> Fraction:
    """Value of a rational function at a rational point.

    >>> at_point(["/", "a", ["+", "a", 1]], {"a": Fraction(1, 2)})
    Fraction(1, 3)
    """
    match tree:
        case int():
            return Fraction(tree)
        case str():
            return point[tree]
        case ["+", *terms]:
            return sum((at_point(term, point) for term in terms), Fraction())
        case ["*", *factors]:
            return reduce(mul, (at_point(factor, point) for factor in factors), Fraction(1))
        case ["/", a, b]:
            return at_point(a, point) / at_point(b, point)
        case ["^", a, int(power)]:
            return at_point(a, point) ** power
    raise ValueError(f"not a rational function: {tree!r}")


def over_jet(tree: Tree, x: Jet) -> Jet:
    """Enclosure of a function of the one variable "x", and of its derivative."""
    match tree:
        case bool():
            raise ValueError(f"not an expression: {tree!r}")
        case int():
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
