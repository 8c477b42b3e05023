"""How to spread the total rank of a LoRA over its modules."""

from __future__ import annotations

import re

import numpy as np

from deltatheory.advice.fits import KernelFit
from deltatheory.deltas import LoRA
from deltatheory.linearization.selection import greedy_log_det

__all__ = ["spread_ranks"]

_KEPT_GAIN = 0.9  # share of the log-det gain of all modules that those chosen must have


def spread_ranks(delta: LoRA, fit: KernelFit) -> tuple[LoRA, str]:
    """Return the LoRA with the ranks that promise most; equal ones if none promise more.

    At δ = 0 the kernel of a module is proportional to its rank, so another distribution of the same total
    rank has the kernel Σ (r_l/r) K_l: its score needs no further pass. Tried are ranks in proportion to the
    loss's gradient in each module, and equal ranks in the modules that a log-det selection takes first.

    Args:
        delta: what is to be trained.
        fit: its kernels by module.

    Returns:
        It, and a sentence that says what was tried.
    """
    kernels = fit.modules
    pull = fit.start.residual()
    energy = {name: float((pull * (kernel @ pull)).sum()) for name, kernel in kernels.items()}
    total = delta.r * len(energy)
    selection = greedy_log_det(kernels, len(kernels))
    kept = 1 + int(np.searchsorted(np.cumsum(selection.gains), _KEPT_GAIN * selection.value))
    rules = {
        "the gradient in each module": {n: total * e / sum(energy.values()) for n, e in energy.items()},
        "log-det gain": dict.fromkeys(selection.chosen[:kept], total / kept),
    }
    shapes = delta.coordinates.shapes
    tried = {"equal ranks": dict.fromkeys(kernels, delta.r)}
    for rule, wanted in rules.items():
        widest = {n: min(4 * delta.r, shapes[f"{n}.A"][1], shapes[f"{n}.B"][0]) for n in wanted}
        ranks = {n: min(round(value), widest[n]) for n, value in wanted.items()}
        tried[rule] = {n: rank for n, rank in ranks.items() if rank}
    scores = {
        rule: KernelFit({n: rank / delta.r * kernels[n] for n, rank in ranks.items()}, fit.start).score()
        for rule, ranks in tried.items()
    }
    best = max(tried, key=lambda rule: scores[rule])
    ranks = tried[best]
    pattern = {re.escape(name): rank for name, rank in ranks.items() if rank != delta.r}
    spread = LoRA(delta.backbone, r=delta.r, targets=sorted(ranks), rank_pattern=pattern, seed=delta.seed)
    said = ", ".join(f"{scores[rule]:.3f} by {rule} ({len(tried[rule])} modules)" for rule in tried)
    finding = f"Ranks: predicted scores at the total rank {total}: {said}; adapter_config.json has {best}."
    return spread, finding
