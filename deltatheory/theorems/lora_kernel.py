"""LoRA's tangent kernel at B = 0 is a sketch of the full one: its mean and its variance (T56)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, agree_exactly
from deltatheory.theorems.exact import as_fractions, eye, random_fractions, squared_norm, trace
from deltatheory.theorems.instances import Instance
from deltatheory.theorems.lora_scale import SHAPES
from deltatheory.theorems.sketch_laws import ENTRIES, independent, mean
from deltatheory.theorems.theorem import Mutant, Theorem, register

F = Fraction
_ENTRIES = ENTRIES | {
    "Gi": "gradient of one example's output in the weight, (m, n)",
    "Gj": "of another's, (m, n)",
}


def _pair(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    r, n = SHAPES[seed % len(SHAPES)]
    x = {"Gi": random_fractions(rng, 2, n) + F(1, 7), "Gj": random_fractions(rng, 2, n) + F(1, 5)}
    return x | {"r": r, "q": F(1, int(rng.integers(1, 4))), "C": eye(n)}


def _positive(seed: int) -> Instance:
    """Return two rank-one gradients of one sign."""
    G = as_fractions([[1, 2 + seed], [0, 1]])
    return {"Gi": G, "Gj": G, "r": 1, "q": F(1, 3), "C": eye(2)}


def _kernel(x: Instance, gram: np.ndarray):
    """Return <G_i Aᵀ, G_j Aᵀ> / r."""
    return (x["Gi"] @ gram * x["Gj"]).sum() / x["r"]


def _t56a(x: Instance):
    return mean(x, lambda gram: _kernel(x, gram)), (x["Gi"] * x["Gj"]).sum()


T56a = register(
    Theorem(
        id="T56a",
        name="LoRA's kernel is the full one on average",
        latex=r"E\,\tfrac1r\langle G_iA^\top,G_jA^\top\rangle=\langle G_i,G_j\rangle",
        words="the tangent kernel of a fresh LoRA is a random sketch of the weight's, without bias",
        kind="identity",
        entries=_ENTRIES,
        sides=_t56a,
        sampler=_pair,
        hypotheses=(independent(_positive),),
        mutant=Mutant("without 1/r", lambda x: (_t56a(x)[0], _t56a(x)[1] * (x["r"] + 1)), _positive),
        proof="E AᵀA = r I.",
        source="Malladi et al. 2023 (recalled)",
        status=ProofStatus.enumerated("all A of 3 values an entry, r n <= 4, three laws"),
        exact_check=lambda: agree_exactly(_t56a, _pair, 15),
    )
)


def _t56b(x: Instance):
    M = x["Gi"].T @ x["Gj"]
    spread = squared_norm(M) + trace(M @ M) + (1 / x["q"] - 3) * (np.diagonal(M) ** 2).sum()
    return mean(x, lambda gram: (_kernel(x, gram) - trace(M)) ** 2), spread / x["r"]


T56b = register(
    Theorem(
        id="T56b",
        name="the variance of LoRA's kernel",
        latex=r"\mathrm{Var}\,\tfrac1r\langle G_iA^\top,G_jA^\top\rangle=\tfrac1r\bigl(\|M\|_F^2+"
        r"\mathrm{tr}\,M^2+(\kappa-3)\textstyle\sum_aM_{aa}^2\bigr),\quad M=G_i^\top G_j",
        words="the kernel of a fresh LoRA is off by 1/√r, exactly so: the last term is 0 for Gaussian A, and "
        "signs have the least variance",
        kind="identity",
        entries=_ENTRIES,
        sides=_t56b,
        sampler=_pair,
        hypotheses=(independent(_positive),),
        mutant=Mutant(
            "one spread for all laws", lambda x: (_t56b(x)[0], _t56b(x | {"q": F(1)})[1]), _positive
        ),
        proof="The rows are independent, and aᵀMa of one has this variance (all pairs of its entries).",
        source="own form; after Malladi et al. 2023 (recalled), who bound it",
        certificates=("kernel_variance",),
        status=ProofStatus.enumerated("all A of 3 values an entry, r n <= 4, three laws"),
        exact_check=lambda: agree_exactly(_t56b, _pair, 15),
    )
)
