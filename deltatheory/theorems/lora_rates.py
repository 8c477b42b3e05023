"""Learning rates of LoRA's two factors: what each moves, and how the rates have to grow with width (T54).

One output f = b <a, x> with the loss ½ (f - y)², as in LoRA+.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import as_fractions
from deltatheory.theorems.instances import Instance, array_source, meanings, with_entries
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction
_ENTRIES = {
    "a": "down-projection, (n,)",
    "b": "up-projection",
    "x": "features, (n,)",
    "y": "target",
    "eta_a": "learning rate of a",
    "eta_b": "learning rate of b",
    "order": '"together", or "in turn": b sees the new a',
}


def _one_output(seed: int, wide: bool = False) -> Instance:
    draw = array_source(seed, wide)
    b, y, eta_a, eta_b = draw(4)
    signs = as_fractions(np.random.default_rng(seed).choice([-1, 1], 3))
    x = {"a": draw(3), "b": b, "x": signs, "y": y, "eta_a": eta_a, "eta_b": eta_b}
    return x | {"order": "together"}


def _units(seed: int) -> Instance:
    ones = as_fractions([1, 1])
    x = {"a": ones, "b": F(1), "x": ones, "y": F(-1 - seed), "eta_a": F(1, 2), "eta_b": F(1, 4)}
    return x | {"order": "together"}


def _after(x: Instance, together: bool = True) -> tuple[np.ndarray, Any]:
    """Return a and b after a step."""
    error = x["b"] * (x["a"] @ x["x"]) - x["y"]
    a = x["a"] - x["eta_a"] * error * x["b"] * x["x"]
    return a, x["b"] - x["eta_b"] * error * ((x["a"] if together else a) @ x["x"])


def _t54a(x: Instance, product: int = 1):
    a, b = _after(x, x["order"] == "together")
    code, size = x["a"] @ x["x"], x["x"] @ x["x"]
    error = x["b"] * code - x["y"]
    from_a, from_b = -x["eta_a"] * error * x["b"] ** 2 * size, -x["eta_b"] * error * code**2
    both = x["eta_a"] * x["eta_b"] * error**2 * x["b"] * code * size
    return b * (a @ x["x"]) - x["b"] * code, from_a + from_b + product * both


T54a = register(
    Theorem(
        id="T54a",
        name="what each factor of LoRA moves",
        latex=r"\Delta f=-\eta_Ab^2\|x\|^2U-\eta_B\langle a,x\rangle^2U+\eta_A\eta_BU^2b\langle a,x\rangle"
        r"\|x\|^2,\quad U=f-y",
        words="a step of both factors changes the output by a part of each and a product of both",
        kind="identity",
        entries=_ENTRIES,
        sides=_t54a,
        sampler=_one_output,
        hypotheses=(
            Hypothesis(
                "together",
                "both factors step from the same point",
                lambda x: x["order"] == "together",
                with_entries(_units, order="in turn"),
            ),
        ),
        mutant=Mutant("without the product", lambda x: _t54a(x, 0), _units),
        proof="(b - η_B U <a, x>) <a - η_A U b x, x>, multiplied out.",
        source="Hayou, Ghosh and Yu 2024",
        certificates=("factor_moves",),
        status=ProofStatus.expanded("2 features"),
        exact_check=identity_test(_t54a, _one_output),
    )
)


def _t54b(x: Instance):
    a, b = _after(x)
    code = x["a"] @ x["x"]
    from_a, from_b = x["b"] * (a @ x["x"] - code), (b - x["b"]) * code
    return x["eta_b"] / x["eta_a"], len(x["a"]) * (x["b"] / code) ** 2 * from_b / from_a


T54b = register(
    Theorem(
        id="T54b",
        name="rates of the factors grow apart with width",
        latex=r"\frac{\eta_B}{\eta_A}=n\,\Bigl(\frac b{\langle a,x\rangle}\Bigr)^2\frac{\Delta_Bf}{\Delta_Af}"
        r"\quad\text{for }\|x\|^2=n",
        words="both factors move the output alike only if the rate of B is n times that of A, times what "
        "does not depend on the width: with one rate for both, A does all or B does nothing",
        kind="identity",
        entries=meanings(_ENTRIES, "a b x y eta_a eta_b"),
        sides=_t54b,
        sampler=_one_output,
        hypotheses=(
            Hypothesis(
                "features of size one",
                r"$\|x\|^2=n$",
                lambda x: x["x"] @ x["x"] == len(x["x"]),
                with_entries(_units, x=lambda x: 2 * x["x"]),
            ),
        ),
        mutant=Mutant("without the width", lambda x: (_t54b(x)[0], _t54b(x)[1] / len(x["a"])), _units),
        proof="Moved alone, A changes f by -η_A U b² ‖x‖² and B by -η_B U <a, x>².",
        source="after Hayou, Ghosh and Yu 2024",
        status=ProofStatus.identity_tested(30),
        exact_check=identity_test(_t54b, _one_output),
    )
)
