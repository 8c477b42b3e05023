"""Every delta that can be cut at the layers, as a controlled system."""

from __future__ import annotations

from functools import cache

import torch
from tiny_problems import toy_problem

from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.deltas import DELTAS

# Every delta but ladder side-tuning, which keeps a state of its own across blocks.
CASES = {
    "subspace": {"d": 12},
    "subspace-all": {"d": 12, "scope": "all"},
    "layerwise-subspace": {"d": 12, "scope": "all"},
    "full": {},
    "full-all": {"scope": "all"},
    "lora": {"r": 2},
    "prompt": {"length": 2},
    "prefix": {"length": 2},
    "prefix-values": {"length": 2, "gate": "values", "blocks": [1]},
    "prefix-shifted": {"length": 2, "gate": "none", "shift": True},
    "prefix-mlp": {"length": 2, "hidden": 3},
    "intrinsic-prompt": {"d": 4, "length": 2},
    "modules": {"patterns": ["*.1.*weight"]},
    "bitfit": {},
    "layernorm": {},
    "last-layers": {"k": 1},
    "random-modules": {"share": 0.2},
    "diff-pruning": {},
    "fisher-mask": {"count": 40, "scope": "all"},
    "unilora": {"d": 12, "r": 2},
    "vera": {"r": 5},
    "unified-subspace": {"deltas": [("lora", {"r": 2}), ("bitfit", {})], "d": 6},
    "combined": {"deltas": [("lora", {"r": 2}), ("prompt", {"length": 2}), ("layernorm", {})]},
    "adapter": {"bottleneck": 3},
    "parallel-adapter": {"bottleneck": 3, "placement": "both"},
    "compacter": {"n": 2, "bottleneck": 4},
    "ia3": {},
}


def delta_name(case: str) -> str:
    return next(name for name in sorted(DELTAS, key=len, reverse=True) if case.startswith(name))


@cache
def known(case: str, family: str) -> LayeredSystem:
    """One system for all tests that leave it as it is."""
    return layered(case, family)


def layered(case: str, family: str, *, indices=range(5), dtype=torch.float64, energy_weight=0.0, **options):
    problem = toy_problem(delta_name(case), family=family, dtype=dtype, **CASES[case], **options)
    return LayeredSystem(problem, indices, energy_weight=energy_weight)


def point(system: LayeredSystem, seed: int = 1) -> torch.Tensor:
    """A random δ that is 0 where nothing acts."""
    zero = system.problem.delta.initial()
    drawn = torch.randn(zero.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(system.copies > 0, 0.1 * drawn.to(zero), zero)
