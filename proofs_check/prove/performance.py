"""Performance-estimation certificates: solved as a semidefinite program, then made exact.

A tight certificate cannot be rounded as it is, because its Gram form S is singular. The worst function, which
is known in closed form, gives the kernel exactly: S V = 0 for the vectors V of the witness, and only
inequalities that are equalities there get a multiplier. These are linear equations with rational
coefficients, so a rounded interior solution is put back on them exactly, and S stays positive on the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from proofs_check import assembler
from proofs_check.prove import Found
from proofs_check.rational import reduced, transpose

Witness = tuple[dict[tuple[str, str], list[Fraction]], dict[str, Fraction]]
HALF = Fraction(1, 2)


def certificate_data(
    setting: str,
    rates: list[Fraction],
    multipliers: dict[str, Fraction],
    witness: Witness,
    **parameters: int | Fraction,
) -> dict:
    """Write a claim whose rates the witness attains in integers."""
    vectors, values = witness
    return {
        "setting": setting,
        "parameters": {k: _pair(v) if isinstance(v, Fraction) else v for k, v in parameters.items()},
        "rates": [_pair(rate) for rate in rates],
        "tight": 1,
        "multipliers": {name: _pair(m) for name, m in multipliers.items() if m},
        "witness": {
            "vectors": {":".join(key): [_pair(x) for x in v] for key, v in vectors.items()},
            "values": {name: _pair(v) for name, v in values.items()},
        },
    }


def solve(built: assembler.Setting, witness: Witness) -> Iterator[dict[str, Fraction]]:
    """Solve for the multipliers; yields candidates of growing denominators, each exact on the equations.

    Args:
        built: the setting at its tight rates.
        witness: vectors and values where the claim is an equality.

    Raises:
        ValueError: if no certificate has the kernel of the witness.

    """
    import cvxpy as cp

    active = {k: g for k, g in built.inequalities.items() if assembler.evaluate(g, *witness) == 0}
    forms = [built.claim, *active.values()]
    symbols = assembler.blocks(*forms)
    grams = {b: [assembler.gram(form, b, names) for form in forms] for b, names in symbols.items()}
    equations = []  # rows (coefficients of the multipliers, right side)
    for key in sorted({key for form in forms for key in form if key[0] == "f"}):
        equations.append([form.get(key, Fraction()) for form in forms])
    kernels = {b: [witness[0][b, name] for name in names] for b, names in symbols.items()}
    for b in symbols:
        for column in transpose(kernels[b]):
            for i in range(len(symbols[b])):
                row = [sum((g[i][j] * x for j, x in enumerate(column)), Fraction()) for g in grams[b]]
                equations.append(row)
    system, pivots = reduced([[*row[1:], row[0]] for row in equations])
    if len(active) in pivots:
        raise ValueError("no multipliers have the kernel of the witness")
    multipliers, margin = cp.Variable(len(active)), cp.Variable()
    a = np.array([[float(x) for x in row[1:]] for row in equations])
    rest = np.array([float(row[0]) for row in equations])
    constraints = [a @ multipliers == rest]
    for b in symbols:
        span = np.array([[float(x) for x in row] for row in kernels[b]])
        left, values, _ = np.linalg.svd(span)
        free = left[:, int((values > 1e-9).sum()) :]
        if free.shape[1]:
            g = [free.T @ np.array([[float(x) for x in row] for row in m]) @ free for m in grams[b]]
            form = g[0] - sum(multipliers[k] * g[k + 1] for k in range(len(active)))
            constraints.append((form + form.T) / 2 >> margin * np.eye(free.shape[1]))
    # Interior multipliers can be rounded; where there are none, some are exactly zero.
    for least in (margin, 0):
        cp.Problem(cp.Maximize(margin), [*constraints, multipliers >= least]).solve(solver=cp.CLARABEL)
        if (margin.value or 0) > 1e-7:
            break
    else:
        raise ValueError(f"no certificate is positive off the kernel of the witness: margin {margin.value}")
    found = np.asarray(multipliers.value)
    for digits in range(2, 10):
        values = [Fraction(x).limit_denominator(10**digits) for x in found]
        for row, pivot in zip(system, pivots, strict=False):
            others = (c * values[k] for k, c in enumerate(row[:-1]) if k != pivot and c)
            values[pivot] = row[-1] - sum(others, Fraction())
        yield dict(zip(active, values, strict=True))


def huber(steps: int, h: Fraction, two_blocks: bool) -> Witness:
    """Return the worst function of T09, T10: Huber(Px) + ||Qx||^2/2, slope delta = 1/(2Nh + 1), x0 = 1."""
    delta = 1 / (2 * steps * h + 1)
    vectors, values = {("P", "x"): [Fraction(1)]}, {}
    for k in range(steps + 1):
        vectors["P", f"g{k}"] = [delta]
        values[f"f{k}"] = delta * (1 - k * h * delta) - delta**2 / 2 + HALF * two_blocks
    if two_blocks:
        vectors |= {("Q", name): [Fraction(1)] for name in ["x", *(f"g{k}" for k in range(steps + 1))]}
    return vectors, values


def closed_form(steps: int, h: Fraction) -> dict[str, Fraction]:
    """Return the multipliers for every N: m_k = k/(2N+1-k) on (k-1 > k), differences on (* > k).

    They are those of Drori, Teboulle (2014), proof of Theorem 3.1, found there for h <= 1.
    """
    m = [Fraction(k, 2 * steps + 1 - k) for k in range(steps + 1)] + [Fraction(1)]
    chain = {f"{k - 1}>{k}": m[k] for k in range(1, steps + 1)}
    return chain | {f"*>{k}": m[k + 1] - m[k] for k in range(steps + 1)}


def candidates(
    setting: str, rates: list[Fraction], witness: Witness, **parameters: int | Fraction
) -> Iterator[dict]:
    """Solve a setting at its tight rates; yields data of growing denominators."""
    built = assembler.SETTINGS[setting].build(rates, **parameters)
    for multipliers in solve(built, witness):
        yield certificate_data(setting, rates, multipliers, witness, **parameters)


def _rates(two_blocks: bool) -> Found:
    setting = "gradient_descent" if two_blocks else "gradient_descent_in_subspace"
    for h, most in ((Fraction(1), 10), (HALF, 5)):
        for steps in range(1, most + 1):
            rates, witness = assembler.descent_rates(h, steps, two_blocks), huber(steps, h, two_blocks)
            about: dict[str, Any] = {"h": h, "steps": steps}
            label = f"{steps}-steps-{h.numerator}-{h.denominator}"
            yield f"{label}-sdp", "performance", candidates(setting, rates, witness, **about)
            closed = certificate_data(setting, rates, closed_form(steps, h), witness, **about)
            yield f"{label}-closed", "performance", [closed]


def rate_in_subspace() -> Found:
    """T09: the tight rate of gradient descent, by a solver and in closed form."""
    return _rates(two_blocks=False)


def rate_in_whole_space() -> Found:
    """T10: the same with the part across the subspace."""
    return _rates(two_blocks=True)


def _half(setting: str) -> Found:
    yield setting, "performance", candidates(setting, [HALF], _quadratic(setting))


# The settings of one point or two; every rate is 1/2 and ||x||^2 / 2 attains it.
gap_above, gap_below, sandwich_below, sandwich_above, subspace_descent = (
    partial(_half, setting)
    for setting in ("gap_above", "gap_below", "sandwich_below", "sandwich_above", "subspace_descent")
)


def _quadratic(setting: str) -> Witness:
    """Return f = ||y - c||^2 / 2 as a setting of one point or two sees it; for T05 f is linear across P."""
    moving, still = ("P", "Q") if setting == "subspace_descent" else ("Q", "P")
    vectors = {(moving, name): [Fraction(1)] for name in "xg"} | {
        (still, name): [Fraction()] for name in "xg"
    }
    vectors |= {(block, "h"): [Fraction()] for block in "PQ"}
    if setting == "subspace_descent":
        vectors |= {("Q", name): [Fraction(1)] for name in "gh"}
    return vectors, {"f": HALF, "fy": Fraction()}


def _pair(x: Any) -> list[int]:
    return [Fraction(x).numerator, Fraction(x).denominator]
