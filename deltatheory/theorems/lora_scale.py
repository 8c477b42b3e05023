"""The scale of LoRA that keeps the first update alike at every rank: s ~ 1/√r (T55)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, agree_exactly
from deltatheory.theorems.exact import eye, random_fractions, squared_norm
from deltatheory.theorems.instances import Instance, with_entries
from deltatheory.theorems.sketch_laws import ENTRIES, independent, mean
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction
_ENTRIES = ENTRIES | {
    "G": "gradient in the weight, (m, n)",
    "eta": "learning rate",
    "s2": "s², the square of the scale",
    "alpha2": "α², the same for all ranks",
}
SHAPES = ((1, 2), (2, 2), (2, 1), (1, 3), (3, 1))  # r, n


def _update(x: Instance, gram: np.ndarray) -> np.ndarray:
    """Return the first update -η s² G AᵀA (T29)."""
    return -x["eta"] * x["s2"] * (x["G"] @ gram)


def _first_update(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    r, n = SHAPES[seed % len(SHAPES)]
    alpha2, eta = F(int(rng.integers(1, 9)), 2), F(1, int(rng.integers(1, 9)))
    x = {"G": random_fractions(rng, 2, n) + F(1, 7), "r": r, "q": F(1, int(rng.integers(1, 4)))}
    return x | {"C": eye(n), "eta": eta, "alpha2": alpha2, "s2": alpha2 / r}


def _square(seed: int) -> Instance:
    return _first_update(5 * seed + 1)


def _scale(violating) -> Hypothesis:
    return Hypothesis(
        "scale",
        r"$s=\alpha/\sqrt r$",
        lambda x: x["s2"] * x["r"] == x["alpha2"],
        with_entries(violating, s2=lambda x: x["alpha2"] / x["r"] ** 2),  # LoRA's own α/r
    )


def _t55a(x: Instance):
    return mean(x, lambda gram: _update(x, gram)), -x["eta"] * x["alpha2"] * x["G"]


T55a = register(
    Theorem(
        id="T55a",
        name="the first update at every rank",
        latex=r"E\,\Delta W=-\eta s^2r\,G=-\eta\alpha^2G\quad\text{for }s=\alpha/\sqrt r",
        words="with the scale α/√r the mean of LoRA's first update is the same at every rank; with α/r it "
        "shrinks as 1/r",
        kind="identity",
        entries=_ENTRIES,
        sides=_t55a,
        sampler=_first_update,
        hypotheses=(_scale(_square), independent(_square)),
        mutant=Mutant("α² r", lambda x: (_t55a(x)[0], _t55a(x)[1] * x["r"]), _square),
        proof="T29 and E AᵀA = r I.",
        source="own form; after Kalajdzievski 2023, theorem 3.2",
        status=ProofStatus.enumerated("all A of 3 values an entry, r n <= 4, three laws"),
        exact_check=lambda: agree_exactly(_t55a, _first_update, 15),
    )
)


def _t55b(x: Instance):
    r, n = x["r"], len(x["C"])
    size = (x["eta"] * x["alpha2"]) ** 2 * squared_norm(x["G"])
    return mean(x, lambda gram: squared_norm(_update(x, gram))), size * (r + n - 2 + 1 / x["q"]) / r


T55b = register(
    Theorem(
        id="T55b",
        name="the size of the first update",
        latex=r"E\,\|\Delta W\|^2=\eta^2\alpha^4\|G\|^2\bigl(1+\tfrac{n-2+\kappa}r\bigr),\quad "
        r"\kappa=E\,a_{ij}^4",
        words="around its mean the first update spreads over n/r times the gradient's energy: at small rank "
        "nearly all of it is noise (Gaussian: κ = 3, signs: κ = 1)",
        kind="identity",
        entries=_ENTRIES,
        sides=_t55b,
        sampler=_first_update,
        hypotheses=(_scale(_square), independent(_square)),
        mutant=Mutant(
            "without the fourth moment", lambda x: (_t55b(x)[0], _t55b(x | {"q": 1 + x["q"]})[1]), _square
        ),
        proof="(AᵀA)² is a sum over pairs of rows: r (r - 1) I from unlike ones, r (n - 1 + κ) I from like.",
        source="own form",
        certificates=("sign_moments",),
        status=ProofStatus.enumerated("all A of 3 values an entry, r n <= 4, three laws"),
        exact_check=lambda: agree_exactly(_t55b, _first_update, 15),
    )
)
