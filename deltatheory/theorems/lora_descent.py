"""Gradient descent on the factors of LoRA: the step of the weight, what is conserved, the descent (T52).

With the gradient G in the weight, g_B = s G Aᵀ and g_A = s Bᵀ G are those of the factors of W = W0 + s B A.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import as_fractions, eye, is_psd, squared_norm
from deltatheory.theorems.instances import Instance, array_source, meanings, with_entries
from deltatheory.theorems.intervals import sqrt
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction
_ENTRIES = {
    "B": "up-projection, (m, r)",
    "A": "down-projection, (r, n)",
    "G": "gradient in the weight, (m, n)",
    "s": "scale of the update",
    "eta": "learning rate",
    "order": '"together", or "in turn": A sees the new B',
    "optimizer": '"gradient descent" or "sign descent"',
    "h": "curvature of the loss",
    "L": "its smoothness",
    "a": "bound of ‖A‖₂",
    "b": "of ‖B‖₂",
    "g": "of ‖G‖₂",
}
_STEP = meanings(_ENTRIES, "B A G s eta order optimizer")


def _stepped(x: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors after a step."""
    B, A, G, s, eta = (x[name] for name in ("B", "A", "G", "s", "eta"))

    def taken(gradient: np.ndarray) -> np.ndarray:
        if x["optimizer"] == "sign descent":
            gradient = (gradient > 0) * 1 - (gradient < 0) * 1
        return eta * gradient

    after = B - taken(s * G @ A.T)
    return after, A - taken(s * (B if x["order"] == "together" else after).T @ G)


def _factors(seed: int, wide: bool = False) -> Instance:
    draw = array_source(seed, wide)
    s, eta = draw(2)
    x = {"B": draw(3, 2), "A": draw(2, 4), "G": draw(3, 4), "s": s, "eta": eta}
    return x | {"order": "together", "optimizer": "gradient descent"}


def _units(seed: int) -> Instance:
    """Return numbers in the place of matrices, with a step of 1."""
    one = as_fractions([[1]])
    x = {"B": one, "A": one * 2, "G": one * (seed + 3), "s": F(1), "eta": F(1)}
    return x | {"order": "together", "optimizer": "gradient descent"}


_PLAIN = (
    Hypothesis(
        "together",
        "both factors step from the same point",
        lambda x: x["order"] == "together",
        with_entries(_units, order="in turn"),
    ),
    Hypothesis(
        "plain gradient descent",
        "no rescaling of coordinates (Adam's first step is a sign)",
        lambda x: x["optimizer"] == "gradient descent",
        with_entries(_units, optimizer="sign descent"),
    ),
)


def _t52a(x: Instance):
    B, A, G, s, eta = (x[name] for name in ("B", "A", "G", "s", "eta"))
    B2, A2 = _stepped(x)
    first = G @ A.T @ A + B @ B.T @ G
    return s * (B2 @ A2 - B @ A), -eta * s**2 * first + eta**2 * s**3 * G @ A.T @ B.T @ G


T52a = register(
    Theorem(
        id="T52a",
        name="a step of LoRA in the weight",
        latex=r"\Delta W=-\eta s^2(GA^\top A+BB^\top G)+\eta^2s^3\,GA^\top B^\top G",
        words="a gradient step of both factors moves the weight by its gradient seen through both factors, "
        "and by a second-order term that no learning rate of a full weight has",
        kind="identity",
        entries=_STEP,
        sides=_t52a,
        sampler=_factors,
        hypotheses=_PLAIN,
        mutant=Mutant(
            "without the second order",
            lambda x: (_t52a(x)[0], _t52a(x | {"eta": x["eta"] / 10**9})[1] * 10**9),
            _units,
        ),
        proof="(B - η s G Aᵀ)(A - η s Bᵀ G), multiplied out.",
        source="own form; Mu and Klabjan 2025 use it",
        certificates=("lora_step",),
        status=ProofStatus.identity_tested(20),
        exact_check=identity_test(_t52a, _factors),
    )
)


def _t52b(x: Instance):
    B, A, G, s, eta = (x[name] for name in ("B", "A", "G", "s", "eta"))
    B2, A2 = _stepped(x)
    drift = A @ G.T @ G @ A.T - B.T @ G @ G.T @ B
    return B2.T @ B2 - A2 @ A2.T, B.T @ B - A @ A.T + eta**2 * s**2 * drift


T52b = register(
    Theorem(
        id="T52b",
        name="the balance of LoRA's factors",
        latex=r"B_+^\top B_+-A_+A_+^\top=B^\top B-AA^\top+\eta^2s^2(AG^\top GA^\top-B^\top GG^\top B)",
        words="gradient flow conserves BᵀB - AAᵀ, and a step changes it at second order only: from B = 0 and "
        "a large A the factors stay unbalanced",
        kind="identity",
        entries=_STEP,
        sides=_t52b,
        sampler=_factors,
        hypotheses=_PLAIN,
        mutant=Mutant(
            "nothing changes",
            lambda x: (_t52b(x)[0], _t52b(x | {"G": 0 * x["G"]})[1]),
            _units,
        ),
        proof="The terms of first order are -η s (A Gᵀ B + Bᵀ G Aᵀ) on both sides of the difference.",
        source="classical for deep linear networks (Arora, Cohen and Hazan 2018)",
        certificates=("lora_step",),
        status=ProofStatus.identity_tested(20),
        exact_check=identity_test(_t52b, _factors),
    )
)


# ---- T52c: the descent inequality ----


def _moved(x: Instance, name: str, gradient: np.ndarray) -> np.ndarray:
    return x[name] - x["eta"] * x["s"] * gradient


def _slope(x: Instance):
    """Return ‖g_B‖² + ‖g_A‖²."""
    return x["s"] ** 2 * (squared_norm(x["G"] @ x["A"].T) + squared_norm(x["B"].T @ x["G"]))


def _t52c(x: Instance):
    s, eta, slope, both = x["s"], x["eta"], _slope(x), x["a"] ** 2 + x["b"] ** 2
    change = s * (_moved(x, "B", x["G"] @ x["A"].T) @ _moved(x, "A", x["B"].T @ x["G"]) - x["B"] @ x["A"])
    left = (x["G"] * change).sum() + x["h"] / 2 * squared_norm(change) + eta * slope
    # (η s sqrt(both · slope) + η² s slope / 2)²
    size = eta**2 * s**2 * slope * (both + eta * sqrt(both * slope) + eta**2 * slope / 4)
    return left, eta**2 * s * x["g"] * slope / 2 + x["L"] / 2 * size


def _loss_sample(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    x = _factors(seed)
    x |= {"s": abs(x["s"]), "eta": F(1, int(rng.integers(2, 50))), "L": F(int(rng.integers(1, 5)))}
    x |= {"h": x["L"] * F(int(rng.integers(-4, 5)), 4)}
    # The Frobenius norm, rounded up, bounds the spectral one.
    return x | {k: F(int(float(squared_norm(x[v])) ** 0.5) + 1) for k, v in zip("abg", "ABG", strict=True)}


def _linear(seed: int) -> Instance:
    """Return a linear loss of one weight, where only the second order of the step counts."""
    one = as_fractions([[1]])
    x = {"B": one, "A": one, "G": one * (seed + 1), "s": F(2), "eta": F(1, 5), "h": F(0), "L": F(0)}
    return x | {"a": F(1), "b": F(1), "g": F(seed + 1)}


_steep = with_entries(_linear, G=lambda x: -x["G"], h=F(1000), L=F(1000), eta=F(1, 10), s=F(1))


def _bounds(matrix: str, bound: str, violator) -> Hypothesis:
    def predicate(x: Instance) -> bool:
        M = x[matrix]
        return x[bound] >= 0 and is_psd(x[bound] ** 2 * eye(M.shape[1]) - M.T @ M)

    return Hypothesis(f"norm of {matrix}", rf"$\|{matrix}\|_2\le {bound}$", predicate, violator)


T52c = register(
    Theorem(
        id="T52c",
        name="descent of LoRA",
        latex=r"f(W_+)-f(W)\le-\eta\|g\|^2+\tfrac{\eta^2s}2\|G\|_2\|g\|^2+\tfrac L2\bigl(\eta s\sqrt{"
        r"\|A\|_2^2+\|B\|_2^2}\,\|g\|+\tfrac{\eta^2s}2\|g\|^2\bigr)^2",
        words="a step on the factors goes down if the learning rate is small against the curvature, the "
        "factors and the gradient itself: LoRA's loss has no global smoothness constant",
        kind="tight",
        entries=meanings(_ENTRIES, "B A G s eta h L a b g"),
        sides=_t52c,
        sampler=_loss_sample,
        hypotheses=(
            Hypothesis(
                "L-smooth",
                r"$\nabla f$ is $L$-Lipschitz",
                lambda x: abs(x["h"]) <= x["L"],
                with_entries(_linear, h=F(1)),
            ),
            Hypothesis(
                "a step downhill",
                r"$\eta\ge0$, $s\ge0$",
                lambda x: x["eta"] >= 0 and x["s"] >= 0,
                with_entries(_linear, s=F(-2), B=lambda x: -x["B"]),
            ),
            _bounds("A", "a", with_entries(_steep, a=F(0))),
            _bounds("B", "b", with_entries(_steep, b=F(0))),
            _bounds("G", "g", with_entries(_linear, g=lambda x: x["g"] / 2)),
        ),
        mutant=Mutant.scaled(_t52c, JUST_BELOW_ONE, _linear),
        extremal=_linear,
        proof="Descent lemma with T52a: <G, g_B A + B g_A> = ‖g‖²/s, <G, g_B g_A> <= ‖G‖₂ ‖g_B‖ ‖g_A‖, and "
        "‖g_B A + B g_A‖ <= sqrt(‖A‖₂² + ‖B‖₂²) ‖g‖.",
        source="own constants; after Mu and Klabjan 2025, lemma 3.3",
        status=ProofStatus.searched(),
    )
)
