"""Certificates that only name a computation and its range: enumerations and exact random evaluations."""

from __future__ import annotations

from proofs_check.enumerations import ENUMERATIONS
from proofs_check.evaluations import EVALUATIONS
from proofs_check.prove import Found

ROUNDS = 3


def computations(theorem: str) -> Found:
    """Name the computations of a theorem; the verifier does them."""
    for name, enumeration in ENUMERATIONS.items():
        if enumeration.theorem == theorem:
            asked = {"range": [*enumeration.span], "constant": [enumeration.constant, 1]}
            yield "enumeration", "enumeration", [{"name": name, **asked}]
    for name, evaluation in EVALUATIONS.items():
        if evaluation.theorem == theorem:
            asked = {"parameters": evaluation.sizes, "sign": 1, "rounds": ROUNDS}
            yield "evaluation", "evaluation", [{"name": name, **asked}]
