"""Random A of LoRA whose moments are known without rounding: independent entries of three values.

An entry is 0, or ±1/√q with probability q: mean 0, variance 1, fourth moment 1/q. Signs have q = 1, and
q = 1/3 has the moments of a Gaussian up to the fifth. Means are sums over all cases.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from deltatheory.theorems.exact import eye, one_like
from deltatheory.theorems.instances import Instance, Sampler, with_entries
from deltatheory.theorems.theorem import Hypothesis

__all__ = ["ENTRIES", "SHEARED", "independent", "mean"]

ENTRIES = {
    "r": "rank",
    "q": "probability that an entry of A is not 0; its fourth moment is 1/q",
    "C": "what mixes the entries of a row of A, (n, n)",
}
SHEARED = np.array([[1, 1], [0, 1]], dtype=object)


@cache
def _cases(r: int, n: int) -> list[tuple[int, np.ndarray]]:
    """Return how many entries of A are not 0, and A √q, for all cases."""
    cases = product((-1, 0, 1), repeat=r * n)
    return [(sum(map(abs, entries)), np.array(entries, dtype=int).reshape(r, n)) for entries in cases]


def mean(x: Instance, function: Callable[[np.ndarray], Any]) -> Any:
    """Return the mean of a function of AᵀA, which has a value for every case of A."""
    q, n, total = x["q"], len(x["C"]), 0
    for some, A in _cases(x["r"], n):
        chance = (q / 2) ** some * (1 - q) ** (x["r"] * n - some)
        if chance != 0:
            A = A @ x["C"]
            total = total + chance * function(A.T @ A / (q * one_like(q)))
    return total


def independent(violating: Sampler) -> Hypothesis:
    """Return that the entries of A are independent; two rows and columns of the violator are sheared."""
    return Hypothesis(
        "independent entries",
        "the entries of $A$ are independent, with mean 0 and variance 1",
        lambda x: bool(np.all(x["C"] == eye(len(x["C"])))),
        with_entries(violating, C=lambda x: SHEARED * one_like(x["q"])),
    )
