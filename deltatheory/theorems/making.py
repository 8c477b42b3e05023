"""What the families share: statuses, scaled mutants, identity tests, edited instances."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.exact import exactly, fractions
from deltatheory.theorems.theorem import Evidence, Instance, Mutant, ProofStatus

__all__ = [
    "FAMILY",
    "JUST_BELOW_ONE",
    "edited",
    "identity_check",
    "identity_status",
    "passes",
    "scaled",
    "searched",
    "square",
]

SEARCHED = 100  # exact instances behind a status searched(n)
JUST_BELOW_ONE = 1 - Fraction(1, 10**9)  # what a constant that is claimed tight is weakened by
FAMILY = 1 << 40  # numbers that an identity test draws each entry from

Maker = Callable[[int], Instance]
SidesFunction = Callable[[Instance], tuple[Any, Any]]


def square(x: np.ndarray) -> Any:
    """Return ‖x‖², of a matrix in the Frobenius norm."""
    return (x * x).sum()


def edited(make: Maker, **changes: Any) -> Maker:
    """Return a maker of instances with some entries replaced; a callable is given the instance."""

    def maker(seed: int) -> Instance:
        instance = make(seed)
        return instance | {k: v(instance) if callable(v) else v for k, v in changes.items()}

    return maker


def scaled(sides: SidesFunction, factor: Any, instance: Maker) -> Mutant:
    """Return the mutant with the right side times a factor, and where it fails."""

    def mutant(x: Instance) -> tuple[Any, Any]:
        left, right = sides(x)
        return left, right * factor

    return Mutant(f"right side times {float(factor)!r}", mutant, instance)


def searched(close: int = 0) -> ProofStatus:
    """Return the status of a bound with a short proof, evaluated exactly on sampled instances.

    Args:
        close: on how many of them the sides are equal, or too near for the intervals to tell.
    """
    rest = f", {close} too close to tell" if close else ""
    return ProofStatus(Evidence.SEARCHED, f"{SEARCHED} exact instances{rest}")


def certified(detail: str) -> ProofStatus:
    """Return the status of a bound with a stored certificate in integers (`proofs_check`)."""
    return ProofStatus(Evidence.PROVED_EXACT, detail)


def expanded(detail: str) -> ProofStatus:
    """Return the status of an identity with a stored symbolic proof (`proofs_check`)."""
    return ProofStatus(Evidence.PROVED_IDENTITY, detail)


def passes(sides: SidesFunction, makers: Maker, count: int) -> bool:
    """Return whether the two sides of an identity agree, without rounding, on `count` instances."""
    for seed in range(count):
        left, right = sides(makers(seed))
        if np.any(np.asarray(left != right)):
            return False
    return True


def identity_status(degree: int, trials: int = 2) -> ProofStatus:
    """Return the status of an identity that agreed at random points, by Schwartz and Zippel.

    A nonzero polynomial of total degree k vanishes at a point drawn from Sⁿ with probability at most k/|S|.
    The identities here are of rational functions: k bounds the degree of the difference with cleared
    denominators, plus that of the denominators.
    """
    bits = trials * (FAMILY.bit_length() - 1 - degree.bit_length())
    return ProofStatus(Evidence.IDENTITY_TESTED, f"error probability <= 2^-{bits}")


def wide(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return integers drawn evenly from `FAMILY` values, as fractions: the points of an identity test."""
    return exactly(rng.integers(-FAMILY // 2, FAMILY // 2, shape))


def identity_check(sides: SidesFunction, draw: Maker, trials: int = 2) -> Callable[[], bool]:
    """Return the check behind `identity_status`: the identity at `trials` points with wide entries."""
    return lambda: passes(sides, draw, trials)


def drawing(seed: int, large: bool) -> Callable[..., np.ndarray]:
    """Return a source of random arrays: small fractions, none of them 0, or wide ones."""
    rng = np.random.default_rng(seed)
    if large:
        return lambda *shape: wide(rng, *shape)
    return lambda *shape: fractions(rng, *shape, top=3, bottom=2) + Fraction(1, 5)
