"""Claims that are decided by computing anew: intervals, identities, evaluations, enumerations."""

from __future__ import annotations

import hashlib
import random
from fractions import Fraction
from itertools import count, pairwise

from proofs_check import expressions, intervals
from proofs_check.certificate import Refuted, Undecided, among, digest, integer, items, rational, vector
from proofs_check.enumerations import ENUMERATIONS
from proofs_check.evaluations import EVALUATIONS
from proofs_check.identities import IDENTITIES
from proofs_check.instances import SLOPES

BITS = 48  # random coordinates are drawn from 2^BITS integers
MISSED = Fraction(1, 1 << 40)  # the chance to miss a false identity has to be below this


def interval(name: str, data: dict) -> tuple[str, str]:
    """Check an upper bound over the boxes between the breaks, and a point that comes within the gap of it."""
    slope, breaks, bound = SLOPES[name], vector(data["breaks"]), rational(data["bound"])
    point, gap, tree = rational(data["attained"]), rational(data["gap"]), slope.slope

    def f(x: intervals.Jet) -> intervals.Jet:
        return expressions.over_jet(tree, x)

    if breaks[0] > slope.low or breaks[-1] < slope.high:
        raise Undecided(f"the boxes do not cover [{slope.low}, {slope.high}]")
    if not breaks[0] <= point <= breaks[-1]:
        raise Undecided(f"the point {point} lies outside [{breaks[0]}, {breaks[-1]}]")
    statement = (
        f"the derivative of {expressions.text(slope.function)} is <= {bound} "
        f"for {breaks[0]} <= x <= {breaks[-1]}"
    )
    there = f(intervals.constant(intervals.enclose(point))).value
    if there.low > bound:
        raise Refuted(f"{statement} fails at x = {point}")
    if there.low < bound - gap:
        raise Undecided(f"the bound is not attained at {point} up to {gap}")
    for low, high in pairwise(breaks):
        if low >= high or intervals.bound_above(f, low, high) > bound:
            raise Undecided(f"{statement} is not shown on [{low}, {high}]")
    if bound > slope.bound or gap > slope.gap:
        raise Undecided(f"{statement} is weaker than the claim, {slope.bound} up to {slope.gap}")
    return f"{statement}, attained up to {gap}", f"{len(breaks) - 1} boxes"


def identity(name: str, data: dict) -> tuple[str, str]:
    """Rational functions, expanded exactly; a witness is a rational point where the sides differ."""
    pairs = [items(pair) for pair in items(data["pairs"])]
    rebuilt = IDENTITIES[name]()
    for given in pairs:
        left, right = map(expressions.expand, given)
        if left != right:
            point, gap = _difference(*given)
            where = ", ".join(f"{variable}={value}" for variable, value in point.items())
            raise Refuted(f"the sides that are given for {name} differ by {gap} at {where}")
    if len(pairs) != len(rebuilt):
        raise Undecided(f"{name} is {len(rebuilt)} equalities, not {len(pairs)}")
    for i, (given, sides) in enumerate(zip(pairs, rebuilt, strict=True)):
        if [expressions.expand(side) for side in given] != [*sides]:
            raise Undecided(f"equality {i} is not that of {name}")
    return _summary(IDENTITIES[name]), f"{len(pairs)} equalities of rational functions expanded"


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


def evaluation(name: str, data: dict) -> tuple[str, str]:
    """Exact evaluation at rational points; the chance that a false identity passes is stated.

    The coordinates are read off SHA-256 of the certificate's own data, so that nobody chooses the points.
    """
    asked, sign, missed, seed = EVALUATIONS[name], integer(data["sign"]), Fraction(1), digest(data)
    if sign not in (-1, 1):
        raise Undecided(f"a sign is 1 or -1, not {sign}")
    if {key: integer(size) for key, size in data["parameters"].items()} != asked.sizes:
        raise Undecided(f"{name} is claimed at {asked.sizes}")
    for turn in range(among(data["rounds"], 1, 20)):
        counter = count()

        def draw(rows: int, columns: int, where: str = f"{seed} {turn}", at: count[int] = counter) -> list:
            return [[_coordinate(f"{where} {next(at)}") for _ in range(columns)] for _ in range(rows)]

        pairs, degree = asked.sides(draw, sign, **asked.sizes)
        missed *= Fraction(degree, 1 << BITS)
        for i, (left, right) in enumerate(pairs):
            if left != right:
                raise Refuted(f"equality {i} of {name} fails at the rational point {turn}")
    if sign != 1:
        raise Undecided("the identity is claimed with the sign 1")
    if missed >= MISSED:
        raise Undecided(f"too few rounds: the chance to miss a false identity may be {missed}")
    return f"{_summary(asked.sides)} {asked.sizes}", f"error <= 2^-{int(1 / missed).bit_length() - 1}"


def _coordinate(words: str) -> Fraction:
    drawn = int.from_bytes(hashlib.sha256(words.encode()).digest()) % (1 << BITS)
    return Fraction(drawn - (1 << BITS - 1))


def enumeration(name: str, data: dict) -> tuple[str, str]:
    """Every case of a range, exactly."""
    asked, constant, cases = ENUMERATIONS[name], rational(data["constant"]), 0
    first, last = (among(end, 1, asked.most) for end in items(data["range"]))
    for case, holds in asked.cases(first, last, constant):
        cases += 1
        if holds is None:
            raise Undecided(f"{name} with the constant {constant} is too close to tell at {case}")
        if not holds:
            raise Refuted(f"{name} with the constant {constant} fails at {case}")
    if first > asked.span[0] or last < asked.span[1]:
        raise Undecided(f"the range has to cover {asked.span[0]}..{asked.span[1]}")
    if constant != asked.constant:  # a better one for this range need not be one for all
        raise Undecided(f"the constant {constant} is not that of the theorem, {asked.constant}")
    return f"{_summary(asked.cases)} c = {constant}", f"{first}..{last}, {cases} cases"


def _summary(function: object) -> str:
    return (function.__doc__ or "").splitlines()[0]
