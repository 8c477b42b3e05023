"""Low-rank changes as factors: their singular values, and truncation where the inputs need it least."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.adapters.peft_format import PeftDelta
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas import Delta
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.subspace import project
from deltatheory.deltas.unilora import UniLoRA
from deltatheory.problems import FORWARD, ClassificationProblem

__all__ = ["ZERO", "Bases", "Factors", "bases_of", "factors_of", "moments_of", "spectrum", "truncate"]

Factors = Mapping[str, tuple[Tensor, Tensor]]  # module name ↦ (A, B) with ΔW = B A
Bases = Mapping[str, tuple[Tensor, Tensor]]  # module name ↦ left singular vectors and singular values

_CHUNK = 32
ZERO = 1e-6  # of the largest singular value: below it lies the rounding of float32
_UNSEEN = 1e-8  # weight of directions that no input had, so that they come last and are not lost
_PLAIN = re.compile(r".*\.lora_[AB]\.[^.]+\.weight")


@torch.no_grad()
def factors_of(delta: Delta, values: Tensor) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Return A and B of every module with ΔW = B A, the scaling in B; `None` for what is no plain LoRA."""
    if isinstance(delta, UniLoRA):
        values, delta = project(delta.projection, values), delta.lora
    if isinstance(delta, LoRA):
        return {n: (a, delta.scaling(n) * b) for n, (a, b) in delta.factors(values).items()}
    if not isinstance(delta, PeftDelta) or delta.model.active_peft_config.peft_type.value != "LORA":
        return None
    if not all(_PLAIN.fullmatch(name) for name in delta.coordinates.shapes):  # DoRA, embeddings, biases of B
        return None
    from peft.tuners.lora import LoraLayer

    key = delta.model.active_adapter
    found = {}
    for name, module in delta.backbone.model.named_modules():
        if isinstance(module, LoraLayer) and not name.startswith("pooler."):  # does not act on hidden states
            layer: Any = module
            a, b = layer.lora_A[key].weight, layer.lora_B[key].weight
            found[name] = a.detach().clone(), layer.scaling[key] * b.detach()
    return found


def spectrum(a: Float[Tensor, "r n"], b: Float[Tensor, "m r"]) -> tuple[Tensor, Tensor]:
    """Return the singular values of B A and its first right singular vector."""
    (_, rb), (qa, ra) = torch.linalg.qr(b.double()), torch.linalg.qr(a.double().T)
    _, values, right = torch.linalg.svd(rb @ ra.T)
    return values, qa @ right[0]


def bases_of(factors: Factors, moments: Mapping[str, Tensor] | None = None) -> Bases:
    """Return U and σ of every M = ΔW C^{1/2}, without values that are zero, from M Mᵀ = Q (R (A C Aᵀ) Rᵀ) Qᵀ.

    Args:
        factors: A and B = Q R.
        moments: A C Aᵀ; by default C = I.
    """
    bases = {}
    for name, (a, b) in factors.items():
        plain = a.double() @ a.double().T
        moment = plain if moments is None else moments[name]
        if moments is not None:
            moment = moment + _UNSEEN * moment.trace() / plain.trace().clamp(min=1e-300) * plain
        q, r = torch.linalg.qr(b.double())
        squares, vectors = torch.linalg.eigh(r @ moment @ r.T)
        values = squares.clamp(min=0).sqrt().flip(0)
        count = int((values > ZERO * values[0]).sum())
        bases[name] = (q @ vectors.flip(1))[:, :count], values[:count]
    return bases


def truncate(
    backbone: Backbone, factors: Factors, bases: Bases, ranks: Mapping[str, int]
) -> tuple[LoRA, Tensor]:
    """Return the LoRA with ΔW_k = U_k U_kᵀ B A in the modules that ranks name, and its δ."""
    widest = max(ranks.values())
    pattern = {re.escape(name): rank for name, rank in ranks.items() if rank != widest}
    lora = LoRA(backbone, r=widest, targets=list(ranks), rank_pattern=pattern)
    start = lora.factors(lora.initial())
    pieces = {}
    for name in lora.targets:
        a, b = factors[name]
        left = bases[name][0][:, : ranks[name]]
        rows = left.T @ b.double() @ a.double()
        sizes = rows.norm(dim=1)  # kept in B: beside A₀ a small A would lose digits
        pieces[f"{name}.A"] = (rows / sizes[:, None]).to(a) - start[name][0]
        pieces[f"{name}.B"] = (left * sizes).to(b)
    return lora, lora.coordinates.join(pieces)


@torch.no_grad()
def moments_of(
    problem: ClassificationProblem, lora: LoRA, values: Tensor, factors: Factors
) -> dict[str, Tensor]:
    """Return A C Aᵀ, C = E[x xᵀ] over the tokens x that enter each module of the tuned model in training."""
    sums = {name: torch.zeros(len(a), len(a), device=a.device).double() for name, (a, _) in factors.items()}
    parameters, tokens = lora.parameters(values), 0
    order = np.argsort(problem.train.lengths, kind="stable")
    for first in range(0, len(order), _CHUNK):
        batch, _ = problem.batch(problem.train, order[first : first + _CHUNK].tolist())
        real = batch.mask.bool()

        def see(name: str, real: Tensor = real) -> Callable[[Tensor], Tensor]:
            def add(x: Tensor) -> Tensor:
                reached = (x[real] @ factors[name][0].T).double()
                sums[name] += reached.T @ reached
                return x

            return add

        problem.backbone.hidden_states(batch, Edit(parameters, {name: see(name) for name in factors}))
        tokens += int(real.sum())
    problem.passes += FORWARD * len(order)
    return {name: total / tokens for name, total in sums.items()}
