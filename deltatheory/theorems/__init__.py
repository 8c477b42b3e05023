"""Theorems as objects: hypotheses that can be dropped, bounds that compute, exact checks, honest statuses.

`THEOREMS` holds them by id; `get_theorem("T04a").check(instance)` evaluates one on an instance.
"""

from deltatheory.theorems import (
    adapters,
    linear_networks,
    low_rank,
    random_subspaces,
    subspace_descent,
    subspace_optimization,
)
from deltatheory.theorems.theorem import (
    THEOREMS,
    Bound,
    Check,
    Evidence,
    Hypothesis,
    Mutant,
    Sides,
    Status,
    Theorem,
    get_theorem,
)

__all__ = [
    "FAMILIES",
    "THEOREMS",
    "Bound",
    "Check",
    "Evidence",
    "Hypothesis",
    "Mutant",
    "Sides",
    "Status",
    "Theorem",
    "get_theorem",
]

# Modules by family; importing them registers their theorems.
FAMILIES = {
    "subspace optimization": (subspace_optimization, subspace_descent, random_subspaces),
    "expressivity": (low_rank, linear_networks, adapters),
}
