"""Lipschitz constants of activations (T48): boxes for the verifier's intervals, and the constant from Arb.

Beyond the boxes: for x >= 8 GELU' falls (its curvature is phi(x)(2 - x^2)) and SiLU' <= 1 + x exp(-x), which
falls too; for x < 0 both satisfy f'(-x) = 1 - f'(x), so the least slope is 1 minus the greatest.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from proofs_check import expressions, intervals
from proofs_check.instances import SLOPES
from proofs_check.prove import Found

DIGITS = 10**12


def gelu_constant() -> tuple[Fraction, Fraction]:
    """Return (where, upper bound): Phi(sqrt 2) + sqrt 2 phi(sqrt 2) by Arb, rounded up to 12 digits."""
    import flint

    root = flint.arb(2).sqrt()
    value = (1 + flint.arb(1).erf()) / 2 + root * flint.arb(-1).exp() / (2 * flint.arb.pi()).sqrt()
    return _rational(root), _above(value)


def silu_constant() -> tuple[Fraction, Fraction]:
    """Return (where, upper bound): the root of x tanh(x/2) = 2 by bisection in Arb, and the slope there."""
    import flint

    low, high = flint.arb(2), flint.arb(3)
    for _ in range(45):
        mid = ((low + high) / 2).mid()
        low, high = (mid, high) if mid * (mid / 2).tanh() < 2 else (low, mid)
    x = low.union(high)
    sigmoid = 1 / (1 + (-x).exp())
    return _rational(low), _above(sigmoid + x * sigmoid * (1 - sigmoid))


def certificate_data(name: str, where: Fraction, bound: Fraction) -> dict:
    """Split the domain until the verifier's bound on the slope holds on every box."""
    domain, tree = SLOPES[name], SLOPES[name].slope

    def f(x: intervals.Jet) -> intervals.Jet:
        return expressions.over_jet(tree, x)

    breaks, waiting = [domain.low], [(domain.low, domain.high)]
    while waiting:
        low, high = waiting.pop()
        if intervals.bound_above(f, low, high) <= bound:
            breaks.append(high)
        elif high - low < Fraction(1, DIGITS):
            raise ValueError(f"the bound {bound} does not hold near {low}")
        else:
            waiting += [((low + high) / 2, high), (low, (low + high) / 2)]
    numbers = {"bound": bound, "attained": where, "gap": Fraction(10, DIGITS)}
    data = {name: [value.numerator, value.denominator] for name, value in numbers.items()}
    boxes = [[value.numerator, value.denominator] for value in breaks]
    return {"name": name, "breaks": boxes, **data}


def slopes() -> Found:
    """T48: bounds on the slopes of GELU and SiLU."""
    yield "gelu", "interval", [certificate_data("gelu", *gelu_constant())]
    yield "silu", "interval", [certificate_data("silu", *silu_constant())]


def _rational(x: Any) -> Fraction:
    return Fraction(int((x * DIGITS).floor().unique_fmpz()), DIGITS)


def _above(x: Any) -> Fraction:
    return Fraction(int(((x * DIGITS).floor() + 2).unique_fmpz()), DIGITS)
