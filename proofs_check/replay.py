"""Claims that are decided by computing anew: intervals, identities, evaluations, enumerations."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

from proofs_check import expressions, intervals
from proofs_check.certificate import Refuted, Undecided, among, rational, title, vector
from proofs_check.enumerations import ENUMERATIONS
from proofs_check.evaluations import EVALUATIONS

SPREAD = 1 << 48  # random coordinates are drawn from this many integers
MISSED = Fraction(1, 1 << 40)  # the chance to miss a false identity has to be below this


def interval(data: dict) -> tuple[str, str]:
    """Check an upper bound over the boxes between the breaks, and a point that comes within the gap of it."""
    tree, breaks, bound = data["function"], vector(data["breaks"]), rational(data["bound"])
    point, gap = rational(data["attained"]), rational(data["gap"])

    def f(x: intervals.Jet) -> intervals.Jet:
        return expressions.over_jet(tree, x)

    if not breaks[0] <= point <= breaks[-1]:
        raise Undecided(f"the point {point} lies outside [{breaks[0]}, {breaks[-1]}]")
    statement = f"{expressions.text(tree)} <= {bound} for {breaks[0]} <= x <= {breaks[-1]}"
    there = f(intervals.constant(intervals.enclose(point))).value
    if there.low > bound:
        raise Refuted(f"{statement} fails at x = {point}")
    if there.low < bound - gap:
        raise Undecided(f"the bound is not attained at {point} up to {gap}")
    for low, high in pairwise(breaks):
        if low > high or intervals.bound_above(f, low, high) > bound:
            raise Undecided(f"{statement} is not shown on [{low}, {high}]")
    return f"{statement}, attained up to {gap}", f"{len(breaks) - 1} boxes"


def identity(data: dict) -> tuple[str, str]:
    """Rational functions, expanded exactly; a witness is a rational point where the sides differ."""
    name = title(data["name"])
    for left, right in data["pairs"]:
        if left == right:
            raise Undecided(f"{expressions.text(left)} = {expressions.text(right)} says nothing")
        if not expressions.equal(left, right):
            point, gap = _difference(left, right)
            where = ", ".join(f"{name}={value}" for name, value in point.items())
            raise Refuted(f"the sides of {name} differ by {gap} at {where}")
    if not data["pairs"]:
        raise Undecided("no equality is given")
    equalities = "; ".join(" = ".join(map(expressions.text, pair)) for pair in data["pairs"])
    return f"{name}: {equalities}", f"{len(data['pairs'])} equalities expanded"


def _difference(left: expressions.Tree, right: expressions.Tree) -> tuple[dict[str, Fraction], Fraction]:
    names, rng = sorted(expressions.variables(left) | expressions.variables(right)), random.Random(0)
    for _ in range(99):
        point = {name: Fraction(rng.randrange(1, 99)) for name in names}
        try:
            gap = expressions.at_point(left, point) - expressions.at_point(right, point)
        except ZeroDivisionError:
            continue
        if gap:
            return point, gap
    raise Undecided("the sides are not the same rational function")


def evaluation(data: dict) -> tuple[str, str]:
    """Exact evaluation at random rational points; the chance to miss a false identity is stated."""
    run, sign, missed = EVALUATIONS[data["name"]].sides, among(data["sign"], -1, 1), Fraction(1)
    parameters = {name: among(size, 1, 12) for name, size in data["parameters"].items()}
    for seed in range(among(data["rounds"], 1, 20)):
        rng = random.Random(seed)

        def draw(rows: int, columns: int, rng: random.Random = rng) -> list[list[Fraction]]:
            half = SPREAD // 2
            return [[Fraction(rng.randrange(-half, half)) for _ in range(columns)] for _ in range(rows)]

        pairs, degree = run(draw, sign, **parameters)
        missed *= Fraction(degree, SPREAD)
        for i, (left, right) in enumerate(pairs):
            if left != right:
                raise Refuted(f"equality {i} of {data['name']} fails at the rational point of seed {seed}")
    if missed >= MISSED:
        raise Undecided(f"too few rounds: the chance to miss a false identity may be {missed}")
    return f"{_summary(run)} {parameters}", f"error <= 2^-{int(1 / missed).bit_length() - 1}"


def enumeration(data: dict) -> tuple[str, str]:
    """Every case of a range, exactly."""
    asked, constant, cases = ENUMERATIONS[data["name"]], rational(data["constant"]), 0
    first, last = (among(end, 1, asked.most) for end in data["range"])
    for case, holds in asked.cases(first, last, constant):
        cases += 1
        if holds is None:
            raise Undecided(f"{data['name']} with the constant {constant} is too close to tell at {case}")
        if not holds:
            raise Refuted(f"{data['name']} with the constant {constant} fails at {case}")
    if not cases:
        raise Undecided("the range is empty")
    return f"{_summary(asked.cases)} c = {constant}", f"{first}..{last}, {cases} cases"


def _summary(function: object) -> str:
    return (function.__doc__ or "").splitlines()[0]
