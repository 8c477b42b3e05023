"""Theorems as objects: hypotheses that can be dropped, bounds that compute, exact checks, honest statuses.

`THEOREMS` holds them by id; `get_theorem("T04a").check(instance)` evaluates one on an instance. A new one is
an entry of a family's module, or a module and its line in `FAMILIES`; the tests find it in `THEOREMS`.
"""

from importlib import import_module

from deltatheory.theorems.evidence import Evidence, ProofStatus
from deltatheory.theorems.theorem import (
    THEOREMS,
    Bound,
    Check,
    Hypothesis,
    Mutant,
    Sides,
    Theorem,
    get_theorem,
    theorems_of,
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
    "theorems_of",
]

# The modules of each family; a module registers its theorems where it is imported, below.
FAMILIES = {
    "subspace optimization": (
        "subspace_inheritance",
        "subspace_gap",
        "subspace_descent",
        "subspace_rates",
        "random_subspaces",
        "random_embeddings",
        "solution_space",
        "exact_gap",
    ),
    "expressivity": (
        "low_rank",
        "linear_networks",
        "adapters",
        "attention",
        "prefix_capacity",
        "parametrizations",
    ),
    "training of LoRA": (
        "factored_losses",
        "lora_descent",
        "first_step",
        "lora_rates",
        "lora_scale",
        "lora_kernel",
    ),
    "optimal control": (
        "optimal_control",
        "successive_approximations",
        "linear_quadratic",
        "reachability",
        "contraction",
        "closed_loop",
        "layer_choice",
    ),
    "Lipschitz facts": ("lipschitz", "lipschitz_attention", "lipschitz_networks"),
    "generalization": ("generalization",),
}
for _family in FAMILIES.values():
    for _module in _family:
        import_module(f"{__name__}.{_module}")
