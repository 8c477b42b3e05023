"""Every example of every delta that acts inside the blocks, as a controlled system."""

from __future__ import annotations

from functools import cache

import delta_cases
import torch
from tiny_models import tiny
from tiny_problems import toy_problem

from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.deltas import make_delta


def _inside_blocks(case: str) -> bool:
    """Whether no block is changed as a whole, with a state of its own beside the block's."""
    name, options = delta_cases.CASES[case]
    backbone = tiny("bert")
    delta = make_delta(name, backbone, **options)
    edit = delta.edit(delta.initial())
    changed = {id(backbone.model.get_submodule(module)) for module in [*edit.inputs, *edit.outputs]}
    return not changed & {id(block) for block in backbone.layers}


CASES = {case: named for case, named in delta_cases.CASES.items() if _inside_blocks(case)}


@cache
def known(case: str, family: str) -> LayeredSystem:
    """One system for all tests that leave it as it is."""
    return layered(case, family)


def layered(case: str, family: str, *, indices=range(5), dtype=torch.float64, energy_weight=0.0, **options):
    """The system of an example, with further options of its delta and its problem."""
    name, own = delta_cases.CASES[case]
    problem = toy_problem(name, family=family, dtype=dtype, **{**own, **options})
    return LayeredSystem(problem, indices, energy_weight=energy_weight)


def point(system: LayeredSystem, seed: int = 1) -> torch.Tensor:
    """A random δ that is 0 where nothing acts."""
    zero = system.problem.delta.initial()
    drawn = torch.randn(zero.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(system.copies > 0, 0.1 * drawn.to(zero), zero)
