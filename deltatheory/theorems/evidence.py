"""How a theorem was checked by machine: statuses that are never merged, and the test behind one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from deltatheory.theorems.instances import SAMPLE_SET, Instance, Sampler

__all__ = ["SEARCHED_INSTANCES", "Evidence", "ProofStatus", "agree_exactly", "holds_on", "identity_test"]

SEARCHED_INSTANCES = 100  # behind a status searched(...)
_TRIALS = 2  # points of an identity test


class Evidence(StrEnum):
    """How a theorem was checked by machine; never merged."""

    PROVED_EXACT = "proved_exact"  # a certificate in integers, re-verified without tolerance
    PROVED_IDENTITY = "proved_identity"  # expanded symbolically
    IDENTITY_TESTED = "identity_tested"  # at random rational points, with an error probability
    ENUMERATED = "enumerated"  # every case of a finite range
    SEARCHED = "searched"  # adversarial instances; says nothing of the rest
    RECALLED = "recalled"  # from the literature, not checked


@dataclass(frozen=True)
class ProofStatus:
    """How a theorem was checked, and how far.

    Attributes:
        evidence: the way.
        detail: the error probability, the range, or the number of instances.
    """

    evidence: Evidence
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.evidence}({self.detail})" if self.detail else str(self.evidence)

    @classmethod
    def certified(cls, detail: str) -> ProofStatus:
        """Return the status of a bound with a stored certificate in integers (`proofs_check`)."""
        return cls(Evidence.PROVED_EXACT, detail)

    @classmethod
    def expanded(cls, detail: str) -> ProofStatus:
        """Return the status of an identity with a stored symbolic proof (`proofs_check`)."""
        return cls(Evidence.PROVED_IDENTITY, detail)

    @classmethod
    def identity_tested(cls, degree: int) -> ProofStatus:
        """Return the status of an identity that agreed at random points, by Schwartz and Zippel.

        A nonzero polynomial of total degree k vanishes at a point drawn from Sⁿ with probability at most
        k/|S| (Schwartz, 1980; Zippel, 1979). The identities here are of rational functions: k bounds the
        degree of the difference with cleared denominators, plus that of the denominators.

        >>> print(ProofStatus.identity_tested(12))
        identity_tested(error probability <= 2^-72)
        """
        bits = _TRIALS * (SAMPLE_SET.bit_length() - 1 - degree.bit_length())
        return cls(Evidence.IDENTITY_TESTED, f"error probability <= 2^-{bits}")

    @classmethod
    def enumerated(cls, cases: str) -> ProofStatus:
        """Return the status of a bound of which every case of a finite range was checked exactly."""
        return cls(Evidence.ENUMERATED, cases)

    @classmethod
    def searched(cls, close: int = 0) -> ProofStatus:
        """Return the status of a bound with a short proof, evaluated exactly on sampled instances.

        Args:
            close: on how many of them the sides are equal, or too near for the intervals to tell.

        >>> print(ProofStatus.searched(8))
        searched(100 exact instances, 8 too close to tell)
        """
        rest = f", {close} too close to tell" if close else ""
        return cls(Evidence.SEARCHED, f"{SEARCHED_INSTANCES} exact instances{rest}")

    @classmethod
    def recalled(cls, detail: str) -> ProofStatus:
        """Return the status of a bound from the literature, with what was looked at of it."""
        return cls(Evidence.RECALLED, detail)


def holds_on(sides: Callable[[Instance], tuple[Any, Any]], instances: Iterable[Instance]) -> bool:
    """Return whether left <= right, without rounding, on all of these instances: an enumeration.

    >>> holds_on(lambda x: (x["n"], x["n"] ** 2), [{"n": n} for n in range(1, 4)])
    True
    """
    return all(left <= right for left, right in map(sides, instances))


def agree_exactly(sides: Callable[[Instance], tuple[Any, Any]], sampler: Sampler, count: int) -> bool:
    """Return whether the two sides of an identity agree, without rounding, on `count` instances."""
    for seed in range(count):
        left, right = sides(sampler(seed))
        if np.any(np.asarray(left != right)):
            return False
    return True


def identity_test(
    sides: Callable[[Instance], tuple[Any, Any]], sampler: Callable[..., Instance]
) -> Callable[[], bool]:
    """Return the test behind `ProofStatus.identity_tested`.

    Args:
        sides: of the identity.
        sampler: makes an instance from a seed, with wide integers for `wide=True`.
    """
    return lambda: agree_exactly(sides, lambda seed: sampler(seed, wide=True), _TRIALS)
