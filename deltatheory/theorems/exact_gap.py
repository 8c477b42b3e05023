"""What a subspace costs on a quadratic, exactly, and on average over Gaussian subspaces (T50)."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import (
    as_fractions,
    det,
    eye,
    inverse,
    is_psd,
    projector,
    random_fractions,
    random_positive,
    solve,
)
from deltatheory.theorems.instances import Instance, array_source, with_entries
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T50a: the gap is a Schur complement ----


def _schur(H: np.ndarray, A: np.ndarray, v: np.ndarray):
    """Return ½ vᵀ (H - H A (AᵀHA)^{-1} AᵀH) v."""
    slope = A.T @ H @ v
    return (v @ H @ v - v @ H @ A @ inverse(A.T @ H @ A) @ slope) / 2


def _t50a(x: Instance):
    rest = x["v"] - x["A"] @ x["z"]
    return rest @ x["H"] @ rest / 2, _schur(x["H"], x["A"], x["v"])


def _quadratic(seed: int, wide: bool = False) -> Instance:
    draw = array_source(seed, wide)
    root, A, v = draw(3, 3), draw(3, 2), draw(3)
    H = root + root.T if wide else root @ root.T + eye(3)
    return {"H": H, "A": A, "v": v, "z": solve(A.T @ H @ A, A.T @ H @ v)}


def _lopsided(seed: int) -> Instance:
    H = as_fractions([[2, 1 + seed], [0, 2]])
    A, v = as_fractions([[1], [0]]), as_fractions([0, 1])
    return {"H": H, "A": A, "v": v, "z": solve(A.T @ (H + H.T) @ A, A.T @ (H + H.T) @ v)}


def _is_least(x: Instance) -> bool:
    slope = (x["H"] + x["H"].T) @ (x["v"] - x["A"] @ x["z"])
    return not np.any(x["A"].T @ slope != 0)


T50a = register(
    Theorem(
        id="T50a",
        name="the gap of a subspace, exactly",
        latex=r"f_S^*-f^*=\tfrac12v^\top\bigl(H-HA(A^\top HA)^{-1}A^\top H\bigr)v,\quad v=\theta^*-\theta_0",
        words="on a quadratic the price of a subspace is a Schur complement of the Hessian, read at the "
        "displacement of full fine-tuning",
        kind="identity",
        entries={
            "H": "Hessian, (D, D)",
            "A": "columns that span the subspace, (D, d)",
            "v": "θ* - θ0, (D,)",
            "z": "where training in the subspace ended, (d,)",
        },
        sides=_t50a,
        sampler=_quadratic,
        hypotheses=(
            Hypothesis(
                "convex quadratic",
                r"$H\succeq0$, and $A^\top HA$ is invertible",
                lambda x: is_psd(x["H"]) and det(x["A"].T @ x["H"] @ x["A"]) != 0,
                _lopsided,
            ),
            Hypothesis(
                "minimiser in S",
                r"$A^\top H(v-Az)=0$",
                _is_least,
                with_entries(_quadratic, z=lambda x: x["z"] + 1),
            ),
        ),
        mutant=Mutant("without the half", lambda x: (_t50a(x)[0], 2 * _t50a(x)[1]), _quadratic),
        proof="z = (AᵀHA)^{-1} AᵀHv, put into ½ (v - Az)ᵀ H (v - Az).",
        source="classical",
        certificates=("exact_gap",),
        status=ProofStatus.identity_tested(40),
        exact_check=identity_test(_t50a, _quadratic),
    )
)


# ---- T50b: its Gaussian equivalent ----


def _t50b(x: Instance):
    H, v, c = np.diag(x["curvature"]), x["v"], x["c"]
    gaps = [_schur(H, A, v) for A in x["bases"]]
    return sum(gaps) / len(gaps), (x["curvature"] * v**2 / (1 + c * x["curvature"])).sum() / 2


def _coordinate_law(k: int, d: int, v: np.ndarray, size: Fraction, flat: np.ndarray) -> Instance:
    """Return all coordinate subspaces of k curved directions, each with some part in the flat ones."""
    bases = [np.concatenate([eye(k)[:, list(chosen)], flat[:, :d]]) for chosen in combinations(range(k), d)]
    curvature = np.concatenate([as_fractions([size] * k), 0 * flat[:, 0]])
    return {"curvature": curvature, "v": v, "bases": bases, "c": d / (size * (k - d))}


def _law_sample(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    k, flat = int(rng.integers(2, 5)), int(rng.integers(0, 3))
    size, v = random_positive(rng, 1)[0], random_fractions(rng, k + flat) + F(1, 7)
    return _coordinate_law(k, int(rng.integers(1, k)), v, size, random_fractions(rng, flat, k))


def _pair(seed: int) -> Instance:
    return _coordinate_law(2, 1, as_fractions([1, 1 + seed]), F(1), as_fractions(np.zeros((0, 2), int)))


def _support(x: Instance) -> np.ndarray:
    return x["curvature"] != 0


def _is_isotropic(x: Instance) -> bool:
    curved = [A[_support(x)] for A in x["bases"]]
    mean = sum(projector(A) for A in curved) / len(curved)
    k, d = curved[0].shape
    return bool(np.all(mean == eye(k) * F(d, k)))


def _enumerate_t50b() -> bool:
    cases = [(k, d) for k in range(2, 6) for d in range(1, k)]
    flat = as_fractions(np.arange(1, 11).reshape(2, 5))
    sides = [_t50b(_coordinate_law(k, d, as_fractions(range(1, k + 3)), F(3, 2), flat)) for k, d in cases]
    return all(left == right for left, right in sides)


T50b = register(
    Theorem(
        id="T50b",
        name="the Gaussian equivalent of the gap",
        latex=r"E\,[f_S^*-f^*]=\tfrac12\sum_i\frac{\lambda_iv_i^2}{1+c\lambda_i},\quad"
        r"\sum_i\frac{c\lambda_i}{1+c\lambda_i}=d",
        words="the mean gap of a random subspace follows from the spectrum and the displacement before any "
        "training: exactly where all curved directions are alike, and for Gaussian lines in the plane "
        "whatever their curvatures; an approximation for other spectra",
        kind="identity",
        entries={
            "curvature": "λ, (D,)",
            "v": "θ* - θ0, (D,)",
            "bases": "subspaces, each (D, d), that are equally likely",
            "c": "c",
        },
        sides=_t50b,
        sampler=_law_sample,
        hypotheses=(
            Hypothesis(
                "alike",
                "every curvature is 0 or one positive number",
                lambda x: bool(np.all(x["curvature"] >= 0)) and len({*x["curvature"]} - {0}) == 1,
                with_entries(_pair, curvature=as_fractions([1, 4]), c=F(1, 2)),
            ),
            Hypothesis(
                "isotropic",
                r"$E\,P=\frac dkI$ on the $k$ curved directions, as of Gaussian subspaces",
                _is_isotropic,
                with_entries(_pair, bases=lambda x: x["bases"][:1], v=as_fractions([1, 0])),
            ),
            Hypothesis(
                "c",
                r"$\sum c\lambda_i/(1+c\lambda_i)=d$",
                lambda x: (
                    x["c"] > 0
                    and (x["c"] * x["curvature"] / (1 + x["c"] * x["curvature"])).sum()
                    == x["bases"][0].shape[1]
                ),
                with_entries(_pair, c=lambda x: 2 * x["c"]),
            ),
        ),
        mutant=Mutant("without the half", lambda x: (_t50b(x)[0], 2 * _t50b(x)[1]), _pair),
        proof="Within k directions of curvature λ the gap is λ/2 ‖(I - P) v‖², with mean λ/2 (1 - d/k) ‖v‖², "
        "and 1 + cλ = k/(k - d). For a Gaussian line in the plane the mean of λ1 g1²/(λ1 g1² + λ2 g2²) is "
        "√λ1/(√λ1 + √λ2), which is cλ1/(1 + cλ1) for c = 1/√(λ1 λ2).",
        source="after Derezinski, Liang, Liao and Mahoney 2020 (recalled); the exact cases are our own form",
        certificates=("gaussian_line",),
        status=ProofStatus.enumerated("coordinate subspaces of k <= 5 curved directions"),
        exact_check=_enumerate_t50b,
    )
)
