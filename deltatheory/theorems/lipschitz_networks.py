"""What a Lipschitz constant carries over, and a certificate for two layers (T17, X3)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    diagonal,
    eye,
    inverse,
    is_psd,
    random_fractions,
    random_positive,
    squared_norm,
    trace,
)
from deltatheory.theorems.instances import Instance, with_entries
from deltatheory.theorems.intervals import sqrt
from deltatheory.theorems.loss_functions import Separable
from deltatheory.theorems.splines import Spline, huber, parabola
from deltatheory.theorems.subspace_instances import axes
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T17: transfer ----


def _pair(seed: int) -> Instance:
    """Return a spline, an interval, its Lipschitz constant there, and two points of the interval."""
    rng = np.random.default_rng(seed)
    f = Spline((F(-1), F(0), F(2)), tuple(random_fractions(rng, 4)), random_fractions(rng, 1)[0], F(0))
    low, high = -random_positive(rng, 1)[0], random_positive(rng, 1)[0]
    x = {"f": f, "pieces": [(low, high)]}
    a, b = (low + (high - low) * F(int(k), 8) for k in rng.integers(0, 9, 2))
    return x | {"a": a, "b": b, "L": _steepest(x)}


def _steepest(x: Instance) -> Any:
    """Return the largest |f'| on the set: at its ends and at the knots in it."""
    f = x["f"]
    points = [p for low, high in x["pieces"] for p in (low, high, *(k for k in f.knots if low <= k <= high))]
    return max(abs(f.gradient(p)) for p in points)


def _line(seed: int) -> Instance:
    slope = F(seed + 1)
    x = {"f": Spline((F(0),), (F(0), F(0)), slope, F(0)), "pieces": [(F(-1), F(1))]}
    return x | {"a": F(-1), "b": F(1), "L": slope}


def _step(seed: int) -> Instance:
    """Return a function that is flat on two intervals and climbs between them."""
    height = F(seed + 1)
    knots, slopes = (F(0), F(1), F(2)), (F(0), height, -height, F(0))
    f = Spline(knots, slopes, F(0), F(0))
    return {"f": f, "pieces": [(F(-1), F(0)), (F(2), F(3))], "a": F(0), "b": F(2), "L": F(0)}


def _t17a(x: Instance):
    return abs(x["f"].value(x["a"]) - x["f"].value(x["b"])), x["L"] * abs(x["a"] - x["b"])


T17a = register(
    Theorem(
        id="T17a",
        name="Lipschitz transfer",
        latex=r"|F(\theta^+)-F(\theta_0+\psi(\delta))|\le L_F\|\theta^+-\theta_0-\psi(\delta)\|",
        words="weights that are close have close losses, with the constant of a convex set that holds both",
        kind="tight",
        entries={
            "f": "function of one variable, a `Spline`",
            "pieces": "intervals (low, high) whose union is the set",
            "a": "point",
            "b": "point",
            "L": "Lipschitz constant on each piece",
        },
        sides=_t17a,
        sampler=_pair,
        hypotheses=(
            Hypothesis(
                "Lipschitz on the set",
                "$F$ is $L_F$-Lipschitz on each piece of the set",
                lambda x: _steepest(x) <= x["L"],
                with_entries(_line, L=lambda x: x["L"] / 2),
            ),
            Hypothesis(
                "both inside",
                "both points are in the set (a local constant says nothing outside)",
                lambda x: all(any(l <= p <= h for l, h in x["pieces"]) for p in (x["a"], x["b"])),
                lambda seed: _line(seed) | {"f": parabola(F(1)), "L": F(1), "a": F(0), "b": F(seed + 5)},
            ),
            Hypothesis("convex set", "the set is convex", lambda x: len(x["pieces"]) == 1, _step),
        ),
        mutant=Mutant.scaled(_t17a, JUST_BELOW_ONE, _line),
        extremal=_line,
        proof="The segment between the points stays in the set.",
        source="own form; after Ding et al. 2023 (recalled)",
        status=ProofStatus.searched(),
    )
)


def _near_optimum(seed: int) -> Instance:
    """Return a sum of Huber functions, its subspace optimum, and a target anywhere."""
    rng = np.random.default_rng(seed)
    D, c = int(rng.integers(2, 5)), F(1, 2)
    d = int(rng.integers(1, D))
    target, x0 = random_fractions(rng, D), random_fractions(rng, D)
    best = x0 * as_fractions([0] * d + [1] * (D - d))
    f = Separable((huber(F(2), c),) * D)
    return {"f": f, "A": axes(D, d), "x0": x0, "target": target, "at": best, "L": F(D)}


def _slope_bound(f: Separable) -> Any:
    """Return Σ sup|s_i'|, at least sup ‖∇f‖; `None` if infinite."""
    tops = [s.largest_derivative for s in f.parts]
    return None if None in tops else sum(tops)


def _ramp(seed: int) -> Instance:
    """Return the linear side of a Huber function, across S: equality."""
    f = Separable((huber(F(1), F(1)), Spline((F(0),), (F(0), F(0)), F(0), F(0))))
    far = F(seed + 3)
    x = {"f": f, "A": as_fractions([[0], [1]]), "x0": as_fractions([far, 0]), "target": as_fractions([1, 0])}
    return x | {"at": x["x0"], "L": F(1)}


def _t17b(x: Instance):
    away = (x["x0"] - x["target"]) * as_fractions([int(not row.any()) for row in x["A"]])
    return x["f"].value(x["at"]) - x["f"].value(x["target"]), x["L"] * sqrt(squared_norm(away))


T17b = register(
    Theorem(
        id="T17b",
        name="transfer of minimisers",
        latex=r"F(\psi(\delta^+))-F(\theta^+)\le L_F\,\mathrm{dist}(\theta^+,\mathrm{range}\,\psi)",
        words="the best delta loses at most the Lipschitz constant times the distance of full fine-tuning "
        "from what the delta can express",
        kind="tight",
        entries={
            "f": "sum of splines, `Separable`",
            "A": "axes that span the range of ψ, (D, d)",
            "x0": "θ₀, (D,)",
            "target": "θ⁺, (D,)",
            "at": "ψ(δ⁺), (D,)",
            "L": "Lipschitz constant of f",
        },
        sides=_t17b,
        sampler=_near_optimum,
        hypotheses=(
            Hypothesis(
                "Lipschitz",
                "$F$ is $L_F$-Lipschitz between $\\theta^+$ and its projection",
                lambda x: (bound := _slope_bound(x["f"])) is not None and bound <= x["L"],
                lambda seed: _ramp(seed) | {"f": Separable((parabola(F(1)), _ramp(0)["f"].parts[1]))},
            ),
            Hypothesis(
                "best delta",
                r"$\delta^+$ minimises $F\circ\psi$",
                lambda x: x["f"].value(x["at"]) <= x["f"].minimum_on(x["x0"], x["A"]),
                lambda seed: (
                    _ramp(seed)
                    | {"f": Separable((huber(F(1), F(1, 2)),) * 2), "at": as_fractions([seed + 3, 9])}
                ),
            ),
        ),
        mutant=Mutant.scaled(_t17b, JUST_BELOW_ONE, _ramp),
        extremal=_ramp,
        proof="F(ψ(δ+)) is at most F at the projection of θ+; T17a.",
        source="own form; after Ding et al. 2023 (recalled)",
        status=ProofStatus.searched(),
    )
)


# ---- X3: LipSDP-Neuron ----


def _lmi(x: Instance) -> np.ndarray:
    W0, W1, T = x["W0"], x["W1"], x["T"]
    top = np.concatenate([x["L2"] * eye(W0.shape[1]), -W0.T @ T], 1)
    return np.concatenate([top, np.concatenate([-T @ W0, 2 * T - W1.T @ W1], 1)])


def _two_layer(seed: int) -> Instance:
    """Return W1 φ(W0 x + b) with a feasible diagonal T and the L² that it certifies."""
    rng = np.random.default_rng(seed)
    h, d = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    W0, W1, b = random_fractions(rng, h, d), random_fractions(rng, 1, h), random_fractions(rng, h)
    T = diagonal(random_positive(rng, h) + squared_norm(W1))
    L2 = trace(W0.T @ T @ inverse(2 * T - W1.T @ W1) @ T @ W0)  # Schur, with the trace for the norm
    points = {"x": random_fractions(rng, d), "y": random_fractions(rng, d) + F(1, 9)}
    return {"W0": W0, "W1": W1, "b": b, "T": T, "L2": L2, "slope": F(1)} | points


def _one_neuron(seed: int) -> Instance:
    x = {"W0": eye(1), "W1": eye(1), "b": as_fractions([0]), "T": eye(1), "L2": F(1), "slope": F(1)}
    return x | {"x": as_fractions([seed + 1]), "y": as_fractions([0])}


def _coupled(seed: int) -> Instance:
    """Return multipliers that couple neurons, as LipSDP's network mode has them: they certify L² = 5."""
    t = F(1, 100 + seed)
    T = t * eye(2) + 4 * as_fractions([[1, -1], [-1, 1]])
    x = {
        "W0": as_fractions([[-2, -2], [-2, -1]]),
        "W1": as_fractions([[-2, 2]]),
        "b": as_fractions([0, 0]),
        "T": T,
    }
    points = {"x": as_fractions([1, F(-3, 2)]), "y": as_fractions([F(9, 8), F(-11, 8)])}
    return x | points | {"L2": F(5), "slope": F(1)}


def _x3(x: Instance):
    def f(point: np.ndarray) -> np.ndarray:
        inner = x["W0"] @ point + x["b"]
        return x["W1"] @ (x["slope"] * np.maximum(inner, 0 * inner))

    return squared_norm(f(x["x"]) - f(x["y"])), x["L2"] * squared_norm(x["x"] - x["y"])


def _off_diagonal(T: np.ndarray) -> bool:
    return any(T[i, j] != 0 for i, j in np.ndindex(T.shape) if i != j)


X3 = register(
    Theorem(
        id="X3",
        name="LipSDP-Neuron",
        latex=r"\begin{pmatrix}L^2I&-W_0^\top T\\-TW_0&2T-W_1^\top W_1\end{pmatrix}\succeq0\ "
        r"\Rightarrow\ \mathrm{Lip}(W_1\phi(W_0\cdot+b))\le L",
        words="a diagonal matrix of multipliers certifies a Lipschitz constant of two layers; squared",
        kind="tight",
        entries={
            "W0": "(h, d)",
            "W1": "(k, h)",
            "b": "(h,)",
            "T": "multipliers, (h, h)",
            "L2": "L²",
            "slope": "of the activation, where it is not 0",
            "x": "point, (d,)",
            "y": "point, (d,)",
        },
        sides=_x3,
        sampler=_two_layer,
        hypotheses=(
            Hypothesis(
                "matrix inequality",
                "the block matrix is positive semidefinite",
                lambda x: is_psd(_lmi(x)),
                with_entries(_one_neuron, L2=F(1, 2)),
            ),
            Hypothesis(
                "diagonal multipliers",
                "$T$ is diagonal (the coupled multipliers of the `network` mode are unsound)",
                lambda x: not _off_diagonal(x["T"]),
                _coupled,
            ),
            Hypothesis(
                "slopes",
                r"the slopes of $\phi$ are in $[0,1]$",
                lambda x: 0 <= x["slope"] <= 1,
                with_entries(_one_neuron, slope=F(2)),
            ),
        ),
        mutant=Mutant.scaled(_x3, JUST_BELOW_ONE, _one_neuron),
        extremal=_one_neuron,
        proof="(Δφ)ᵀT(Δz - Δφ) >= 0 for slopes in [0, 1]; add it to the quadratic form.",
        source="Fazlyab et al. 2019, without their network mode",
        certificates=("two_units", "minilm_layer_0", "minilm_layer_5"),
        status=ProofStatus.searched(),
    )
)
