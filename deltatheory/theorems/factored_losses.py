"""Convex losses of a product BA: which stationary points are global, and at which rank they exist (T51).

Objective: f(BA) + λ/2 (‖B‖² + ‖A‖²), here with f(M) = h/2 ‖M - W‖² and gradient G = h (BA - W).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import (
    as_fractions,
    eye,
    inverse,
    is_psd,
    one_like,
    projector,
    random_fractions,
    rank,
    squared_norm,
    zeros,
)
from deltatheory.theorems.instances import Instance, array_source, with_entries
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction
_ENTRIES = {
    "W": "where the loss is least, (m, n)",
    "h": "curvature of the loss",
    "lam": "λ, the weight decay",
    "B": "(m, r)",
    "A": "(r, n)",
    "B2": "another B",
    "A2": "another A",
}


def _gradient(x: Instance) -> np.ndarray:
    return x["h"] * (x["B"] @ x["A"] - x["W"])


def _objective(x: Instance, B: np.ndarray, A: np.ndarray):
    return x["h"] / 2 * squared_norm(B @ A - x["W"]) + x["lam"] / 2 * (squared_norm(B) + squared_norm(A))


def _stationary_point(seed: int, wide: bool = False) -> Instance:
    """Return B, A = BᵀO with O orthogonal, and the W for which G = -λ (P + Y) O, P the projector on B."""
    draw = array_source(seed, wide)
    B, skew, lam, h = draw(3, 1), np.triu(draw(3, 3), 1), draw(1)[0], draw(1)[0]
    O = (eye(3) - skew + skew.T) @ inverse(eye(3) + skew - skew.T)
    lam, h = (lam, h) if wide else (abs(lam), abs(h))
    P = projector(B)
    x = {"h": h, "lam": lam, "B": B, "A": B.T @ O, "B2": draw(3, 1), "A2": draw(1, 3)}
    return x | {"W": x["B"] @ x["A"] + lam / h * (P + (eye(3) - P) * F(seed % 5 - 2, 2)) @ O}


def _scalar(seed: int) -> Instance:
    """Return f = ½ ‖M - diag(s, 1)‖² with λ = 1, whose minimiser is diag(s - 1, 0) = diag(q², 0)."""
    q = F(1 + seed)
    B, A = as_fractions([[q], [0]]), as_fractions([[q, 0]])
    x = {"W": as_fractions([[q * q + 1, 0], [0, 1]]), "h": F(1), "lam": F(1), "B": B, "A": A}
    return x | {"B2": -B, "A2": -A}


def _is_stationary(x: Instance) -> bool:
    G = _gradient(x)
    in_B, in_A = G @ x["A"].T + x["lam"] * x["B"], x["B"].T @ G + x["lam"] * x["A"]
    return not (np.any(in_B != 0) or np.any(in_A != 0))


def _t51a(x: Instance):
    G, B, A = _gradient(x), x["B2"], x["A2"]
    Z = np.concatenate([B, A.T])
    K = np.block([[eye(len(B)) * x["lam"], G], [G.T, eye(A.shape[1]) * x["lam"]]])
    curved = x["h"] / 2 * squared_norm(B @ A - x["B"] @ x["A"]) + (Z * (K @ Z)).sum() / 2
    return _objective(x, B, A) - _objective(x, x["B"], x["A"]), curved


_not_stationary = with_entries(_scalar, B=lambda x: 2 * x["B"])

T51a = register(
    Theorem(
        id="T51a",
        name="the landscape of a factored loss",
        latex=r"\Phi(B',A')-\Phi(B,A)=\tfrac h2\|B'A'-BA\|^2+\tfrac12\langle Z',KZ'\rangle,\ "
        r"Z'=\binom{B'}{A'^\top},\ K=\begin{pmatrix}\lambda I&G\\G^\top&\lambda I\end{pmatrix}",
        words="from a stationary point of LoRA with weight decay the loss differs by a square and one "
        "quadratic form, so the point is global as soon as K is positive semidefinite",
        kind="identity",
        entries=_ENTRIES,
        sides=_t51a,
        sampler=_stationary_point,
        hypotheses=(
            Hypothesis(
                "stationary",
                r"$GA^\top+\lambda B=0$, $B^\top G+\lambda A=0$",
                _is_stationary,
                _not_stationary,
            ),
        ),
        mutant=Mutant("without the half", lambda x: (_t51a(x)[0], 2 * _t51a(x)[1]), _stationary_point),
        proof="f(M') - f(M) = <G, M' - M> + h/2 ‖M' - M‖², <G, M'> is half the form of the blocks off the "
        "diagonal, and K Z = 0 at the stationary point.",
        source="own form; after Burer and Monteiro 2005 and Jang, Lee and Ryu 2024",
        certificates=("landscape",),
        status=ProofStatus.identity_tested(120),
        exact_check=identity_test(_t51a, _stationary_point),
    )
)


# ---- T51b: no spurious minima ----


def _t51b(x: Instance):
    return _objective(x, x["B"], x["A"]), _objective(x, x["B2"], x["A2"])


T51b = register(
    Theorem(
        id="T51b",
        name="LoRA without spurious minima",
        latex=r"f\text{ convex},\ GA^\top+\lambda B=0,\ B^\top G+\lambda A=0,\ \|G\|_2\le\lambda\ "
        r"\Rightarrow\ (B,A)\text{ global at every rank}",
        words="a stationary point of LoRA with weight decay whose full gradient is no larger than the decay "
        "is a global minimum, over all ranks; a second-order point with a column to spare is one",
        kind="tight",
        entries=_ENTRIES,
        sides=_t51b,
        sampler=_stationary_point,
        hypotheses=(
            Hypothesis(
                "convex",
                "$f$ is convex",
                lambda x: x["h"] >= 0,
                with_entries(
                    _scalar,
                    h=F(-1),
                    W=lambda x: 2 * x["B"] @ x["A"] - x["W"],
                    B2=lambda x: 10 * x["B"],
                    A2=lambda x: 10 * x["A"],
                ),
            ),
            Hypothesis(
                "stationary",
                r"$GA^\top+\lambda B=0$, $B^\top G+\lambda A=0$",
                _is_stationary,
                with_entries(
                    _scalar,
                    W=lambda x: x["B"] @ x["A"],
                    lam=lambda x: 4 * x["B"][0, 0] ** 2,
                    B2=lambda x: x["B"] / 2,
                    A2=lambda x: x["A"] / 2,
                ),
            ),
            Hypothesis(
                "small gradient",
                r"$\|G\|_2\le\lambda$",
                lambda x: (
                    x["lam"] >= 0
                    and is_psd(x["lam"] ** 2 * eye(x["W"].shape[1]) - _gradient(x).T @ _gradient(x))
                ),
                with_entries(_scalar, B=zeros(2, 1), A=zeros(1, 2)),
            ),
        ),
        mutant=Mutant.scaled(_t51b, JUST_BELOW_ONE, _scalar),
        extremal=_scalar,
        proof="T51a: ‖G‖ <= λ makes K positive semidefinite. Where BA has a column to spare, the second "
        "derivative along it is λ - ‖G‖, so a second-order point satisfies it.",
        source="after Burer and Monteiro 2005, Jang, Lee and Ryu 2024, Haeffele and Vidal 2015 (recalled)",
        status=ProofStatus.searched(),
    )
)


# ---- T51c: the rank of extreme solutions ----


def _seen(x: Instance) -> int:
    """Return the rank of the equations on X = V D Vᵀ, as functions of the symmetric D."""
    rows = [x["V"].T @ (A + A.T) @ x["V"] for A in x["equations"]]
    upper = np.triu_indices(x["V"].shape[1])
    return rank(np.array([row[upper] for row in rows]))


def _t51c(x: Instance):
    r, one = x["V"].shape[1], one_like(x["V"][0, 0])
    return one * r * (r + 1) / 2, one * len(x["equations"])


def _units(r: int) -> list[np.ndarray]:
    """Return equations that read every entry of an r x r symmetric matrix."""
    return [np.outer(eye(r)[i], eye(r)[j]) for i in range(r) for j in range(i + 1)]


def _extreme(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    r, n = int(rng.integers(1, 4)), 4
    while True:
        V = random_fractions(rng, n, r)
        roots = [random_fractions(rng, n, n) for _ in range(r * (r + 1) // 2 + int(rng.integers(0, 3)))]
        x = {"V": V, "equations": [root + root.T for root in roots]}
        if _seen(x) == r * (r + 1) // 2:
            return x


def _just_enough(seed: int) -> Instance:
    r = seed % 3 + 1
    return {"V": eye(r), "equations": _units(r)}


def _enumerate_t51c() -> bool:
    """Of r x r unit equations, every subset of all but one is too few, and all are enough."""
    for r in range(1, 5):
        units, needed = _units(r), r * (r + 1) // 2
        fewer = (units[:i] + units[i + 1 :] for i in range(needed))
        if _seen({"V": eye(r), "equations": units}) != needed:
            return False
        if any(rest and _seen({"V": eye(r), "equations": rest}) >= needed for rest in fewer):
            return False
    return True


T51c = register(
    Theorem(
        id="T51c",
        name="the rank that always suffices",
        latex=r"X=VV^\top\succeq0\text{ an extreme solution of }m\text{ equations}\ \Rightarrow\ "
        r"\tfrac{r(r+1)}2\le m",
        words="some minimiser of a convex problem with K outputs on N examples has rank r with "
        "r (r + 1)/2 <= K N: beyond it, rank adds nothing to what the linearised model can reach",
        kind="tight",
        entries={
            "V": "root of the solution, (n, r)",
            "equations": "symmetric matrices A_i of <A_i, X> = b_i",
        },
        sides=_t51c,
        sampler=_extreme,
        hypotheses=(
            Hypothesis(
                "extreme",
                r"no $D\ne0$ has $\langle A_i,VDV^\top\rangle=0$ for all $i$",
                lambda x: _seen(x) == x["V"].shape[1] * (x["V"].shape[1] + 1) // 2,
                with_entries(_just_enough, V=eye(2), equations=_units(2)[:2]),
            ),
        ),
        mutant=Mutant.scaled(_t51c, JUST_BELOW_ONE, _just_enough),
        extremal=_just_enough,
        proof="The D form a space of dimension r (r + 1)/2; with fewer equations some D ≠ 0 is free, and "
        "V (I + t D) Vᵀ stays a solution until it loses rank.",
        source="Barvinok 1995, Pataki 1998",
        status=ProofStatus.enumerated("unit equations, r <= 4"),
        exact_check=_enumerate_t51c,
    )
)
