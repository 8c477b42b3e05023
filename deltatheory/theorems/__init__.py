"""Theorems as objects: hypotheses that can be dropped, bounds that compute, exact checks, honest statuses.

`THEOREMS` holds them by id; `get_theorem("T04a").check(instance)` evaluates one on an instance.
"""

from deltatheory.theorems import (
    adapters,
    attention,
    generalization,
    layer_choice,
    linear_networks,
    linear_quadratic,
    lipschitz,
    lipschitz_attention,
    lipschitz_networks,
    low_rank,
    optimal_control,
    parametrizations,
    random_embeddings,
    random_subspaces,
    reachability,
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
    ProofStatus,
    Sides,
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
    "ProofStatus",
    "Sides",
    "Theorem",
    "get_theorem",
]

# Modules by family; importing them registers their theorems.
FAMILIES = {
    "subspace optimization": (subspace_optimization, subspace_descent, random_subspaces, random_embeddings),
    "expressivity": (low_rank, linear_networks, adapters, attention, parametrizations),
    "optimal control": (optimal_control, linear_quadratic, reachability, layer_choice),
    "Lipschitz facts": (lipschitz, lipschitz_attention, lipschitz_networks),
    "generalization": (generalization,),
}
