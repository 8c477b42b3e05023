"""Certificates that only name a computation and its range: enumerations and exact random evaluations."""

from __future__ import annotations

from proofs_check.claims import CLAIMS
from proofs_check.enumerations import ENUMERATIONS
from proofs_check.evaluations import EVALUATIONS
from proofs_check.prove import Found

ROUNDS = 3


def computations(theorem: str) -> Found:
    """Name the computations of a theorem; the verifier does them."""
    for claim in CLAIMS.values():
        if claim.theorem == theorem and claim.kind == "enumeration":
            enumeration = ENUMERATIONS[claim.name]
            asked = {"range": [*enumeration.span], "constant": [enumeration.constant, 1]}
            yield "enumeration", "enumeration", [{"name": claim.name, **asked}]
        if claim.theorem == theorem and claim.kind == "evaluation":
            asked = {"parameters": EVALUATIONS[claim.name].sizes, "sign": 1, "rounds": ROUNDS}
            yield "evaluation", "evaluation", [{"name": claim.name, **asked}]
