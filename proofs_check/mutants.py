"""Wrong certificates: every constant that is claimed tight made stronger, every identity off by a sign.

Each mutant is sealed anew, so that it is the mathematics that has to reject it and not the digest.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from fractions import Fraction

from proofs_check.assembler import SETTINGS
from proofs_check.certificate import seal
from proofs_check.enumerations import ENUMERATIONS
from proofs_check.expressions import Tree

STEP = Fraction(1, 10**9)


def mutants(certificate: dict) -> Iterator[tuple[str, dict]]:
    """Yield (what was changed, the sealed mutant) for a certificate; none if it claims nothing tight."""
    theorem, kind, data = certificate["theorem"], certificate["kind"], certificate["data"]
    for what, changed in _MUTATIONS[kind](data):
        yield what, seal(theorem, kind, changed)


def _stronger(
    data: dict, key: str, pair: list[int], direction: int, where: int | None = None
) -> tuple[str, dict]:
    value = Fraction(*pair) * (1 + direction * STEP)
    changed = copy.deepcopy(data)
    new = [value.numerator, value.denominator]
    if where is None:
        changed[key] = new
    else:
        changed[key][where] = new
    return f"{key} {Fraction(*pair)} times 1 {'+' if direction > 0 else '-'} 1/10^9", changed


def _performance(data: dict) -> Iterator[tuple[str, dict]]:
    direction = -1 if SETTINGS[data["setting"]].upper else 1
    for i, pair in enumerate(data["rates"] if data["tight"] else []):
        yield _stronger(data, "rates", pair, direction, i)


def _constant(key: str) -> object:
    def mutate(data: dict) -> Iterator[tuple[str, dict]]:
        if data.get("tight", 1):
            yield _stronger(data, key, data[key], -1)

    return mutate


def _enumeration(data: dict) -> Iterator[tuple[str, dict]]:
    asked = ENUMERATIONS[data["name"]]
    if asked.tight:
        yield _stronger(data, "constant", data["constant"], asked.stronger)


def _evaluation(data: dict) -> Iterator[tuple[str, dict]]:
    yield "one sign", data | {"sign": -data["sign"]}


def _identity(data: dict) -> Iterator[tuple[str, dict]]:
    for i, pair in enumerate(data["pairs"]):
        for side in (0, 1):
            for flipped in _flips(pair[side]):
                changed = copy.deepcopy(data)
                changed["pairs"][i][side] = flipped
                yield f"a sign in equality {i}, side {side}", changed


def _flips(tree: Tree) -> Iterator[Tree]:
    """Yield the trees with the sign of one term of one sum changed; the whole where there is no sum."""
    found = list(_terms(tree))
    yield from found or ([["*", -1, tree]] if tree else [])


def _terms(tree: Tree) -> Iterator[Tree]:
    if not isinstance(tree, list):
        return
    head, *arguments = tree
    for i, argument in enumerate(arguments):
        if head == "+":
            yield [head, *arguments[:i], ["*", -1, argument], *arguments[i + 1 :]]
        for inner in _terms(argument):
            yield [head, *arguments[:i], inner, *arguments[i + 1 :]]


_MUTATIONS = {
    "performance": _performance,
    "lipschitz": _constant("bound"),
    "contraction": _constant("rate"),
    "interval": _constant("bound"),
    "enumeration": _enumeration,
    "evaluation": _evaluation,
    "identity": _identity,
}
