"""Low-rank changes as factors: their singular values, and truncation where the inputs need it least."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.adapters.adapter import Factors, TrainedAdapter
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.deltas.lora import LoRA
from deltatheory.problems import ClassificationProblem

__all__ = ["ZERO", "Bases", "bases_of", "effect_kept", "moments_of", "smallest", "spectrum", "truncate"]

Bases = Mapping[str, tuple[Tensor, Tensor]]  # module name ↦ left singular vectors and singular values

_CHUNK = 32
ZERO = 1e-6  # of the largest singular value: below it lies the rounding of float32
_UNSEEN = 1e-8  # weight of directions that no input had, so that they come last and are not lost


def spectrum(a: Float[Tensor, "r n"], b: Float[Tensor, "m r"]) -> tuple[Tensor, Tensor]:
    """Return the singular values of B A and its first right singular vector.

    >>> values, direction = spectrum(torch.diag(torch.tensor([1.0, 2.0])), 2 * torch.eye(2))
    >>> values.tolist(), direction.abs().tolist()
    ([4.0, 2.0], [0.0, 1.0])
    """
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
def moments_of(problem: ClassificationProblem, held: TrainedAdapter, factors: Factors) -> dict[str, Tensor]:
    """Return A C Aᵀ, C = E[x xᵀ] over the tokens x that enter each module of the tuned model in training."""
    sums = {name: torch.zeros(len(a), len(a), device=a.device).double() for name, (a, _) in factors.items()}
    edit, tokens = held.delta.edit(held.values), Counter[str]()
    order = np.argsort(problem.train.lengths, kind="stable")
    for first in range(0, len(order), _CHUNK):
        batch, _ = problem.batch(problem.train, order[first : first + _CHUNK].tolist())

        def see(name: str, batch: Batch = batch) -> Callable[[Tensor], Tensor]:
            real = problem.backbone.real_at(name, batch).bool()
            tokens[name] += int(real.sum())

            def add(x: Tensor) -> Tensor:
                reached = (x[real] @ factors[name][0].T).double()
                sums[name] += reached.T @ reached
                return x

            return add

        watched = Edit(inputs={name: see(name) for name in factors})
        problem.backbone.hidden_states(batch, edit.then(watched))
    problem.count(len(order), forward=1.0)
    return {name: total / tokens[name] for name, total in sums.items()}


def effect_kept(
    logits: Float[Tensor, "n C"], full: Float[Tensor, "n C"], frozen: Float[Tensor, "n C"]
) -> float:
    """Return 1 − ‖logits − full‖² / ‖full − frozen‖².

    Args:
        logits: of the truncated adapter.
        full: of the whole adapter, not those of the frozen model.
        frozen: of the frozen model.

    >>> full, frozen = torch.eye(2), torch.zeros(2, 2)
    >>> [effect_kept(x, full, frozen) for x in (full, frozen, full / 2)]
    [1.0, 0.0, 0.75]
    """
    lost, whole = ((x - full).double().square().sum() for x in (logits, frozen))
    return float(1 - lost / whole)


def smallest(
    problem: ClassificationProblem,
    held: TrainedAdapter,
    factors: Factors,
    bases: Bases,
    keep: float,
    on_truncation: Callable[[int, float], None] | None = None,
) -> tuple[dict[str, int], list[tuple[int, float]]]:
    """Return the ranks of the smallest truncation that keeps the effect on dev, and all that was measured.

    Truncation k keeps the k largest of the singular values of all modules. Rank 0 keeps nothing, the frozen
    model; bisection ends at a k that keeps enough while k − 1 does not.
    """
    frozen, full = (problem.predict(x, problem.dev) for x in (held.delta.initial(), held.values))
    if torch.equal(frozen, full):
        return {}, []
    pairs = [(float(s), name) for name, (_, values) in bases.items() for s in values]
    order = [name for _, name in sorted(pairs, key=lambda pair: -pair[0])]
    effects = {0: 0.0}

    def enough(k: int) -> bool:
        problem.delta, point = truncate(problem.backbone, factors, bases, Counter(order[:k]))
        effects[k] = effect_kept(problem.predict(point, problem.dev), full, frozen)
        if on_truncation:
            on_truncation(k, effects[k])
        return effects[k] >= keep

    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    if high not in effects:
        enough(high)
    return {n: k for n, k in ((n, order[:high].count(n)) for n in factors) if k}, sorted(effects.items())
