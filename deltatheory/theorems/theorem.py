"""What a bound and a theorem are: hypotheses that can be dropped, two sides, and how they were checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from string import ascii_lowercase
from typing import Any, Literal, NamedTuple

import numpy as np

from deltatheory.theorems.evidence import Evidence, ProofStatus
from deltatheory.theorems.exact import as_float
from deltatheory.theorems.instances import Instance, Sampler
from deltatheory.theorems.intervals import RationalInterval

__all__ = [
    "JUST_BELOW_ONE",
    "THEOREMS",
    "Bound",
    "Check",
    "Evidence",
    "Hypothesis",
    "Mutant",
    "ProofStatus",
    "Sides",
    "Theorem",
    "get_theorem",
    "register",
    "theorems_of",
]

Kind = Literal["upper", "lower", "identity", "tight"]

JUST_BELOW_ONE = 1 - Fraction(1, 10**9)  # what a constant that is claimed tight is weakened by
TOLERANCE = 1e-9  # of checks in floats, relative and absolute; exact checks have none


class Sides(NamedTuple):
    """Left and right side of a bound on one instance: numbers, or arrays of one shape."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Hypothesis:
    """A hypothesis as data.

    Attributes:
        name: short.
        statement: in words or LaTeX.
        predicate: whether an instance satisfies it.
        violator: makes, from a seed, an instance that breaks this hypothesis only, and the bound with it.
    """

    name: str
    statement: str
    predicate: Callable[[Instance], bool]
    violator: Sampler


@dataclass(frozen=True)
class Mutant:
    """A deliberately wrong variant of a bound, which its check must reject.

    Attributes:
        description: what is wrong.
        sides: the variant.
        instance: makes, from a seed, an instance that satisfies all hypotheses and refutes it.
    """

    description: str
    sides: Callable[[Instance], tuple[Any, Any]]
    instance: Sampler

    @classmethod
    def scaled(cls, sides: Callable[[Instance], tuple[Any, Any]], factor: Any, instance: Sampler) -> Mutant:
        """Return the mutant with the right side times a factor."""

        def mutated(x: Instance) -> tuple[Any, Any]:
            left, right = sides(x)
            return left, right * factor

        return cls(f"right side times {float(factor)!r}", mutated, instance)


@dataclass(frozen=True)
class Check:
    """A bound on one instance.

    Attributes:
        name: of the bound; a theorem's with its id.
        status: how the theorem was checked in general; `None` for a bound of one's own.
        kind: which relation is claimed.
        left, right: the sides where the bound is tightest, or most violated.
        violation: by how much it fails; at most 0 where it holds.
        ratio: of the smaller to the larger side as claimed: 1 is tight, above 1 is violated.
        holds: `None` where interval arithmetic could not decide.
        exact: decided without rounding.
        unmet: names of the hypotheses that the instance breaks.
    """

    name: str
    status: ProofStatus | None
    kind: Kind
    left: float
    right: float
    violation: float
    ratio: float
    holds: bool | None
    exact: bool
    unmet: tuple[str, ...]

    def __str__(self) -> str:
        sign = {"upper": "<=", "tight": "<=", "lower": ">=", "identity": "=="}[self.kind]
        verdict = {True: "holds", False: "VIOLATED", None: "undecided"}[self.holds]
        how = "exactly" if self.exact else "in floats"
        status = f" [{self.status}]" if self.status else ""
        unmet = f"; unmet: {', '.join(self.unmet)}" if self.unmet else ""
        return f"{self.name}{status}: {self.left:.6g} {sign} {self.right:.6g}, {verdict} {how}{unmet}"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An inequality or identity about instances, with a source of instances.

    Attributes:
        name: short.
        sides: left and right side of an instance, in whatever numbers it holds.
        sampler: makes, from a seed, an instance that satisfies all hypotheses.
        kind: "upper" (left <= right), "tight" (upper, and attained), "lower" (left >= right), "identity".
        hypotheses: what is assumed.
        rational: whether `sides` runs on fractions.
        entries: what an instance holds: name and meaning of all that `sides` and the hypotheses read.
        atol: in floats the sides may be off by so much,
        rtol: and by this share of the larger one.
    """

    name: str
    sides: Callable[[Instance], tuple[Any, Any]]
    sampler: Sampler
    kind: Kind = "upper"
    hypotheses: tuple[Hypothesis, ...] = ()
    rational: bool = True
    entries: Mapping[str, str] = field(default_factory=dict, repr=False)
    atol: float = TOLERANCE
    rtol: float = TOLERANCE

    @property
    def label(self) -> str:
        """What a check calls it."""
        return self.name

    def bound(self, instance: Instance) -> Sides:
        """Return both sides in floats.

        Raises:
            ValueError: if they are not numbers, or not of one shape.
        """
        return self._sides(as_float(instance))

    def exact_bound(self, instance: Instance) -> Sides:
        """Return both sides in fractions, or in intervals with rational ends.

        Raises:
            ValueError: if the bound does not run on fractions, and as `bound`.
        """
        if not self.rational:
            raise ValueError(f"{self.label}: this bound has no exact form; use check(instance).")
        sides = self._sides(instance)
        for side in (*np.ravel(sides.left), *np.ravel(sides.right)):
            if not isinstance(side, (int, Fraction, RationalInterval, np.integer)):
                raise ValueError(
                    f"{self.label}: {side!r} is no exact number; give the instance in fractions."
                )
        return sides

    def unmet(self, instance: Instance) -> tuple[str, ...]:
        """Return the names of the hypotheses that an instance breaks.

        Raises:
            ValueError: if the instance lacks an entry.
        """
        return tuple(h.name for h in self.hypotheses if not self._read(h.predicate, instance))

    def check(self, instance: Instance, *, exact: bool = False) -> Check:
        """Evaluate the bound on one instance.

        Args:
            instance: with the `entries` of the bound; others are passed over.
            exact: decide in rational or interval arithmetic instead of floats.

        Raises:
            ValueError: as `bound` and `exact_bound`.
        """
        sides = self.exact_bound(instance) if exact else self.bound(instance)
        return self.compare(sides, exact=exact, unmet=self.unmet(instance))

    def _read(self, function: Callable[[Instance], Any], instance: Instance) -> Any:
        try:
            return function(instance)
        except KeyError as error:
            name = error.args[0]
            if name in instance or name not in self.entries:
                raise
            raise ValueError(
                f"{self.label}: the instance has no {name!r} ({self.entries[name]}); "
                f"it needs {', '.join(self.entries)}."
            ) from error

    def _sides(self, instance: Instance) -> Sides:
        sides = self._read(self.sides, instance)
        if not isinstance(sides, tuple) or len(sides) != 2:
            raise ValueError(f"{self.label}: returned {sides!r:.60}; it must be a pair (left, right).")
        left, right = sides
        if np.shape(left) != np.shape(right):
            raise ValueError(
                f"{self.label}: the sides have shapes {np.shape(left)} and {np.shape(right)}; "
                "they must have one shape."
            )
        for name, side in (("left", left), ("right", right)):
            for value in np.ravel(side):
                if value is None or value != value:
                    raise ValueError(f"{self.label}: the {name} side is {value}; it must be a number.")
        return Sides(left, right)

    def compare(
        self, sides: Sides, *, exact: bool = False, unmet: tuple[str, ...] = (), rounding: float = 0.0
    ) -> Check:
        """Return the check of two sides that were evaluated, or measured, before.

        Args:
            sides: of one shape.
            exact: decide without a tolerance.
            unmet: names of hypotheses that the instance breaks.
            rounding: by how much the sides may be off where they were measured in less than float64.
        """
        pairs = list(zip(np.ravel(sides.left), np.ravel(sides.right), strict=True))
        verdicts = [_holds(self.kind, a, b, None if exact else self._room(a, b, rounding)) for a, b in pairs]
        holds = False if False in verdicts else None if None in verdicts else True
        floats = [(float(a), float(b)) for a, b in pairs]
        a, b = max(floats, key=lambda pair: _violation(self.kind, *pair))
        ratio = max(_ratio(self.kind, *pair, self._room(*pair, rounding)) for pair in floats)
        violation = _violation(self.kind, a, b)
        status = getattr(self, "status", None)
        return Check(self.label, status, self.kind, a, b, violation, ratio, holds, exact, unmet)

    def _room(self, a: Any, b: Any, rounding: float) -> float:
        size = max(abs(a), abs(b))
        return max(self.atol + (self.rtol * size if math.isfinite(size) else 0.0), rounding)


@dataclass(frozen=True, kw_only=True)
class Theorem(Bound):
    """A statement with its hypotheses, its bound, and how it was checked.

    Attributes:
        id: "T02"; the parts of a statement are "T04a", "T04b".
        latex: the statement.
        words: the statement in plain words.
        proof: a sketch.
        source: author, year, and what of it.
        status: how it was checked.
        mutant: a wrong variant that the check rejects.
        certificates: claims of `proofs_check` that are the statement, a step, an instance or a range of it.
        extremal: makes an instance where equality holds, or nearly; `None` where none is known.
        closest: makes, for a bound that is loose by nature, an instance where it is least so.
        reach: the ratio of the sides there; 1 where equality holds.
        exact_check: runs the identity test or the enumeration of `status`; returns whether it passed.
    """

    id: str
    latex: str
    words: str
    proof: str
    source: str
    status: ProofStatus
    mutant: Mutant
    certificates: tuple[str, ...] = ()
    entries: Mapping[str, str] = field(repr=False)  # not optional, as it is for a bound of one's own
    extremal: Sampler | None = None
    closest: Sampler | None = None
    reach: float = 1.0
    exact_check: Callable[[], bool] | None = field(default=None, repr=False)

    @property
    def statement(self) -> str:
        """Id of the statement that this is a part of: "T04" of "T04a"."""
        return self.id.rstrip(ascii_lowercase)

    @property
    def label(self) -> str:
        """Id and name."""
        return f"{self.id} {self.name}"

    def __str__(self) -> str:
        return f"{self.label} [{self.status}]: {self.words}"


def _holds(kind: Kind, a: Any, b: Any, room: float | None) -> bool | None:
    """Return whether a relation holds, up to `room`; exactly for `None`."""
    if kind == "lower":
        return _holds("upper", b, a, room)
    if room is not None:
        return bool(abs(a - b) <= room if kind == "identity" else a <= b + room)
    # Fractions are compared as they are: an interval would round their ends.
    (low, high), (floor, ceiling) = _ends(a), _ends(b)
    if kind == "identity":
        if low > ceiling or floor > high:
            return False
        return True if low == high == floor == ceiling else None
    return True if high <= floor else False if low > ceiling else None


def _ends(x: Any) -> tuple[Any, Any]:
    return (x.low, x.high) if isinstance(x, RationalInterval) else (x, x)


def _violation(kind: Kind, a: float, b: float) -> float:
    return abs(a - b) if kind == "identity" else b - a if kind == "lower" else a - b


def _ratio(kind: Kind, a: float, b: float, room: float) -> float:
    small, large = (b, a) if kind == "lower" else (a, b)
    if kind == "identity":
        if _holds(kind, a, b, room):
            return 1.0
        large, small = sorted((abs(a), abs(b)))
    if small == large:
        return 1.0
    if large < 0 and small < 0:
        small, large = -large, -small
    if large <= 0:
        return float("inf") if small > room else 1.0 if small >= 0 else 0.0
    return max(0.0, small / large)


THEOREMS: dict[str, Theorem] = {}


def register(theorem: Theorem) -> Theorem:
    """Add a theorem to `THEOREMS`.

    Raises:
        ValueError: if the id is taken.
    """
    if theorem.id in THEOREMS:
        raise ValueError(f"id={theorem.id!r}: already taken by {THEOREMS[theorem.id].name!r}.")
    THEOREMS[theorem.id] = theorem
    return theorem


def get_theorem(id: str) -> Theorem:
    """Return a theorem by its id.

    >>> theorem = get_theorem("T15")
    >>> theorem.check(theorem.sampler(0), exact=True).holds
    True

    Raises:
        ValueError: for an unknown id; the message names the nearest.
    """
    if id not in THEOREMS:
        near = difflib.get_close_matches(id, THEOREMS, n=3, cutoff=0.4) or list(THEOREMS)[:3]
        raise ValueError(f"id={id!r}: no such theorem; did you mean {', '.join(near)}? See THEOREMS.")
    return THEOREMS[id]


def theorems_of(id: str) -> list[Theorem]:
    """Return the theorem of an id, or the parts of a statement: of T04 those are T04a and T04b.

    Raises:
        ValueError: as `get_theorem`.
    """
    parts = [theorem for theorem in THEOREMS.values() if theorem.statement == id]
    return parts if id not in THEOREMS and parts else [get_theorem(id)]
