"""Property tests for anyone's bounds: domains, `check`, `falsify`, `write_tests`.

On networks: `deltatheory.testing.on_models.check_on_model` measures theorems on a problem, and
`deltatheory.testing.tiny` makes tiny random problems to test on.
"""

from deltatheory.testing.domains import (
    Domain,
    attention_heads,
    combine,
    dimensions,
    integers,
    losses,
    ltv_systems,
    matrices,
    pencils,
    projectors,
    psd_matrices,
    quadratics,
    vectors,
)
from deltatheory.testing.falsify import Claim, Falsification, PropertyReport, check, claim, falsify
from deltatheory.testing.writing import write_tests

__all__ = [
    "Claim",
    "Domain",
    "Falsification",
    "PropertyReport",
    "attention_heads",
    "check",
    "claim",
    "combine",
    "dimensions",
    "falsify",
    "integers",
    "losses",
    "ltv_systems",
    "matrices",
    "pencils",
    "projectors",
    "psd_matrices",
    "quadratics",
    "vectors",
    "write_tests",
]
