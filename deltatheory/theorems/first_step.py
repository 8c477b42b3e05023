"""How much of a gradient LoRA's first step can capture: the range finder of random projections (T53).

The first step moves the weight by -η s² G AᵀA (T29), within the range of G Aᵀ. With G = U diag(s) Vᵀ and
Ω = VᵀAᵀ, Ω1 are its first k rows, Ω2 the rest.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    diagonal,
    eye,
    projector,
    random_full_rank,
    random_orthogonal,
    rank,
    solve,
    squared_norm,
    zeros,
)
from deltatheory.theorems.instances import Instance, meanings, with_corner, with_entries
from deltatheory.theorems.low_rank import singular_values
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction
_ENTRIES = {
    "U": "left singular vectors of G, (n, n)",
    "s": "singular values, decreasing, (n,)",
    "V": "right singular vectors, (n, n)",
    "k": "how many directions are counted on",
    "Omega": "VᵀAᵀ, (n, r)",
    "draws": "values of VᵀAᵀ that are equally likely, each (n, r)",
}


def _missed(x: Instance, omega: np.ndarray):
    """Return ‖(I - P) G‖², P the projector on the range of G Aᵀ."""
    G = x["U"] @ np.diag(x["s"]) @ x["V"].T
    return squared_norm(G - projector(x["U"] @ np.diag(x["s"]) @ omega) @ G)


def _head_inverse(omega: np.ndarray, k: int) -> np.ndarray:
    """Return the pseudo-inverse of Ω1, whose rows are independent."""
    head = omega[:k]
    return solve(head @ head.T, head).T


def _t53a(x: Instance):
    omega, k, tail = x["Omega"], x["k"], x["s"][x["k"] :]
    leaked = tail[:, None] * (omega[k:] @ _head_inverse(omega, k))
    return _missed(x, omega), squared_norm(tail) + squared_norm(leaked)


def _spectrum(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    n = 3
    s = as_fractions(sorted(rng.integers(1, 9, n), reverse=True))
    k = int(rng.integers(1, n))
    x = {"U": random_orthogonal(rng, n), "V": random_orthogonal(rng, n), "s": s, "k": k}
    return x | {"Omega": random_full_rank(rng, n, int(rng.integers(k, n)))}


def _reaching(seed: int) -> Instance:
    """Return a sample whose first k rows of Ω are independent."""
    while rank((x := _spectrum(seed))["Omega"][: x["k"]]) < x["k"]:
        seed += 1000
    return x


def _aligned(seed: int) -> Instance:
    """Return an A that sees the first direction alone."""
    x = {"U": eye(3), "V": eye(3), "s": as_fractions([5 + seed, 2, 1]), "k": 1}
    return x | {"Omega": eye(3)[:, :1]}


def _reached(name: str, violating) -> Hypothesis:
    """Return that Ω1 has independent rows, in one or in all of the draws."""

    def predicate(x: Instance) -> bool:
        draws = [x[name]] if name == "Omega" else x[name]
        return all(rank(omega[: x["k"]]) == x["k"] for omega in draws)

    return Hypothesis("head reached", r"$\Omega_1$ has rank $k$", predicate, violating)


T53a = register(
    Theorem(
        id="T53a",
        name="what LoRA's first step misses of the gradient",
        latex=r"\|(I-P_{GA^\top})G\|_F^2\le\sum_{j>k}s_j^2+\|\Sigma_2\Omega_2\Omega_1^+\|_F^2",
        words="the columns that the first step reaches miss the tail of the gradient's spectrum, and what of "
        "it leaks into the head",
        kind="tight",
        entries=meanings(_ENTRIES, "U s V k Omega"),
        sides=_t53a,
        sampler=_reaching,
        hypotheses=(
            singular_values(with_entries(_aligned, U=lambda x: 2 * x["U"])),
            _reached("Omega", with_entries(_aligned, Omega=zeros(3, 1))),
        ),
        mutant=Mutant.scaled(_t53a, JUST_BELOW_ONE, _aligned),
        extremal=_aligned,
        proof="G Aᵀ Ω1⁺ = U (Σ1; Σ2 Ω2 Ω1⁺) is within reach: the first k columns of G V are ‖Σ2 Ω2 Ω1⁺‖ away "
        "from it, and the others are no longer than Σ2.",
        source="Halko, Martinsson and Tropp 2011, theorem 9.1",
        status=ProofStatus.searched(),
    )
)


def _t53b(x: Instance):
    tail, inverse = squared_norm(x["s"][x["k"] :]), _head_inverse(x["draws"][0], x["k"])
    missed = [_missed(x, omega) for omega in x["draws"]]
    return sum(missed) / len(missed), tail * (1 + squared_norm(inverse))


def _signs(x: Instance, head: np.ndarray) -> list[np.ndarray]:
    """Return Ω with this head and every tail of signs."""
    rows = len(x["s"]) - len(head)
    tails = product((-1, 1), repeat=rows * head.shape[1])
    return [np.concatenate([head, as_fractions(tail).reshape(rows, -1)]) for tail in tails]


def _law(seed: int) -> Instance:
    x = _spectrum(seed) | {"k": 2 - seed % 2}
    head = random_full_rank(np.random.default_rng(seed), x["k"], x["k"])
    return x | {"draws": _signs(x, head)}


def _steep(seed: int) -> Instance:
    x = {"U": eye(3), "V": eye(3), "s": as_fractions([1000 + seed, 1, 1]), "k": 1}
    return x | {"draws": _signs(x, eye(1))}


def _is_isotropic(x: Instance) -> bool:
    """Return whether the draws share Ω1, and in the mean every row of Ω2 has ωωᵀ = I."""
    draws, k = x["draws"], x["k"]
    if any(np.any(omega[:k] != draws[0][:k]) for omega in draws):
        return False
    unit = eye(draws[0].shape[1]) * len(draws)
    rows = range(k, len(draws[0]))
    return all(bool(np.all(sum(np.outer(o[i], o[i]) for o in draws) == unit)) for i in rows)


def _enumerate_t53b() -> bool:
    spectra = ([3, 2, 1], [5, 1, 1], [2, 2, 0], [1, 1, 1])
    for s, k in product(spectra, (1, 2)):
        x = {"U": eye(3), "V": eye(3), "s": as_fractions(s), "k": k}
        for head in (eye(k), eye(k) * F(1, 2), diagonal([2, 1][:k])):
            left, right = _t53b(x | {"draws": _signs(x, head)})
            if left > right:
                return False
    return True


T53b = register(
    Theorem(
        id="T53b",
        name="the first step of LoRA captures the gradient up to its tail",
        latex=r"E\,\|(I-P_{GA^\top})G\|_F^2\le\bigl(1+E\,\|\Omega_1^+\|_F^2\bigr)\sum_{j>k}s_j^2,\quad "
        r"E\,\|\Omega_1^+\|_F^2=\tfrac k{p-1}\text{ for Gaussian }A,\ r=k+p,\ p\ge2",
        words="from a random A one step of LoRA of rank r >= k + 2 sees the k leading directions of the "
        "gradient up to 1 + k/(r - k - 1) times its tail; for r <= k + 1 that is infinite",
        kind="upper",
        entries=meanings(_ENTRIES, "U s V k draws"),
        sides=_t53b,
        sampler=with_corner(_law, _steep),
        hypotheses=(
            singular_values(with_entries(_steep, U=lambda x: 2 * x["U"])),
            _reached("draws", with_entries(_steep, draws=lambda x: _signs(x, zeros(1, 1)))),
            Hypothesis(
                "isotropic tail",
                r"given $\Omega_1$, every row of $\Omega_2$ has $E\,\omega\omega^\top=I$",
                _is_isotropic,
                with_entries(
                    _steep,
                    draws=lambda x: [o * as_fractions([[1], [2], [2]]) for o in x["draws"]],
                ),
            ),
        ),
        mutant=Mutant.scaled(_t53b, F(9, 10), _steep),
        closest=_steep,
        reach=0.99999,  # as the head grows beyond the tail
        proof="T53a, and E ‖Σ2 Ω2 Ω1⁺‖² = ‖Σ2‖² ‖Ω1⁺‖² for isotropic rows of Ω2. For a Gaussian Ω1 the mean "
        "of ‖Ω1⁺‖² = tr (Ω1 Ω1ᵀ)^{-1}, an inverse Wishart matrix, is k/(p - 1).",
        source="Halko, Martinsson and Tropp 2011, theorem 10.5; of LoRA, Zhang, Liu and Chen 2025 (recalled)",
        status=ProofStatus.enumerated("all tails of signs, n = 3, r = k <= 2, 4 spectra, 3 heads"),
        exact_check=_enumerate_t53b,
    )
)
